"""How far runs come from a base to real data, from the rows of both: values that no single run can give."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow_eval.report.entry import Entry
from crossflow_eval.stats import GAIN, gain
from crossflow_eval.tables import Gain
from crossflow_eval.types import Value

CEILING = "ceiling"


def with_gains(entries: Sequence[Entry], of: Gain, *, allow_mixed: bool = False) -> tuple[list[Entry], tuple[str, ...]]:
    """The entries, with values ``gain/<score>/<task>`` of each run whose base and ceiling are among them, and notes.

    CrossFlowError for a run of other examples or another seed than its base, or with several bases; with
    ``allow_mixed`` it has no gain, and a note says why.
    """
    bases = [entry for entry in entries if entry.role == "model" and of.is_base(entry.result.settings.identity)]
    ceilings = [entry for entry in entries if entry.role == CEILING]
    found: list[Entry] = []
    notes: list[str] = []
    for entry in entries:
        if entry.role != "model" or entry in bases or not bases or not ceilings:
            found.append(entry)
            continue
        try:
            found.append(_gained(entry, _one(entry, bases), _one(entry, ceilings), of))
        except CrossFlowError as error:
            if not allow_mixed:
                raise
            found.append(entry)
            notes.append(f"No gain of {entry.title}: {error}")
    return [_noted(entry, of) for entry in found], tuple(notes)


def _one(entry: Entry, others: Sequence[Entry]) -> Entry:
    """The one of ``others`` on the same examples and seed; of several that of the same weights. CrossFlowError."""
    alike = [other for other in others if not any(_differences(entry, other))]
    if not alike:
        raise CrossFlowError(
            f"A gain needs runs on the same examples with the same seed, and {_name(entry)} and {_name(others[0])} "
            f"differ in {', '.join(_differences(entry, others[0]))}: report them apart."
        )
    weights = entry.result.settings.identity.get("weights_sha256")
    own = [other for other in alike if other.result.settings.identity.get("weights_sha256") == weights]
    if len(alike) > 1 and len(own) != 1:
        raise CrossFlowError(
            f"The gain of {_name(entry)} can be counted from {' and from '.join(map(_name, own or alike))}: report it "
            "with one of them."
        )
    return (own or alike)[0]


def _differences(entry: Entry, other: Entry) -> Iterator[str]:
    ours, theirs = entry.result, other.result
    facts = {
        "the number of outputs": (ours.n, theirs.n),
        "their examples": (ours.data_sha256[:12], theirs.data_sha256[:12]),
        "their seed": (ours.settings.seed, theirs.settings.seed),
        "the version of the suite": (ours.settings.suite_version, theirs.settings.suite_version),
    }
    yield from (f"{what} ({one} and {two})" for what, (one, two) in facts.items() if one != two)


def _name(entry: Entry) -> str:
    return f"{entry.title} ({entry.result.settings.digest})"


def _gained(entry: Entry, base: Entry, ceiling: Entry, of: Gain) -> Entry:
    values: dict[str, Value] = {}
    for score in of.scores:
        ours, start, end = (_by_task(each, score) for each in (entry, base, ceiling))
        for task in ours.keys() & start.keys() & end.keys():
            ids = sorted(ours[task].keys() | start[task].keys() | end[task].keys())
            columns = [[scores[task].get(name, np.nan) for name in ids] for scores in (ours, start, end)]
            value = gain(*(np.array(column) for column in columns))
            values |= {} if value is None else {f"gain/{score}/{task}": value}
    result = entry.result.model_copy(
        update={
            "values": {**entry.result.values, **values},
            "higher_is_better": {**entry.result.higher_is_better, **dict.fromkeys(values, True)},
        }
    )
    return dataclasses.replace(entry, result=result)


def _noted(entry: Entry, of: Gain) -> Entry:
    """The entry with how gains are counted in its protocol: of all entries alike, as columns may not mix protocols."""
    protocol = {**entry.result.protocol, "gain": {"base": of.base, "interval": GAIN}}
    return dataclasses.replace(entry, result=entry.result.model_copy(update={"protocol": protocol}))


def _by_task(entry: Entry, score: str) -> Mapping[str, Mapping[str, float]]:
    """The score of each example that has one, the mean over its outputs, by its task."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in entry.rows:
        if score in row:
            found.setdefault(str(row["task"]), {}).setdefault(str(row["id"]), []).append(float(row[score]))
    return {task: {name: float(np.mean(each)) for name, each in of.items()} for task, of in found.items()}
