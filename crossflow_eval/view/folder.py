"""A folder of runs and trainings as it is at the moment, read through ``records`` and kept until it changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TypeVar

from crossflow.errors import CrossFlowError
from crossflow.files.names import is_text
from crossflow_eval import records
from crossflow_eval.report.entry import Entry
from crossflow_eval.tables import Column, table_of_suite
from crossflow_eval.types import Value

Stamp = tuple[int, ...]
T = TypeVar("T")


@dataclass
class Folder:
    """What lies in and below ``root``. A run, or a training, is known by its path below it; the root itself as ".".

    CrossFlowError where there is no such folder.
    """

    root: Path
    _loaded: dict[Path, tuple[Stamp, Sequence[Entry]]] = field(default_factory=dict, repr=False)
    _listed: dict[Path, tuple[Stamp, Mapping[str, str]]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        records.find(self.root)

    def runs(self) -> dict[str, Path]:
        """The runs by name."""
        return self._named(records.find(self.root)[0])

    def trainings(self) -> dict[str, Path]:
        """The trainings by name."""
        return self._named(records.find(self.root)[1])

    def _named(self, folders: Iterable[Path]) -> dict[str, Path]:
        names = {each.relative_to(self.root).as_posix(): each for each in folders}
        return {name: each for name, each in names.items() if is_text(name)}

    def state(self, folders: Iterable[Path]) -> str:
        """A digest that changes when anything is added to the ``folders``, of runs or of trainings."""
        stamps = [(str(folder), run_stamp(folder), log_stamp(folder)) for folder in folders]
        return hashlib.sha256(repr(stamps).encode()).hexdigest()

    def entries(self, folder: Path) -> Sequence[Entry]:
        """A run with its references for a page, as far as it is. CrossFlowError for one that cannot be read."""
        from crossflow_eval.report.runs import entries  # here, for the suites take seconds to be imported

        stamp = run_stamp(folder)
        if folder not in self._loaded or self._loaded[folder][0] != stamp:
            self._loaded[folder] = (stamp, entries([folder], so_far=True))
        return self._loaded[folder][1]

    def line(self, folder: Path) -> Mapping[str, str]:
        """What is said of a run in a list: suite, model, outputs, its first score, when it changed. CrossFlowError."""
        stamp = run_stamp(folder)
        if folder not in self._listed or self._listed[folder][0] != stamp:
            self._listed[folder] = (stamp, _line(folder))
        return self._listed[folder][1]


def run_stamp(folder: Path) -> Stamp:
    """What changes whenever something is added to a run or to its references; to one that is finished nothing is."""
    results = {place: _stamp(place / records.RESULT) for place in (folder, *records.references(folder).values())}
    counts = [0 if any(result) else records.count_outputs(place) for place, result in results.items()]
    return (*counts, *(number for result in results.values() for number in result))


def log_stamp(folder: Path) -> Stamp:
    """What changes with every line of the log of a training: of that in ``folder``, or of that which the run is in."""
    return (*_stamp(folder / records.LOG), *_stamp(records.home_of(folder).absolute().parent / records.LOG))


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_size, found.st_mtime_ns)


def _line(folder: Path) -> dict[str, str]:
    settings, result = records.read_settings(folder), records.read_result(folder)
    rows, expected = records.read_outputs_so_far(folder)
    made = len(rows)
    outputs = f"{made:,}" if made == expected else f"{made:,} of {expected:,}"
    column = None if result is None else _first_column(settings.suite, tuple(result.values))
    score = "" if column is None or result is None or column.value is None else _score(column, result.values)
    what = "not scored yet" if result is None else score
    return {
        "suite": settings.suite,
        "model": settings.model,
        "outputs": outputs,
        "score": what,
        "changed": when(folder),
    }


def _score(column: Column, values: Mapping[str, Value]) -> str:
    return f"{column.label} {column.scaled(values[column.value or '']).mean:.{column.decimals}f}"


@cache
def _first_column(suite: str, values: tuple[str, ...]) -> Column | None:
    """The first column of a suite's table that is of one of the ``values``, or a plain one of the first of them."""
    table = table_of_suite(suite)
    of_table = [column for column in table.columns if column.value in values] if table else []
    plain = [Column(label=name, value=name) for name in values]
    return next(iter([*of_table, *plain]), None)


def when(folder: Path) -> str:
    """The local time at which a run or a training last wrote something."""
    _, finished = _stamp(folder / records.RESULT)
    outputs = records.home_of(folder) / records.OUTPUTS
    places = (outputs, folder / records.LOG, folder / records.SETTINGS)
    latest = finished or max(_stamp(place)[1] for place in places)
    return datetime.fromtimestamp(latest / 1e9).strftime("%Y-%m-%d %H:%M:%S")


def newest(folders: Mapping[str, Path]) -> dict[str, Path]:
    """The same folders, those first that changed last."""
    return dict(sorted(folders.items(), key=lambda each: when(each[1]), reverse=True))


def training_line(folder: Path) -> dict[str, str]:
    """What is said of a training in a list: its last step and loss. CrossFlowError for a log that cannot be read."""
    total = records.read_losses(folder).get("total", {})
    step, loss = next(reversed(total.items()), (0, None))
    return {"step": f"{step:,}", "loss": "" if loss is None else f"{loss:.4g}", "changed": when(folder)}


def readable(folders: Mapping[str, Path], read: Callable[[Path], T]) -> tuple[dict[str, T], dict[str, str]]:
    """What ``read`` makes of each of the folders, and why it could not of the others."""
    found: dict[str, T] = {}
    why: dict[str, str] = {}
    for name, folder in folders.items():
        try:
            found[name] = read(folder)
        except CrossFlowError as error:
            why[name] = str(error)
    return found, why
