"""Laws of the intervals: coverage on known distributions, closed forms of the tests, order and memory do not matter."""

from __future__ import annotations

import math
from math import comb

import numpy as np
import pytest

from crossflow.errors import CrossFlowError
from crossflow_eval import stats


def test_the_mean_is_exact_and_the_interval_holds_it() -> None:
    value = stats.bootstrap_mean([1.0, 0.0, 0.0, 1.0, 1.0])
    assert value.mean == 0.6
    assert value.ci_low is not None and value.ci_high is not None
    assert 0 <= value.ci_low < 0.6 < value.ci_high <= 1 and value.n == 5


def test_the_interval_of_a_mean_has_the_width_of_the_normal_one() -> None:
    """At n = 4,000 the percentile interval must be mean +- 1.96 sd / sqrt(n) up to the bootstrap's own noise."""
    scores = np.random.default_rng(1).exponential(size=4000)
    value = stats.bootstrap_mean(scores)
    assert value.ci_low is not None and value.ci_high is not None
    expected = 2 * 1.96 * scores.std() / math.sqrt(4000)
    assert value.ci_high - value.ci_low == pytest.approx(expected, rel=0.08)


def test_ninety_five_of_a_hundred_intervals_cover_the_truth() -> None:
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(400):
        value = stats.bootstrap_mean(generator.random(60) < 0.4)
        covered += value.ci_low <= 0.4 <= value.ci_high  # type: ignore[operator]
    assert 0.91 <= covered / 400 <= 0.98


def test_the_stratified_mean_weighs_strata_equally_and_resamples_within_them() -> None:
    """Only the second stratum varies, so the interval is half of that stratum's, moved by half."""
    value = stats.bootstrap_stratified({"a": [1.0] * 100, "b": [0.0, 1.0, 0.0, 0.0]})
    assert (value.mean, value.n) == (0.625, 104)
    assert (value.ci_low, value.ci_high) == (0.5, 0.875)


def test_blocks_of_memory_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    strata = {"a": np.arange(50.0), "b": np.arange(7.0)}
    whole = stats.bootstrap_stratified(strata)
    monkeypatch.setattr(stats, "_BLOCK", 333)
    assert stats.bootstrap_stratified(strata) == whole


@pytest.mark.parametrize("scores", [[0.5], [1.0] * 20, [0.0] * 20])
def test_equal_scores_have_no_interval(scores: list[float]) -> None:
    """20 of 20 right is no proof of a 100 % model, as a zero-width interval would claim."""
    value = stats.bootstrap_mean(scores)
    assert (value.mean, value.ci_low, value.ci_high, value.n) == (scores[0], None, None, len(scores))


@pytest.mark.parametrize("scores", [[], [1.0, math.nan], np.ones((1, 1))])
def test_scores_that_are_no_scores_are_refused(scores: list[float] | np.ndarray) -> None:
    with pytest.raises(ValueError):
        stats.bootstrap_mean(scores)


def test_compare_gives_the_exact_binomial_p_for_verdicts() -> None:
    """McNemar: 9 of 10 changed verdicts improved, so p = 2 (C(10,9) + C(10,10)) / 2^10."""
    first = {f"e{i:02}": float(i < 10) for i in range(40)}
    second = first | {"e00": 0.0} | {f"e{i:02}": 1.0 for i in range(10, 19)}
    comparison = stats.compare(first, second)
    assert comparison.difference == pytest.approx(8 / 40)
    assert comparison.p == pytest.approx(2 * (comb(10, 9) + comb(10, 10)) / 2**10)
    assert comparison.n == 40 and "exact" in comparison.method
    assert 0 < comparison.ci_low < 0.2 < comparison.ci_high


def test_compare_is_antisymmetric_and_blind_to_order() -> None:
    generator = np.random.default_rng(3)
    first = {f"e{i}": float(x) for i, x in enumerate(generator.normal(size=50))}
    second = {id: score + float(generator.normal(0.3)) for id, score in first.items()}
    forward = stats.compare(first, second)
    assert stats.compare(dict(reversed(first.items())), second) == forward
    backward = stats.compare(second, first)
    assert backward.p == forward.p
    assert (backward.difference, backward.ci_low) == pytest.approx((-forward.difference, -forward.ci_high))


def test_the_permutation_p_agrees_with_enumeration() -> None:
    """Twelve unequal differences have 4,096 sign patterns; their exact p is the oracle of the drawn one."""
    values = np.random.default_rng(4).normal(0.4, 1.0, size=12)
    signs = np.array([[1 if pattern >> bit & 1 else -1 for bit in range(12)] for pattern in range(4096)])
    exact = (abs(signs @ values) >= abs(values.sum()) - 1e-12).mean()
    comparison = stats.compare({f"{i:02}": 0.0 for i in range(12)}, {f"{i:02}": float(v) for i, v in enumerate(values)})
    assert comparison.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / stats.FLIPS))


def test_equal_runs_differ_by_nothing() -> None:
    comparison = stats.compare({"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 0.0})
    assert (comparison.difference, comparison.ci_low, comparison.ci_high, comparison.p) == (0, 0, 0, 1)


def test_compare_weighs_strata_equally() -> None:
    first = {"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.0}
    second = first | {"d": 1.0}
    tasks = {"a": "x", "b": "x", "c": "x", "d": "y"}
    assert stats.compare(first, second, strata=tasks).difference == 0.5


def test_runs_of_other_examples_are_not_compared() -> None:
    with pytest.raises(CrossFlowError, match="'c'"):
        stats.compare({"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 0.0, "c": 1.0})


def test_the_jackknife_of_a_mean_covers_it_as_often_as_it_says() -> None:
    """For a mean the statistic's truth is known; 20 groups and Student's t must cover it 95 % of the time."""
    generator = np.random.default_rng(5)
    covered = 0
    for _ in range(400):
        scores = generator.normal(size=103)
        value = stats.jackknife(lambda kept, scores=scores: float(scores[kept].mean()), 103)
        covered += value.ci_low <= 0 <= value.ci_high  # type: ignore[operator]
    assert 0.92 <= covered / 400 <= 0.98


def test_the_jackknife_of_few_outputs_has_no_interval() -> None:
    value = stats.jackknife(lambda kept: float(len(kept)), 39)
    assert (value.mean, value.ci_low, value.n) == (39, None, 39)


def test_method_names_tell_the_constants() -> None:
    assert str(stats.RESAMPLES) in stats.BOOTSTRAP and str(stats.RESAMPLES) in stats.STRATIFIED_BOOTSTRAP
    assert f"{stats.GROUPS} groups" in stats.JACKKNIFE
