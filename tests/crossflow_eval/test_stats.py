"""Laws of the intervals: coverage on known distributions, closed forms of the tests, order and memory do not matter."""

from __future__ import annotations

import math
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from benchmarks.coverage import CASES, coverage
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


def test_without_bounds_two_strata_have_welchs_interval() -> None:
    """Oracle: SciPy's t test of unequal variances gives the interval of a difference; that of the mean is its half."""
    generator = np.random.default_rng(8)
    first, second = generator.normal(1, 3, 9), generator.normal(2, 1, 70)
    oracle = scipy_stats.ttest_ind(first, -second, equal_var=False).confidence_interval(0.95)
    value = stats.stratified_mean({"a": first, "b": second})
    assert (value.ci_low, value.ci_high) == pytest.approx((oracle.low / 2, oracle.high / 2), rel=1e-12)
    assert (value.mean, value.n) == (pytest.approx((first.mean() + second.mean()) / 2), 79)


def test_with_bounds_verdicts_have_wilsons_interval_where_it_is_wider() -> None:
    """Oracle: Wilson's roots p of (m - p)^2 n = t^2 p (1 - p); 20 of 20 right leave room below and none above."""
    t = float(scipy_stats.t.ppf(0.975, 19))
    value = stats.stratified_mean({"all": [1.0] * 20}, bounds=stats.UNIT)
    assert (value.mean, value.ci_high) == (1, 1)
    assert value.ci_low == pytest.approx(20 / (20 + t**2))


@pytest.mark.parametrize("bounds", [None, stats.UNIT])
def test_a_task_of_one_example_has_no_interval(bounds: tuple[float, float] | None) -> None:
    value = stats.stratified_mean({"a": [0.2, 0.7, 0.4], "b": [0.5]}, bounds=bounds)
    assert (value.ci_low, value.ci_high, value.n) == (None, None, 4)
    assert "b" in stats.single_strata({"a": 3, "b": 1}) and not stats.single_strata({"a": 2})


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=30), min_size=1, max_size=6))
def test_the_interval_of_shares_holds_their_mean_and_keeps_its_bounds(strata: list[list[float]]) -> None:
    """Properties: mirrored scores have the mirrored interval, and never one of no width."""
    value = stats.stratified_mean({str(k): scores for k, scores in enumerate(strata)}, bounds=stats.UNIT)
    mirrored = stats.stratified_mean({str(k): [1 - x for x in s] for k, s in enumerate(strata)}, bounds=stats.UNIT)
    assert value.ci_low is not None and value.ci_high is not None and mirrored.ci_low is not None
    assert 0 <= value.ci_low <= value.mean + 1e-12 and value.mean - 1e-12 <= value.ci_high <= 1
    assert value.ci_low < value.ci_high
    assert mirrored.ci_low == pytest.approx(1 - value.ci_high, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("normal, 20 and 180", 0.94, 0.97),
        ("normal, 20 of spread 3 and 180", 0.94, 0.97),
        ("GenEval, SD 1.5's rates", 0.94, 0.97),
        ("GenEval, SDXL's rates, images alike", 0.94, 0.97),
        ("GenEval's first 85, images alike", 0.94, 1.0),
        ("20 verdicts at 0.95", 0.94, 1.0),
        ("6 x 20 verdicts at 0.99", 0.94, 1.0),
    ],
)
def test_intervals_cover_as_often_as_the_benchmark_says(name: str, low: float, high: float) -> None:
    """1,000 draws: a coverage of 0.95 is seen within 0.014 (two standard errors)."""
    case = next(case for case in CASES if case.name == name)
    covered, _ = coverage(case, draws=1000, seed=1)
    assert low - 0.014 <= covered <= high + 0.014


