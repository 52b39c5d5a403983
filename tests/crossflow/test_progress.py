"""Progress of a long stage where stderr is no terminal: lines with rate and time left, of this process's own work."""

from contextlib import contextmanager

import pytest

from crossflow.files import progress as module
from crossflow.files.progress import chunks, duration, progress, silent


def test_a_line_every_half_minute_counts_what_was_there_before(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    with progress("generate", "outputs") as at:
        at(400, 1000)
        for done in (410, 420, 440, 450):
            now += 10
            at(done, 1000)
    assert capsys.readouterr().err == "generate: 440 of 1,000 outputs, 1.33 outputs/s, 7 min left\n"


def test_the_rate_is_not_that_of_finding_what_is_there(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    with progress("drawing", "images") as at:
        at(0, 1000)
        now += 40
        at(620, 1000, there=600)
    assert capsys.readouterr().err == "drawing: 620 of 1,000 images, 0.5 images/s, 13 min left\n"


def test_chunks_say_where_they_start_and_how_many_are_done():
    said = []

    @contextmanager
    def begin(stage, unit):
        yield lambda done, total: said.append((stage, unit, done, total))

    assert list(chunks(begin, "drawing", "scenes", 5, 2, there=10)) == [0, 2, 4]
    assert said == [("drawing", "scenes", done, 15) for done in (10, 12, 14, 15)]
    assert list(chunks(silent, "drawing", "scenes", 3, 2)) == [0, 2]


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
