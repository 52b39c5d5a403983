"""Whether our rows differ as the paper's do: a comparison of seeds, and what it says.

Sources: B. L. Welch, 1947 (means of unequal variances); S. Holm, 1979 (several comparisons in one table).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.stats import t as student_t

Said = Literal["reproduced", "reversed", "not decided at this budget", "no published difference", "a row failed"]
LEVEL = 0.05
POWER = 0.8
MOST_SEEDS = 1000
METHOD = (
    "difference of the means over training seeds, on the same prompts and noise; Welch's t interval at 95 %, p "
    "adjusted by Holm within a table. Only what another training would change is in it."
)


class Verdict(BaseModel):
    """A row less the row that it is compared with, in our value and in the paper's, each in its own unit.

    ``p`` is adjusted by Holm. None where there are too few seeds. ``seeds_needed`` is how many a row would decide a
    difference of the size seen, with a power of 0.8 and without the adjustment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    table: str
    title: str
    value: str
    difference: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p: float | None = None
    published_value: str | None = None
    published_difference: float | None = None
    verdict: Said
    seeds: int
    seeds_needed: int | None = None


class Compared(BaseModel):
    """What a verdict is reached from: the scores of the seeds, ``+1`` or ``-1`` for better, and the paper's two."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    title: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    published: tuple[float, float] | None = None


def welch(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float] | None:
    """Low, high and two-sided p of the difference of two means (ours less theirs).

    None with one score on a side, and where neither side has any spread, which says nothing of what other seeds do.
    """
    if min(len(ours), len(theirs)) < 2:
        return None
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    parts = np.array([a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)])
    difference, error = float(a.mean() - b.mean()), math.sqrt(float(parts.sum()))
    if error == 0:
        return None
    freedom = float(parts.sum() ** 2 / (parts**2 / (np.array([len(a), len(b)]) - 1)).sum())
    reach = float(student_t.ppf(1 - LEVEL / 2, freedom)) * error
    return difference - reach, difference + reach, 2 * float(student_t.sf(abs(difference) / error, freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values adjusted for being several, in their order."""
    order = sorted(range(len(p_values)), key=lambda k: p_values[k])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[k]))
        adjusted[k] = largest
    return adjusted


def seeds_needed(ours: Sequence[float], theirs: Sequence[float]) -> int | None:
    """Seeds a row that would decide the difference seen, given the spread seen.

    None where no number would do, and where no spread is seen, which says nothing of what other seeds do.
    """
    if min(len(ours), len(theirs)) < 2:
        return None
    difference = abs(float(np.mean(ours) - np.mean(theirs)))
    variance = float(np.var(ours, ddof=1) + np.var(theirs, ddof=1))
    if difference == 0 or variance == 0:
        return None
    for n in range(2, MOST_SEEDS + 1):
        freedom = 2 * (n - 1)
        reach = float(student_t.ppf(1 - LEVEL / 2, freedom) + student_t.ppf(POWER, freedom)) * math.sqrt(variance / n)
        if reach <= difference:
            return n
    return None


def verdicts(
    table: str,
    value: str,
    compared: Sequence[Compared],
    higher_is_better: bool,
    published: tuple[str, bool] | None,
) -> list[Verdict]:
    """The verdicts of one table. ``published`` is the paper's column and whether higher is better there.

    A comparison without scores is one whose row failed.
    """
    found = [welch(each.ours, each.theirs) if each.ours and each.theirs else None for each in compared]
    tested = [k for k, each in enumerate(found) if each is not None]
    adjusted = dict(zip(tested, holm([each[2] for each in found if each is not None]), strict=True))
    results: list[Verdict] = []
    for k, each in enumerate(compared):
        limits = found[k]
        printed = None if each.published is None else each.published[0] - each.published[1]
        alone = bool(each.ours and each.theirs)
        results.append(
            Verdict(
                table=table,
                title=each.title,
                value=value,
                difference=float(np.mean(each.ours) - np.mean(each.theirs)) if alone else None,
                ci_low=limits[0] if limits else None,
                ci_high=limits[1] if limits else None,
                p=adjusted.get(k),
                published_value=published[0] if published and printed is not None else None,
                published_difference=printed,
                verdict=_said(each, limits, adjusted.get(k), higher_is_better, published),
                seeds=min(len(each.ours), len(each.theirs)),
                seeds_needed=seeds_needed(each.ours, each.theirs) if alone else None,
            )
        )
    return results


def _said(
    each: Compared,
    limits: tuple[float, float, float] | None,
    p: float | None,
    higher_is_better: bool,
    published: tuple[str, bool] | None,
) -> Said:
    if not each.ours or not each.theirs:
        return "a row failed"
    if each.published is None or published is None or each.published[0] == each.published[1]:
        return "no published difference"
    if limits is None or p is None or limits[0] <= 0 <= limits[1] or p >= LEVEL:
        return "not decided at this budget"
    better = (limits[0] > 0) == higher_is_better
    return "reproduced" if better == ((each.published[0] > each.published[1]) == published[1]) else "reversed"


def counted(found: Sequence[Verdict]) -> Mapping[str, int]:
    """How many verdicts say what."""
    return {said: sum(each.verdict == said for each in found) for said in dict.fromkeys(each.verdict for each in found)}
