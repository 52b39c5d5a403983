"""Intervals and comparisons, float64 and seeded. The unit of resampling is the example, never the output.

Every 95 % interval names its method; the names go into protocols, so that two kinds of interval are never confused.
Source: B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8, 11, 13 and 15.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from scipy.stats import t as student_t

from crossflow.errors import CrossFlowError
from crossflow_eval.types import Value

RESAMPLES = 2000
FLIPS = 10_000
GROUPS = 20
BOOTSTRAP = "percentile bootstrap over examples, 2000 resamples, seed 0"
STRATIFIED_BOOTSTRAP = "percentile bootstrap over examples within each task, 2000 resamples, seed 0"
JACKKNIFE = "delete-group jackknife over the outputs, 20 groups, seed 0, Student t; the reference is held fixed"
STUDENT = "Student t over training seeds, df = seeds - 1, unclipped"
_BLOCK = 1 << 22
"""How many resampled scores are held in memory at once."""


def bootstrap_mean(scores: Sequence[float] | np.ndarray, *, seed: int = 0) -> Value:
    """The mean of one score an example, with its percentile interval (``BOOTSTRAP``).

    Raises ValueError for no scores or one that is not finite. Scores that are all equal have no interval.
    """
    return bootstrap_stratified({"all": scores}, seed=seed)


def bootstrap_stratified(strata: Mapping[str, Sequence[float] | np.ndarray], *, seed: int = 0) -> Value:
    """The unweighted mean of the strata's means; each stratum is resampled alone (``STRATIFIED_BOOTSTRAP``).

    This is GenEval's overall score when the strata are its tasks. ``n`` counts the scores of all strata. Where no
    resample can differ (each stratum's scores are all equal) resampling says nothing, and there is no interval.
    """
    if not strata:
        raise ValueError("a mean needs at least one stratum")
    arrays = {name: _checked(scores) for name, scores in strata.items()}
    mean = math.fsum(array.mean() for array in arrays.values()) / len(arrays)
    n = sum(map(len, arrays.values()))
    if all(np.ptp(array) == 0 for array in arrays.values()):
        return Value(mean=mean, n=n)
    low, high = _percentiles(_resampled_means(list(arrays.values()), seed))
    return Value(mean=mean, ci_low=low, ci_high=high, n=n)


def student_mean(values: Sequence[float] | np.ndarray, *, n: int) -> Value:
    """The mean of one value a training seed, with its Student t interval (``STUDENT``).

    The unit is the seed, so the interval holds what another training would change; ``n`` is that of each value.
    A single seed, and values that are all equal, have no interval.
    """
    array = _checked(values)
    mean = math.fsum(array) / len(array)
    if np.ptp(array) == 0:
        return Value(mean=mean, n=n)
    reach = float(student_t.ppf(0.975, len(array) - 1)) * float(array.std(ddof=1)) / math.sqrt(len(array))
    return Value(mean=mean, ci_low=mean - reach, ci_high=mean + reach, n=n)


def _resampled_means(strata: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """The statistic of every resample: float64 [RESAMPLES]."""
    generator = np.random.default_rng(seed)
    means = np.zeros(RESAMPLES)
    for scores in strata:
        step = max(1, _BLOCK // len(scores))
        for start in range(0, RESAMPLES, step):
            block = means[start : start + step]
            block += scores[generator.integers(len(scores), size=(len(block), len(scores)))].mean(axis=1)
    return means / len(strata)


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def _checked(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"expected a non-empty row of scores, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{int((~np.isfinite(array)).sum())} of {len(array)} scores are not finite")
    return array


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The mean difference (second minus first) of paired scores: 95 % interval, n pairs, two-sided p, and how."""

    difference: float
    ci_low: float
    ci_high: float
    p: float
    n: int
    method: str


def compare(
    first: Mapping[str, float],
    second: Mapping[str, float],
    *,
    strata: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare two runs by their per-example scores, given by example id: second minus first.

    With ``strata`` (example id to task) the statistic is the unweighted mean of the tasks' mean differences. The
    interval is the paired percentile bootstrap within strata; p is that of the sign-flip permutation test: exact
    where all differences weigh the same (McNemar's exact test), else over 10,000 draws. Raises CrossFlowError where the
    two are not about the same examples.
    """
    ids = sorted(first)
    if first.keys() != second.keys():
        alone = sorted(first.keys() ^ second.keys())
        raise CrossFlowError(
            f"The runs are not about the same examples: {len(alone)} are in one run only, such as {alone[0]!r}; "
            "compare runs of one suite with one --limit."
        )
    if len(ids) < 2:
        raise CrossFlowError(f"A comparison needs at least two examples, got {len(ids)}.")
    difference = _checked([second[id] - first[id] for id in ids])
    names = np.array([strata[id] if strata is not None else "all" for id in ids])
    groups = {name: difference[names == name] for name in dict.fromkeys(names.tolist())}
    low, high = _percentiles(_resampled_means(list(groups.values()), seed))
    weighted = np.concatenate([group / len(group) for group in groups.values()]) / len(groups)
    p, test = _sign_flip(weighted, seed)
    return Comparison(
        difference=math.fsum(weighted),
        ci_low=low,
        ci_high=high,
        p=p,
        n=len(ids),
        method=f"paired {STRATIFIED_BOOTSTRAP if strata is not None else BOOTSTRAP}; {test}",
    )


def _sign_flip(weighted: np.ndarray, seed: int) -> tuple[float, str]:
    """Two-sided p of the hypothesis that every difference is as likely to have either sign, and the test's name."""
    moved = weighted[weighted != 0]
    sizes = abs(moved)
    if not len(moved) or np.ptp(sizes) <= 1e-9 * sizes.max():
        wins = int((moved > 0).sum())
        p = binomtest(wins, len(moved)).pvalue if len(moved) else 1.0
        return float(p), "exact sign-flip test"
    generator = np.random.default_rng(seed)
    bound = abs(math.fsum(moved)) * (1 - 1e-12)
    step = max(1, _BLOCK // len(moved))
    extreme = 0
    for start in range(0, FLIPS, step):
        signs = generator.integers(0, 2, size=(min(step, FLIPS - start), len(moved)), dtype=np.int8) * 2.0 - 1.0
        extreme += int((abs(signs @ moved) >= bound).sum())
    return (extreme + 1) / (FLIPS + 1), f"sign-flip test, {FLIPS} draws, seed {seed}"


def jackknife(statistic: Callable[[np.ndarray], float], n: int, *, seed: int = 0) -> Value:
    """A statistic of n outputs that is no mean, such as FID, with its interval (``JACKKNIFE``).

    ``statistic`` takes the indices (int [m], ascending) of the outputs to use. The interval is that of the statistic
    at this n: a bias that depends on n stays in it. With fewer than 2 x GROUPS outputs there is no interval.
    """
    mean = float(statistic(np.arange(n)))
    if n < 2 * GROUPS:
        return Value(mean=mean, n=n)
    groups = np.array_split(np.random.default_rng(seed).permutation(n), GROUPS)
    kept = [np.delete(np.arange(n), group) for group in groups]
    without = np.array([statistic(indices) for indices in kept], dtype=np.float64)
    error = math.sqrt((GROUPS - 1) / GROUPS * float(((without - without.mean()) ** 2).sum()))
    reach = float(student_t.ppf(0.975, GROUPS - 1)) * error
    return Value(mean=mean, ci_low=mean - reach, ci_high=mean + reach, n=n)
