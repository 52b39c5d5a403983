"""Verdicts: the statistics against others' programs and by simulation, and what is said of them."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from crossflow_eval.ablate.verdict import Compared, Verdict, counted, holm, seeds_needed, verdicts, welch

OURS, THEIRS = (0.61, 0.64, 0.66, 0.63), (0.52, 0.58, 0.50)
LOWER_IS_BETTER = ("FID-30K", False)


@pytest.mark.parametrize(("a", "b"), [(OURS, THEIRS), (THEIRS, OURS), ((1.0, 2.0), (1.1, 1.2, 9.0))])
def test_intervals_and_p_are_welch_s(a, b):
    """Oracle: scipy."""
    expected = scipy_stats.ttest_ind(a, b, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert welch(a, b) == pytest.approx((interval.low, interval.high, expected.pvalue))


def test_one_seed_and_seeds_without_spread_have_no_interval():
    assert welch([1.0], [1.0, 2.0]) is None
    assert welch([1.0, 1.0], [2.0, 2.0]) is None


def test_p_values_are_adjusted_as_by_holm():
    """A worked example: 0.01 x 4, 0.015 x 3, 0.02 x 2, then the running maximum, 0.6 x 1."""
    assert holm([0.02, 0.01, 0.6, 0.015]) == pytest.approx([0.045, 0.04, 0.6, 0.045])
    assert holm([0.7, 0.8]) == [1, 1]
    assert holm([]) == []


def test_the_seeds_that_would_decide_do_so_four_times_in_five():
    """By simulation: with as many seeds the test decides about 80 % of the time, and with one fewer less often."""
    needed = seeds_needed((1.0, 2.0, 3.0), (1.5, 3.5, 4.0))
    assert needed is not None
    spread = [np.std(each, ddof=1) for each in ((1.0, 2.0, 3.0), (1.5, 3.5, 4.0))]
    draw = np.random.default_rng(0)

    def power(n: int) -> float:
        a, b = draw.normal(2, spread[0], (20_000, n)), draw.normal(3, spread[1], (20_000, n))
        return float(np.mean(scipy_stats.ttest_ind(a, b, axis=1, equal_var=False).pvalue < 0.05))

    assert 0.79 < power(needed) < 0.84
    assert power(needed - 3) < 0.79


def test_no_number_of_seeds_decides_what_does_not_differ():
    assert seeds_needed((1.0, 3.0), (3.0, 1.0)) is None
    assert seeds_needed((1.0, 3.0), (3.0000001, 1.0)) is None
    assert seeds_needed((1.0,), (2.0, 3.0)) is None
    assert seeds_needed((2.0, 2.0), (1.0, 1.0)) is None, "two of them did not: the seeds seen have no spread"


def said(ours, theirs, published, higher=True, by=LOWER_IS_BETTER) -> Verdict:
    compared = Compared(title="a against b", ours=ours, theirs=theirs, published=published)
    (found,) = verdicts("table1", "geneval", [compared], higher, by)
    return found


def test_the_same_sign_is_reproduced_and_the_other_reversed():
    """Ours by a value of which more is better, the paper's by FID; and both ways round."""
    assert said(OURS, THEIRS, (10.13, 10.79)).verdict == "reproduced"
    assert said(OURS, THEIRS, (10.79, 10.13)).verdict == "reversed"
    assert said(THEIRS, OURS, (10.79, 10.13)).verdict == "reproduced"
    assert said(THEIRS, OURS, (10.79, 10.13), higher=False).verdict == "reversed"
    assert said(OURS, THEIRS, (0.57, 0.55), by=("Overall", True)).verdict == "reproduced"


def test_a_gap_within_the_spread_of_the_seeds_is_not_decided():
    found = said((0.5, 0.7), (0.5, 0.6), (10.13, 10.79))
    assert found.verdict == "not decided at this budget"
    assert found.ci_low < 0 < found.ci_high
    assert found.seeds_needed > 2
    alone = said((0.9,), (0.1,), (10.13, 10.79))
    assert (alone.verdict, alone.seeds, alone.p) == ("not decided at this budget", 1, None)


def test_several_comparisons_need_more_than_one_would():
    """The interval of each excludes 0, but no p survives being one of four."""
    close = Compared(title="a", ours=(0.60, 0.62, 0.64), theirs=(0.53, 0.55, 0.57), published=(1.0, 2.0))
    assert said(close.ours, close.theirs, close.published).verdict == "reproduced"
    found = verdicts("table1", "geneval", [close] * 4, True, LOWER_IS_BETTER)
    assert found[0].ci_low > 0
    assert counted(found) == {"not decided at this budget": 4}
    assert found[0].p == pytest.approx(4 * welch(close.ours, close.theirs)[2])


def test_what_the_paper_does_not_print_is_compared_with_nothing():
    assert said(OURS, THEIRS, None).verdict == "no published difference"
    assert said(OURS, THEIRS, (10.0, 10.0)).verdict == "no published difference"
    assert said(OURS, THEIRS, (1.0, 2.0), by=None).verdict == "no published difference"
    assert said(OURS, THEIRS, None).difference == pytest.approx(np.mean(OURS) - np.mean(THEIRS))


def test_a_row_that_failed_has_no_difference_and_does_not_count_in_the_adjustment():
    compared = [
        Compared(title="failed", ours=(), theirs=THEIRS, published=(1.0, 2.0)),
        Compared(title="there", ours=OURS, theirs=THEIRS, published=(1.0, 2.0)),
    ]
    failed, there = verdicts("table1", "geneval", compared, True, LOWER_IS_BETTER)
    assert (failed.verdict, failed.difference, failed.p, failed.seeds) == ("a row failed", None, None, 0)
    assert there.p == pytest.approx(welch(OURS, THEIRS)[2])
