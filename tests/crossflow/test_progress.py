"""Progress of a long stage where stderr is no terminal: lines with rate and time left, of this process's own work."""

import pytest

from crossflow.files import progress as module
from crossflow.files.progress import duration, progress


def test_a_line_every_half_minute_counts_what_was_there_before(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    with progress("generate", "outputs") as at:
        at(400, 1000)
        for done in (410, 420, 440, 450):
            now += 10
            at(done, 1000)
    assert capsys.readouterr().err == "generate: 440 of 1,000 outputs, 1.33 outputs/s, 7 min left\n"


def test_nothing_is_shown_where_nothing_is_wanted(monkeypatch, capsys):
    monkeypatch.setattr(module, "EVERY", 0.0)
    with progress("generate", "outputs", show=False) as at:
        at(1, 2)
    with progress("read", "files") as at:
        at(1, None)
    assert capsys.readouterr().err == "read: 1 files\n"


@pytest.mark.parametrize(("seconds", "said"), [(40.4, "40 s"), (180.0, "3 min"), (7500.0, "2 h 5 min")])
def test_durations_are_said_in_words(seconds, said):
    assert duration(seconds) == said
