"""Intervals and comparisons, float64 and seeded. The unit of resampling is the example, never the output.

Every 95 % interval names its method; the names go into protocols, so that two kinds of interval are never confused.
``benchmarks.coverage`` tabulates how often those of stratified means hold the truth.
Sources: B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8, 11, 13 and 15; B. L. Welch,
1947; E. B. Wilson, 1927; G. Y. Zou and A. Donner, 2008 (MOVER: limits of a sum from the limits of its terms).
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
WELCH = "Welch-Satterthwaite t of the mean of task means, over examples; none where a task has one example"
WITHIN_BOUNDS = (
    "the wider of Welch-Satterthwaite t of the mean of task means, over examples, and of the tasks' Wilson limits "
    "joined by MOVER, within the bounds of the scores; none where a task has one example"
)
JACKKNIFE = "delete-group jackknife over the outputs, 20 groups, seed 0, Student t; the reference is held fixed"
GAIN = f"{BOOTSTRAP}, which all three runs share"
STUDENT = "Student t over training seeds, df = seeds - 1, unclipped"
UNIT = (0.0, 1.0)
"""The bounds of verdicts and of shares of them."""
FEW = 5
"""Examples of a task below which ``WELCH`` was seen to cover less than it says (``benchmarks.coverage``)."""
PRIOR = 0.25
"""Squared distance from the mean that ``WITHIN_BOUNDS`` adds to each task, on the scale 0 to 1: that of one verdict."""
SIZED = (
    *("fid", "sfid", "kid", "fd_dinov2", "cmmd", "fd_efficientnet", "kd_efficientnet"),
    *("fd_panns", "fad_vggish", "fvd"),
    *("inception_score", "inception_score_adm", "inception_score_looks", "is_panns", "recall", "prdc"),
)
"""Values of a set whose expectation depends on its size n: n stands in their label, and no two share a column."""
TOGETHER = ("cider_d", "spider")
"""Scores of an output that depend on what else is scored: CIDEr-D weighs words by how many of the images have them."""
_BLOCK = 1 << 22
"""How many resampled scores are held in memory at once."""


def sized(name: str) -> bool:
    """Whether the value called ``name`` is one of ``SIZED``, or a part of it."""
    return name.split("/")[0] in SIZED


def bootstrap_mean(scores: Sequence[float] | np.ndarray, *, seed: int = 0) -> Value:
    """The mean of one score an example, with its percentile interval (``BOOTSTRAP``).

    Raises ValueError for no scores or one that is not finite. Scores that are all equal have no interval.
    """
    array = _checked(scores)
    mean, n = float(array.mean()), len(array)
    if np.ptp(array) == 0:
        return Value(mean=mean, n=n)
    low, high = np.percentile(_resampled_means(array, seed), (2.5, 97.5)).tolist()
    return Value(mean=mean, ci_low=low, ci_high=high, n=n)


def stratified_mean(
    strata: Mapping[str, Sequence[float] | np.ndarray], *, bounds: tuple[float, float] | None = None
) -> Value:
    """The unweighted mean of the strata's means, with its interval: ``WITHIN_BOUNDS`` given bounds, else ``WELCH``.

    This is GenEval's overall score when the strata are its tasks and the bounds 0 and 1. ``n`` counts the scores of all
    strata. There is no interval where a stratum has one score, nor, without bounds, where each one's are all equal.
    Raises ValueError for no strata, and as ``bootstrap_mean``.
    """
    if not strata:
        raise ValueError("a mean needs at least one stratum")
    arrays = [_checked(scores) for scores in strata.values()]
    mean = math.fsum(array.mean() for array in arrays) / len(arrays)
    low, high = _Strata.of(arrays, bounds).interval() or (None, None)
    return Value(mean=mean, ci_low=low, ci_high=high, n=sum(map(len, arrays)))


def gain(run: np.ndarray, base: np.ndarray, real: np.ndarray) -> Value | None:
    """How far a run has come from ``base`` to ``real``, of means: (run - base) / (real - base), with ``GAIN``.

    Float [n] each, one score an example in the same order, NaN where an example has none. None where the means of
    ``base`` and ``real`` are equal; no interval where resamples do not agree which of them is larger.
    """
    scores = np.stack([run, base, real], axis=1).astype(np.float64)
    there = np.isfinite(scores)
    known = np.where(there, scores, 0.0)
    n = len(scores)
    if not there.any(axis=0).all():
        raise ValueError("each of the three needs at least one score")
    ours, start, end = known.sum(axis=0) / there.sum(axis=0)
    if start == end:
        return None
    mean = float((ours - start) / (end - start))
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    with np.errstate(invalid="ignore", divide="ignore"):
        ours, start, end = ((drawn @ known) / (drawn @ there)).T
        gains = (ours - start) / (end - start)
    if not np.isfinite(gains).all() or np.ptp(np.sign(end - start)) or np.ptp(gains) == 0:
        return Value(mean=mean, n=n)
    low, high = np.percentile(gains, (2.5, 97.5)).tolist()
    return Value(mean=mean, ci_low=low, ci_high=high, n=n)


def single_strata(sizes: Mapping[str, int]) -> str:
    """The warning that is due where tasks have one example, else nothing; ``sizes`` are the examples of each task."""
    alone = ", ".join(name for name, size in sizes.items() if size == 1)
    return f"no interval of {alone}, nor of the mean of tasks: one example says nothing of its spread" if alone else ""


@dataclass(frozen=True)
class _Strata:
    """What the interval of a mean of means is made of: means, squared distances from them, and sizes, float64 [k]."""

    means: np.ndarray
    squares: np.ndarray
    sizes: np.ndarray
    bounds: tuple[float, float] | None

    @staticmethod
    def of(arrays: Sequence[np.ndarray], bounds: tuple[float, float] | None) -> _Strata:
        means = np.array([array.mean() for array in arrays])
        squares = np.array([float(((array - array.mean()) ** 2).sum()) for array in arrays])
        return _Strata(means, squares, np.array([float(len(array)) for array in arrays]), bounds)

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """Low and high; None where there is none."""
        if self.sizes.min() < 2:
            return None
        pieces = [self._welch(level)] + ([self._wilson(level, *self.bounds)] if self.bounds else [])
        low, high = min(low for low, _ in pieces), max(high for _, high in pieces)
        if self.bounds:
            return max(low, self.bounds[0]), min(high, self.bounds[1])
        return (low, high) if low < high else None

    def _welch(self, level: float) -> tuple[float, float]:
        variances = self.squares / (self.sizes - 1) / self.sizes
        reach = self._quantile(variances, level) * math.sqrt(variances.sum()) / len(self.means)
        return float(self.means.mean()) - reach, float(self.means.mean()) + reach

    def _wilson(self, level: float, lowest: float, highest: float) -> tuple[float, float]:
        """MOVER of Wilson's limits. A stratum counts as so many verdicts as would vary as its scores do."""
        width = highest - lowest
        means = (self.means - lowest) / width
        spread = self.sizes * means * (1 - means)
        sizes = self.sizes * (spread + PRIOR) / (self.squares / width**2 + PRIOR)
        middle, _ = _wilson_limits(means, sizes, 1.96)
        low_high = _wilson_limits(means, sizes, self._quantile(middle * (1 - middle) / sizes, level))
        below, above = (math.sqrt(float(((means - edge) ** 2).sum())) for edge in _edges(means, *low_high))
        mean = float(self.means.mean())
        return mean - width * below / len(means), mean + width * above / len(means)

    def _quantile(self, variances: np.ndarray, level: float) -> float:
        """Student's t at the degrees of freedom of Welch and Satterthwaite."""
        if not variances.any():
            return 0.0
        freedom = variances.sum() ** 2 / (variances**2 / (self.sizes - 1)).sum()
        return float(student_t.ppf((1 + level) / 2, freedom))

    def p(self) -> float:
        """One less the level of the smallest interval that holds 0; 1 where there is none."""
        inside, outside = 1.0, 0.0
        for _ in range(60):
            level = (inside + outside) / 2
            found = self.interval(level)
            holds = found is None or found[0] <= 0 <= found[1]
            inside, outside = (level, outside) if holds else (inside, level)
        return 1 - outside