def test_the_interval_and_the_p_of_a_comparison_never_contradict_each_other() -> None:
    """Verdicts, shares and numbers, few and many, of equal and of unequal tasks."""
    generator, told = np.random.default_rng(12), {True: 0, False: 0}
    for trial in range(150):
        n, shift = int(generator.integers(4, 60)), float(generator.uniform(0, 0.8))
        first = generator.normal(size=n) if trial % 2 else generator.binomial(1 + trial % 3, 0.4, n) / (1 + trial % 3)
        second = first + generator.normal(shift, 1, n) if trial % 2 else np.maximum(first, generator.random(n) < shift)
        tasks = {str(i): "a" if i < 2 + n // 4 else "b" for i in range(n)}
        pair = [{str(i): float(x) for i, x in enumerate(scores)} for scores in (first, second)]
        found = stats.compare(*pair, strata=tasks if trial % 5 else None)
        if found.ci_low is not None and found.ci_high is not None:
            assert (found.p < 0.05) == (not found.ci_low <= 0 <= found.ci_high), found
            told[found.p < 0.05] += 1
    assert min(told.values()) > 20


def test_blocks_of_memory_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stats.bootstrap_mean(np.arange(50.0))
    monkeypatch.setattr(stats, "_BLOCK", 333)
    assert stats.bootstrap_mean(np.arange(50.0)) == whole


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
    assert comparison.ci_low is not None and comparison.ci_high is not None
    assert 0 < comparison.ci_low < 0.2 < comparison.ci_high


def test_compare_is_antisymmetric_and_blind_to_order() -> None:
    generator = np.random.default_rng(3)
    first = {f"e{i}": float(x) for i, x in enumerate(generator.normal(size=50))}
    second = {id: score + float(generator.normal(0.3)) for id, score in first.items()}
    forward = stats.compare(first, second)
    assert stats.compare(dict(reversed(first.items())), second) == forward
    backward = stats.compare(second, first)
    assert backward.p == forward.p and forward.ci_high is not None
    assert (backward.difference, backward.ci_low) == pytest.approx((-forward.difference, -forward.ci_high))


def test_the_permutation_p_agrees_with_enumeration() -> None:
    """Twelve unequal differences have 4,096 sign patterns; their exact p is the oracle of the drawn one."""
    values = np.random.default_rng(4).normal(0.4, 1.0, size=12)
    signs = np.array([[1 if pattern >> bit & 1 else -1 for bit in range(12)] for pattern in range(4096)])
    exact = (abs(signs @ values) >= abs(values.sum()) - 1e-12).mean()
    comparison = stats.compare({f"{i:02}": 0.0 for i in range(12)}, {f"{i:02}": float(v) for i, v in enumerate(values)})
    students = scipy_stats.ttest_1samp(values, 0).pvalue
    assert exact > students, "p is the larger of the two"
    assert comparison.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / stats.FLIPS))


def test_p_is_students_where_that_is_larger() -> None:
    """Five equal signs of unequal size: 2 of 32 patterns are as extreme, and the t test is less sure."""
    values = [0.1, 0.2, 0.3, 4.0, 5.0]
    students = float(scipy_stats.ttest_1samp(values, 0).pvalue)
    assert students > 2 / 32
    comparison = stats.compare(dict.fromkeys("abcde", 0.0), dict(zip("abcde", values, strict=True)))
    assert comparison.p == pytest.approx(students, rel=1e-9)


def test_equal_verdicts_are_no_proof_of_equal_models() -> None:
    """200 pairs of one verdict each leave room for the few that would differ; more of them leave less."""
    few, many = ({str(i): float(i % 2) for i in range(n)} for n in (20, 200))
    wide, narrow = stats.compare(few, few), stats.compare(many, many)
    for found in (wide, narrow):
        assert (found.difference, found.p) == (0, 1) and found.ci_low is not None and found.ci_high is not None
        assert found.ci_low == pytest.approx(-found.ci_high) and found.ci_high > 0
    assert narrow.ci_high < wide.ci_high  # type: ignore[operator]


def test_numbers_that_differ_by_a_constant_have_no_interval() -> None:
    comparison = stats.compare({"a": 0.123, "b": 0.5}, {"a": 1.123, "b": 1.5})
    assert (comparison.difference, comparison.ci_low, comparison.ci_high) == (1, None, None)


def test_a_task_of_few_numbers_is_said_to_cover_less() -> None:
    """Two and eighty normal scores are covered by 0.88 (``benchmarks.coverage``)."""
    first = {str(i): float(x) for i, x in enumerate(np.random.default_rng(3).normal(size=82))}
    second = {id: score + 1 / (2 + index) for index, (id, score) in enumerate(first.items())}
    for few, said in ((4, True), (5, False)):
        strata = {id: "few" if index < few else "many" for index, id in enumerate(first)}
        assert ("covers less" in stats.compare(first, second, strata=strata).method) == said


def test_compare_weighs_strata_equally() -> None:
    first = {"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.0}
    second = first | {"d": 1.0}
    tasks = {"a": "x", "b": "x", "c": "x", "d": "y"}
    comparison = stats.compare(first, second, strata=tasks)
    assert (comparison.difference, comparison.ci_low) == (0.5, None), "the task y has one example"


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
    assert str(stats.RESAMPLES) in stats.BOOTSTRAP
    assert f"{stats.GROUPS} groups" in stats.JACKKNIFE
