"""Two runs side by side: their rows paired by example, every shared score compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from crossflow.errors import CrossFlowError
from crossflow_eval import records
from crossflow_eval.stats import Comparison, compare
from crossflow_eval.types import Result, Row

SCORES = (bool, int, float)
ADDRESS = ("id", "index")


def compare_runs(first: Path, second: Path) -> dict[str, Comparison]:
    """Compare two finished runs on every column that holds a number or a verdict in all rows of both.

    An example's score is the mean over its outputs. Where rows name a ``task``, tasks weigh alike.

    Raises:
        CrossFlowError: unfinished runs, and those that are not as they were scored; runs of different suites, data or
            protocols, no column in common.
    """
    results = [records.check_whole(folder) for folder in (first, second)]
    _check_alike(results, (first, second))
    rows = [records.read_rows(folder) for folder in (first, second)]
    shared = [name for name in _score_columns(rows[0]) if name in set(_score_columns(rows[1]))]
    if not shared:
        raise CrossFlowError(f"{first} and {second} have no score of single outputs in common.")
    tasks = {row["id"]: str(row["task"]) for row in rows[0] if "task" in row}
    strata = tasks if len(tasks) == len({row["id"] for row in rows[0]}) else None
    return {name: compare(_means(rows[0], name), _means(rows[1], name), strata=strata) for name in shared}


def _check_alike(results: Sequence[Result], folders: tuple[Path, Path]) -> None:
    first, second = results
    pairs = {
        "suite": (first.settings.suite, second.settings.suite),
        "suite version": (first.settings.suite_version, second.settings.suite_version),
        "limit": (first.settings.limit, second.settings.limit),
        "data": (first.data_sha256[:12], second.data_sha256[:12]),
        "metrics": (sorted(first.protocol), sorted(second.protocol)),
    }
    pairs |= {f"protocol of {name}": (first.protocol[name], second.protocol.get(name)) for name in first.protocol}
    for what, (left, right) in pairs.items():
        if left != right:
            raise CrossFlowError(f"{folders[0]} and {folders[1]} differ in their {what}: {left} and {right}.")


def _score_columns(rows: Sequence[Row]) -> Iterator[str]:
    for name in rows[0] if rows else ():
        if name not in ADDRESS and all(isinstance(row.get(name), SCORES) for row in rows):
            yield name


def _means(rows: Sequence[Row], name: str) -> dict[str, float]:
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row["id"], []).append(float(row[name]))
    return {example: sum(several) / len(several) for example, several in scores.items()}