def _wilson_limits(means: np.ndarray, sizes: np.ndarray, quantile: float) -> tuple[np.ndarray, np.ndarray]:
    """The middle and half the width of Wilson's intervals of shares."""
    more = quantile**2 / sizes
    middle = (means + more / 2) / (1 + more)
    return middle, np.sqrt(means * (1 - means) * more + more**2 / 4) / (1 + more)


def _edges(means: np.ndarray, middle: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.minimum(middle - reach, means), np.maximum(middle + reach, means)


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


def _resampled_means(scores: np.ndarray, seed: int) -> np.ndarray:
    """The mean of every resample: float64 [RESAMPLES]."""
    generator = np.random.default_rng(seed)
    means = np.zeros(RESAMPLES)
    step = max(1, _BLOCK // len(scores))
    for start in range(0, RESAMPLES, step):
        block = means[start : start + step]
        block += scores[generator.integers(len(scores), size=(len(block), len(scores)))].mean(axis=1)
    return means


def _checked(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"expected a non-empty row of scores, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{int((~np.isfinite(array)).sum())} of {len(array)} scores are not finite")
    return array


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The mean difference (second minus first) of paired scores: 95 % interval, n pairs, two-sided p, and how.

    Below 0.05 p and an interval without 0 say the same, and always agree. None where no interval, or test, is defined.
    """

    difference: float
    ci_low: float | None
    ci_high: float | None
    p: float | None
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
    interval is ``WITHIN_BOUNDS``, from -1 to 1, where the scores are verdicts or shares of a few, else ``WELCH``. p is
    that of the sign-flip permutation test: exact where all differences weigh the same (McNemar's exact test), else over
    10,000 draws; or the interval's, where that is larger. Where p is 0.05 or more the interval reaches 0.

    Raises CrossFlowError where the two are not about the same examples.
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
    verdicts = _are_shares([*first.values(), *second.values()])
    joined = _Strata.of(list(groups.values()), (-1.0, 1.0) if verdicts else None)
    weighted = np.concatenate([group / len(group) for group in groups.values()]) / len(groups)
    p, test = _sign_flip(weighted, seed)
    low, high = joined.interval() or (None, None)
    if low is not None and high is not None:
        p = max(p, joined.p())
        if p >= 0.05:
            low, high = min(low, 0.0), max(high, 0.0)
    if not verdicts and joined.sizes.min() < FEW:
        test += f"; covers less, for a task has fewer than {FEW} examples"
    if alone := single_strata({name: len(group) for name, group in groups.items()}):
        test += f"; {alone}"
    return Comparison(
        difference=math.fsum(weighted),
        ci_low=low,
        ci_high=high,
        p=p,
        n=len(ids),
        method=f"paired {WITHIN_BOUNDS if verdicts else WELCH}, to 0 where p >= 0.05; p the larger of its and {test}",
    )


def _are_shares(scores: Sequence[float]) -> bool:
    """Whether all are verdicts (0 or 1), or shares of at most ten verdicts."""
    times = np.asarray(scores) * math.lcm(*range(1, 11))
    return bool((times >= 0).all() and (times <= 2520).all() and (abs(times - times.round()) < 1e-6).all())


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


def jackknifed(difference: Callable[[np.ndarray], float], n: int) -> Comparison:
    """A difference of two statistics of n paired outputs, such as of two FIDs: ``jackknife`` of it, and p of its t."""
    found = jackknife(difference, n)
    p, method = None, f"paired {JACKKNIFE}"
    if found.ci_low is None or found.ci_high is None:
        method = f"no interval of fewer than {2 * GROUPS} outputs"
    elif reach := (found.ci_high - found.ci_low) / 2:
        t = found.mean / reach * float(student_t.ppf(0.975, GROUPS - 1))
        p = 2 * float(student_t.sf(abs(t), GROUPS - 1))
    return Comparison(difference=found.mean, ci_low=found.ci_low, ci_high=found.ci_high, p=p, n=n, method=method)


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
