"""Two runs side by side: their rows paired by example, and their distances over the examples that both have."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow_eval import records
from crossflow_eval.judges.features import OnFeatures, keep_features
from crossflow_eval.metrics import of_torchmetrics
from crossflow_eval.metrics.fid import FID, NO_INTERVAL
from crossflow_eval.runs.run import SCORE_BATCH, list_jobs, plain_protocol
from crossflow_eval.runs.store import Store
from crossflow_eval.stats import TOGETHER, Comparison, compare, jackknifed
from crossflow_eval.suites import load_suite
from crossflow_eval.types import Example, Metric, Result, Row, Suite

SCORES = (bool, int, float)
ADDRESS = ("id", "index")


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of two runs that are compared: where it lies, what its model is called, and how many examples it is of."""

    folder: Path
    name: str
    examples: int


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score of both runs over the examples that they share, and how far the second is from the first."""

    first: float
    second: float
    comparison: Comparison


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Two runs side by side over so many ``examples`` of both; ``notes`` are sentences on what is left out, and why."""

    first: Side
    second: Side
    examples: int
    scores: dict[str, Score]
    notes: tuple[str, ...]


def compare_runs(first: Path, second: Path, data: Path | None = None) -> Compared:
    """Compare two finished runs, on the examples that both have.

    Every column that holds a number or a verdict in all rows of both is compared; an example's score is the mean over
    its outputs, and where rows name a ``task``, tasks weigh alike, but in what runs report as the mean over examples.
    Of what they report in another way, as BLEU of all captions, a note says that these means are no such number; what
    depends on all that a run scored (``TOGETHER``) is left out unless both scored the same. So is every FID compared,
    by the jackknife of the difference: that of the suite's metrics on the features that the runs have kept. ``data`` is
    the suite's data root, for references of one's own. Metrics that were added to one run alone are left out.

    Raises:
        CrossFlowError: unfinished runs, and those that are not as they were scored; runs of different suites, data or
            protocols, no example or no score in common.
    """
    folders = (records.run_in(first), records.run_in(second))
    results = (records.check_whole(folders[0]), records.check_whole(folders[1]))
    _check_alike(results, (first, second))
    common = _common(folders, results)
    counts = [result.n // result.settings.outputs_per_example for result in results]
    notes = [
        f"{name} is left out: only {folder} was measured by it."
        for folder, result, other in zip((first, second), results, reversed(results), strict=True)
        for name in sorted(result.protocol.keys() - other.protocol.keys())
    ]
    scores = dict(_paired(folders, results, common, notes)) | dict(_distances(folders, results, common, data, notes))
    if not scores:
        why = f" ({' '.join(notes)})" if notes else ""
        raise CrossFlowError(f"{first} and {second} have no score of single outputs in common{why}.")
    if len(set(counts)) > 1 or counts[0] != len(common):
        notes.insert(0, f"Over the {len(common)} examples that both have, of {counts[0]} and {counts[1]}.")
    sides = [
        Side(folder=folder, name=result.settings.model, examples=count)
        for folder, result, count in zip(folders, results, counts, strict=True)
    ]
    return Compared(first=sides[0], second=sides[1], examples=len(common), scores=scores, notes=tuple(notes))


def _check_alike(results: Sequence[Result], folders: tuple[Path, Path]) -> None:
    first, second = results
    own = [sorted(name for name in each.protocol if not name.startswith(of_torchmetrics.PREFIX)) for each in results]
    pairs: dict[str, tuple[Any, Any]] = {
        "suite": (first.settings.suite, second.settings.suite),
        "suite version": (first.settings.suite_version, second.settings.suite_version),
        "outputs of an example": (first.settings.outputs_per_example, second.settings.outputs_per_example),
        "metrics": (own[0], own[1]),
    }
    for name in (each for each in first.protocol if each in second.protocol):
        ours, theirs = (records.lasting(of.protocol[name]) for of in results)
        for key in ours | theirs:
            pairs[f"protocol of {name}, {key}"] = ours.get(key, "not there"), theirs.get(key, "not there")
    for what, (left, right) in pairs.items():
        if left != right:
            raise CrossFlowError(f"{folders[0]} and {folders[1]} differ in their {what}: {left} and {right}.")


def _common(folders: tuple[Path, Path], results: tuple[Result, Result]) -> set[str]:
    """The ids of the examples that both runs have. CrossFlowError for none, and where two of one id differ."""
    if results[0].data_sha256 == results[1].data_sha256:
        return {row["id"] for folder in folders for row in records.read_rows(folder)}
    first, second = (records.example_lines(folder) for folder in folders)
    common = first.keys() & second.keys()
    if not common or any(first[name] != second[name] for name in common):
        data = " and ".join(result.data_sha256[:12] for result in results)
        raise CrossFlowError(f"{folders[0]} and {folders[1]} differ in their data: {data}.")
    return common


def _paired(
    folders: tuple[Path, Path], results: tuple[Result, Result], common: set[str], notes: list[str]
) -> Iterator[tuple[str, Score]]:
    """The scores of single outputs; ``notes`` gets which are left out, and which are no number of a report."""
    whole = [records.read_rows(folder) for folder in folders]
    rows = [[row for row in each if row["id"] in common] for each in whole]
    tasks = {row["id"]: str(row["task"]) for row in whole[0] if "task" in row}
    strata = tasks if len(tasks) == len({row["id"] for row in whole[0]}) else None
    otherwise: list[str] = []
    for name in (each for each in _score_columns(rows[0]) if each in set(_score_columns(rows[1]))):
        if name in TOGETHER and results[0].data_sha256 != results[1].data_sha256:
            notes.append(
                f"{name} is left out: that of an output depends on all that a run scored, and these scored other "
                "examples; give both one --limit."
            )
            continue
        ways = [each for each in (strata, None) if _is_reported(name, results[0], whole[0], each)]
        otherwise += [] if ways else [name]
        weighing = ways[0] if ways else strata
        ours, theirs = (_means(each, name) for each in rows)
        found = compare(ours, theirs, strata=weighing)
        mean = _mean(ours, weighing)
        yield name, Score(first=mean, second=mean + found.difference, comparison=found)
    if otherwise:
        notes.append(f"{', '.join(otherwise)}: means over examples, which is not how a report gives them of the whole.")


def _is_reported(name: str, result: Result, rows: Sequence[Row], strata: Mapping[str, str] | None) -> bool:
    """Whether a run reports a score as the mean over examples, of tasks alike with ``strata``; or not at all."""
    value, having = result.values.get(name), [row for row in rows if isinstance(row.get(name), SCORES)]
    return value is None or math.isclose(_mean(_means(having, name), strata), value.mean, rel_tol=1e-9, abs_tol=1e-12)


def _distances(
    folders: tuple[Path, Path],
    results: tuple[Result, Result],
    common: set[str],
    data: Path | None,
    notes: list[str],
) -> Iterator[tuple[str, Score]]:
    """The FIDs of both runs' common outputs, where the suite has any; ``notes`` gets why one is left out."""
    for name, protocol in results[0].protocol.items():
        if "absent" in protocol or "extractor" not in protocol or name not in results[1].protocol:
            continue
        try:
            ours, theirs = (_measured(*each, name, common, data) for each in zip(folders, results, strict=True))
        except CrossFlowError as error:
            notes.append(f"{name} is left out: {error}")
            continue
        if ours is None or theirs is None:
            notes.append(f"{name} is left out: of numbers of all outputs together, FIDs alone are compared.")
            continue
        yield name, _apart(ours, theirs)


def _apart(ours: FID, theirs: FID) -> Score:
    """Two distances, and the difference."""
    of_ours, of_theirs = ours.by_part(), theirs.by_part()
    if of_ours is None or of_theirs is None:
        first, second = (next(iter(metric.compute().values())).mean for metric in (ours, theirs))
        none = Comparison(difference=second - first, ci_low=None, ci_high=None, p=None, n=ours.n, method=NO_INTERVAL)
        return Score(first=first, second=second, comparison=none)
    found = jackknifed(lambda kept: of_theirs(kept) - of_ours(kept), ours.n)
    first = of_ours(np.arange(ours.n))
    return Score(first=first, second=first + found.difference, comparison=found)


def _measured(folder: Path, result: Result, name: str, common: set[str], data: Path | None) -> FID | None:
    """The metric ``name`` of a run's suite, of its common outputs in the order of their ids; None if it is no FID.

    CrossFlowError where it would be measured here by anything else than it was for the run.
    """
    suite, store = load_suite(result.settings.suite, data), Store(folder)
    metric = _here(suite, name, result.protocol[name])
    if not isinstance(metric, FID):
        return None
    cache = keep_features({name: metric}, store.home / "features", 0)[name]
    jobs = list_jobs(suite, [Example(id=each, source="") for each in sorted(common)], result.settings)
    for start in range(0, len(jobs), SCORE_BATCH):
        batch = jobs[start : start + SCORE_BATCH]
        metric.update_from(cache, [job.example for job in batch], [store.read_output(job)[0] for job in batch])
    return metric


def _here(suite: Suite, name: str, protocol: Mapping[str, Any]) -> Metric:
    """The metric ``name`` of a suite. CrossFlowError where the suite has it no more, or by another ``protocol``."""
    if name not in suite.metrics:
        raise CrossFlowError(f"the suite {suite.name} of this version has it no more; score both runs again.")
    metric = suite.metrics[name]()
    here, there = (records.lasting(each) for each in (plain_protocol(metric), protocol))
    if absent := here.get("absent"):
        raise CrossFlowError(f"{absent}.")
    if other := sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key)):
        raise CrossFlowError(
            f"here it would be measured by another {', '.join(other)} than the runs were; give --data their own, or "
            "score both runs again."
        )
    return metric.itself if isinstance(metric, OnFeatures) else metric


def _score_columns(rows: Sequence[Row]) -> Iterator[str]:
    for name in rows[0] if rows else ():
        if name not in ADDRESS and all(isinstance(row.get(name), SCORES) for row in rows):
            yield name


def _means(rows: Sequence[Row], name: str) -> dict[str, float]:
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row["id"], []).append(float(row[name]))
    return {example: sum(several) / len(several) for example, several in scores.items()}


def _mean(scores: Mapping[str, float], strata: Mapping[str, str] | None) -> float:
    """The mean of the examples' scores, or of their tasks' means."""
    tasks: dict[str, list[float]] = {}
    for example, score in scores.items():
        tasks.setdefault("" if strata is None else strata[example], []).append(score)
    return float(np.mean([np.mean(each) for each in tasks.values()]))
