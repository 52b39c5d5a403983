"""The entries of a report from the folders of finished runs, with the references that each run stands between."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from crossflow.errors import CrossFlowError
from crossflow.files.writing import write_whole
from crossflow_eval import records
from crossflow_eval.report import render
from crossflow_eval.report.entry import Entry, load, load_unfinished
from crossflow_eval.report.pictures import picture
from crossflow_eval.suites import load_suite, suite_names
from crossflow_eval.types import Role, Row


def entries(folders: Sequence[Path], *, so_far: bool = False) -> list[Entry]:
    """What a report of the runs in ``folders`` is made of: their references, each once, then the runs themselves.

    Raises CrossFlowError for one that is not finished; ``so_far`` such a run is taken as far as it is, and such a
    reference left out.
    """
    found: dict[tuple[str, int, str], Entry] = {}
    runs = [records.run_in(folder) for folder in folders]
    for run in runs:
        for role, reference in records.references(run).items():
            if so_far and not _finished(reference):
                continue
            entry = _entry(reference, role)
            found.setdefault(entry.of, entry)
    return [
        *found.values(),
        *(_unfinished(each) if so_far and not _finished(each) else _entry(each) for each in runs),
    ]


def _finished(folder: Path) -> bool:
    return (folder / records.RESULT).exists()


def _unfinished(folder: Path) -> Entry:
    name = records.read_settings(folder).suite
    judge = load_suite(name).metrics.get("depth") if name in suite_names() else None
    metres = judge is not None and judge().protocol["alignment"] == "none"
    return _with_pictures(load_unfinished(folder, metres=metres), folder)


def _entry(folder: Path, role: Role = "model") -> Entry:
    return _with_pictures(load(folder, role=role), folder)


def _with_pictures(entry: Entry, folder: Path) -> Entry:
    """A run's part in a report, with the pictures of its sources and targets where its suite has them."""
    name = entry.result.settings.suite
    if name not in suite_names():  # of a package that is not here
        return entry
    suite = load_suite(name)

    def kind(part: str) -> str | None:
        """The kind of what is shown of a modality."""
        return None if isinstance(suite.output, str) else suite.output[part.rpartition(" ")[2]]

    def beside(row: Row) -> dict[str, bytes]:
        try:
            shown = suite.pictures(row["id"])
        except (ValueError, LookupError) as error:
            raise CrossFlowError(f"{folder}: the suite {name} has no example {row['id']!r}.") from error
        drawn = {part: picture(output, kind(part)) for part, output in shown.items()}
        return {part: content for part, content in drawn.items() if content is not None}

    return dataclasses.replace(entry, beside=beside)


def write_page(folder: Path) -> Path:
    """Write the HTML report of the run in ``folder`` beside its result, and return its path."""
    folder = records.run_in(folder)
    write_whole(folder / "report.html", render(entries([folder]), "html", beside=folder).encode(), writer=os.getpid())
    return folder / "report.html"
