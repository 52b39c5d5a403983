"""Each statistic against the tool that publishes it, on the same features, or against its definition pair by pair."""

from __future__ import annotations

import time

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.linear_model import LinearRegression
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from crossflow_eval.metrics import distribution, pairs
from crossflow_eval.metrics.distribution import (
    cmmd,
    frechet_infinity,
    inception_scores,
    inception_scores_adm,
    kid,
)
from crossflow_eval.metrics.frechet import Moments
from crossflow_eval.metrics.neighbourhoods import (
    Neighbourhoods,
    _lower_bounds,
    _Points,
    _radii,
    _TooCoarse,
    _upper_bounds,
    neighbourhoods,
)

BALLS = "crossflow_eval.metrics.neighbourhoods"


def sample(n: int, dim: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, size=(n, dim))


def test_kid_is_torch_fidelitys() -> None:
    """The same subsets of 1,500 and 1,200 features from the same seed; agreement in float64."""
    x, y = sample(1500, 48, 0), sample(1200, 48, 1, 0.2)
    theirs = kid_features_to_metric(*map(torch.from_numpy, (x, y)), kid_subsets=4, kid_subset_size=1000, verbose=False)
    ours = kid(x, y, subsets=4)
    assert ours.mean() == pytest.approx(theirs["kernel_inception_distance_mean"], abs=1e-10)
    assert ours.std() == pytest.approx(theirs["kernel_inception_distance_std"], abs=1e-10)


@pytest.mark.parametrize("size", [5, 40])
def test_kid_from_all_pairs_is_kid_from_each_subset(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To rounding; in tiles of one pair and of several, for sets of two sizes."""
    x, y = sample(90, 6, 2), sample(70, 6, 3, 0.3)
    whole = [kid(x, y, subsets=200, size=size)]
    for side in (1, 40):
        monkeypatch.setattr(pairs, "SIDE", side)
        whole.append(kid(x, y, subsets=200, size=size))
    few = kid(x, y, subsets=1, size=size)
    for found in whole:
        np.testing.assert_allclose(found, whole[0], rtol=0, atol=1e-12)
        assert found[0] == pytest.approx(few[0], abs=1e-12)


@pytest.mark.parametrize("subsets", [2, 200])
def test_kid_of_float32_features_is_that_in_float64(subsets: int) -> None:
    """To 2e-9, of features like Inception's; torch-fidelity rounds by 1e-7. From subsets and from all pairs."""
    x, y = (0.4 * abs(each).astype(np.float32) for each in (sample(120, 300, 0, 1), sample(110, 300, 1, 1.1)))
    found = kid(x, y, subsets=subsets, size=100)
    expected = kid(x.astype(np.float64), y.astype(np.float64), subsets=subsets, size=100)
    assert found == pytest.approx(expected, abs=2e-9)


def test_kid_of_one_distribution_is_zero_on_average() -> None:
    """Unbiased: over 200 disjoint pairs of sets the mean is zero within four standard errors, and some are negative."""
    found = [kid(sample(20, 4, seed), sample(20, 4, seed + 1000), subsets=1, size=20)[0] for seed in range(200)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))
    assert min(found) < 0


def test_the_inception_score_is_torch_fidelitys() -> None:
    logits = 3 * sample(1234, 100, 2)
    theirs = isc_features_to_metric(torch.from_numpy(logits))
    ours = inception_scores(logits)
    assert ours.mean() == pytest.approx(theirs["inception_score_mean"], abs=1e-8)
    assert ours.std() == pytest.approx(theirs["inception_score_std"], abs=1e-8)


def test_adms_inception_score_takes_5000_at_a_time_in_order() -> None:
    """Oracle: ADM's three lines, on 10,007 sorted logits, so that another order or another part would show."""
    logits = np.sort(2 * sample(10_007, 30, 3), axis=0)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = []
    for part in (probabilities[:5000], probabilities[5000:10_000], probabilities[10_000:]):
        divergence = part * (np.log(part) - np.log(part.mean(axis=0)[None]))
        expected.append(np.exp(divergence.sum(axis=1).mean()))
    assert inception_scores_adm(logits) == pytest.approx(expected, abs=1e-8)
    assert abs(inception_scores(logits).mean() - np.mean(expected)) > 1e-3


def test_the_inception_score_runs_from_one_to_the_number_of_classes() -> None:
    """Equal answers score 1; certain ones that are spread over all classes score their number."""
    assert inception_scores(np.ones((100, 7))) == pytest.approx(np.ones(10), abs=1e-12)
    certain = np.tile(1000 * np.eye(5), (40, 1))
    assert inception_scores_adm(certain) == pytest.approx([5.0], abs=1e-9)


def by_pairs(x: np.ndarray, y: np.ndarray, k: int, closed: bool) -> Neighbourhoods:
    """Who lies in whose balls by the definitions, on the whole distance matrices in float64."""
    inside = np.less_equal if closed else np.less
    own, theirs = (np.sort(cdist(points, points), axis=1)[:, k] for points in (x, y))
    between = cdist(y, x)
    in_reference, in_own = (np.asarray(inside(between, radii)) for radii in (theirs[:, None], own[None]))
    recalled, covered = (np.asarray(each.any(axis=1)) for each in (in_own, in_reference))
    return Neighbourhoods(in_reference.sum(axis=0), recalled, covered, k)


def assert_equal(found: Neighbourhoods, expected: Neighbourhoods) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("k", "closed"), [(5, False), (3, True)])
def test_the_four_shares_are_those_of_their_definitions(k: int, closed: bool) -> None:
    """k = 5 and open is prdc's and dgm-eval's. 500 x 64, exactly."""
    x, y = sample(500, 64, 4), sample(430, 64, 5, 0.1)
    found = neighbourhoods(x, y, k=k, closed=closed)
    expected = by_pairs(x, y, k, closed)
    assert_equal(found, expected)
    shares = (expected.hits > 0, expected.recalled, expected.hits / k, expected.covered)
    ours = (found.precision, found.recall, found.density, found.coverage)
    assert ours == pytest.approx(tuple(map(np.mean, shares)), rel=1e-12)
    assert 0.05 < found.precision < 0.95 and 0.05 < found.recall < 0.95


def test_precision_and_recall_are_torch_fidelitys() -> None:
    x, y = sample(500, 64, 6), 1.1 * sample(430, 64, 7, 0.05)
    theirs = prc_features_to_metric(
        *map(torch.from_numpy, (x, y)), prc_neighborhood=3, prc_batch_size=10_000, save_cpu_ram=False, verbose=False
    )
    found = neighbourhoods(x, y, k=3, closed=True)
    assert found.precision == pytest.approx(theirs["precision"], abs=1e-7)
    assert found.recall == pytest.approx(theirs["recall"], abs=1e-7)


@settings(max_examples=60)
@given(
    st.integers(4, 30),
    st.integers(4, 30),
    st.integers(1, 3),
    st.integers(1, 9),
    st.booleans(),
    st.sampled_from([1, 1000, 2.0**-60, 2.0**60]),
    st.sampled_from([5, 2048]),
    st.integers(0, 10**6),
)
def test_ties_and_equal_points_are_decided_exactly(
    n: int, m: int, k: int, dim: int, closed: bool, unit: float, side: int, seed: int
) -> None:
    """Points on a small grid, of any unit: most distances tie, and whole numbers carry no rounding."""
    generator = np.random.default_rng(seed)
    x, y = (np.float32(unit) * generator.integers(0, 3, size=(size, dim)).astype(np.float32) for size in (n, m))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{BALLS}._ROWS", side)
        patch.setattr(f"{BALLS}._COLUMNS", side)
        patch.setattr(f"{BALLS}.has_bfloat16", lambda: bool(seed % 2))
        assert_equal(neighbourhoods(x, y, k=k, closed=closed), by_pairs(x, y, k, closed))


def on_a_grid(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, size=(n, 5)).astype(np.float32)


def on_a_line(n: int, seed: int) -> np.ndarray:
    """Whose rounding errors are along the points themselves: no product could err more."""
    return (np.random.default_rng(seed).uniform(1, 2, size=(n, 1)) * np.full((1, 48), 1 + 2**-8)).astype(np.float32)


def in_clumps(n: int, seed: int) -> np.ndarray:
    """In two, as far apart as a bfloat16 can tell, so that it can tell nothing within one."""
    return np.float32(0.01) * sample(n, 32, seed).astype(np.float32) + np.arange(n)[:, None] % 2


HARD = {
    "float32": lambda n, seed: sample(n, 64, seed).astype(np.float32),
    "float64": lambda n, seed: sample(n, 64, seed),
    "a grid": on_a_grid,
    "a line": on_a_line,
    "clumps": in_clumps,
    "each twice": lambda n, seed: np.repeat(sample(n // 2, 16, seed), 2, axis=0),
    "all equal": lambda n, seed: np.full((n, 16), 0.3),
    "a huge offset": lambda n, seed: 1e6 + sample(n, 16, seed),
    "one far away": lambda n, seed: sample(n, 16, seed) * np.where(np.arange(n) == 3, 1e4, 1)[:, None],
    "squares too small": lambda n, seed: np.hstack([np.ones((n, 1)), 3e-23 * sample(n, 16, seed)]),
    "tiny": lambda n, seed: 1e-60 * sample(n, 16, seed),
    "tiny float32": lambda n, seed: np.float32(1e-40) * sample(n, 16, seed).astype(np.float32),
    "huge float32": lambda n, seed: np.float32(1e37) * sample(n, 16, seed).astype(np.float32),
}


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("sizes", [(4, 5), (330, 290)])
@pytest.mark.parametrize("closed", [True, False])
def test_from_bfloat16_and_from_float32_every_answer_is_the_same(
    kind: str, sizes: tuple[int, int], closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On any CPU, which also multiplies bfloat16 without instructions for it; and however many pairs are left open."""
    x, y = (HARD[kind](n, seed) for n, seed in zip(sizes, (18, 19), strict=True))
    expected = by_pairs(x, y, 3, closed)
    monkeypatch.setattr(f"{BALLS}._OPEN", np.inf)
    for half in (True, False):
        monkeypatch.setattr(f"{BALLS}.has_bfloat16", lambda half=half: half)
        assert_equal(neighbourhoods(x, y, k=3, closed=closed), expected)


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("half", [True, False])
def test_every_distance_is_within_its_bounds(kind: str, half: bool) -> None:
    x, y = (HARD[kind](n, seed) for n, seed in ((60, 20), (50, 21)))
    scale = 2.0 ** -np.ceil(np.log2(max(float(abs(each).max()) for each in (x, y))))
    first, second = (_Points(each, y.mean(axis=0, dtype=np.float64), scale, half) for each in (x, y))
    exact = cdist(scale * x, scale * y, "sqeuclidean") / 2
    for rows, columns, low in _lower_bounds(first, second):
        high = _upper_bounds(first, second, np.arange(60)[rows, None], np.arange(50)[columns], low)
        assert (low <= exact[rows, columns]).all() and (exact[rows, columns] <= high).all()


def test_points_in_clumps_are_left_to_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds from bfloat16 would leave open all pairs of a clump, whose number grows with the square of n."""
    x, y = in_clumps(400, 22), in_clumps(300, 23)
    with pytest.raises(_TooCoarse):
        _radii(_Points(x, y.mean(axis=0), np.float32(0.5), half=True), 3)
    monkeypatch.setattr(f"{BALLS}.has_bfloat16", lambda: True)
    assert_equal(neighbourhoods(x, y, k=3, closed=True), by_pairs(x, y, 3, closed=True))


@pytest.mark.parametrize("closed", [True, False])
def test_nearly_equal_distances_are_told_apart(closed: bool) -> None:
    """On a small sphere far from zero; and a set against itself, where every radius is tied with."""
    x, y = (sample(200, 3, seed) for seed in (14, 15))
    x, y = (1000 + 1e-3 * each / np.linalg.norm(each, axis=1, keepdims=True) for each in (x, y))
    assert_equal(neighbourhoods(x, y, k=3, closed=closed), by_pairs(x, y, 3, closed))
    assert_equal(neighbourhoods(x, x, k=3, closed=closed), by_pairs(x, x, 3, closed))


def test_many_equal_images_take_no_more_time() -> None:
    """Two images 2,000 times each: to compute all of the 16 million pairs that tie would take a minute."""
    few, y = sample(2, 256, 16).astype(np.float32), sample(500, 256, 17).astype(np.float32)
    start = time.process_time()
    found = neighbourhoods(np.repeat(few, 2000, axis=0), y, k=3, closed=True)
    assert time.process_time() - start < 10
    assert len(set(found.hits[:2000])) == 1 and len(found.recalled) == 500


def test_the_size_of_the_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = sample(200, 16, 8), sample(150, 16, 9, 0.1)
    whole, distance = neighbourhoods(x, y, k=3, closed=True), cmmd(x, y)
    monkeypatch.setattr(distribution, "_BLOCK", 1000)
    monkeypatch.setattr(f"{BALLS}._ROWS", 30)
    monkeypatch.setattr(f"{BALLS}._COLUMNS", 70)
    assert_equal(neighbourhoods(x, y, k=3, closed=True), whole)
    assert cmmd(x, y) == pytest.approx(distance, rel=1e-10)


def test_cmmd_is_that_of_the_published_code() -> None:
    """Oracle: Google's formula by torch in float64 on unit vectors; ours is given them at any length."""
    x, y = (torch.from_numpy(each) for each in (sample(300, 40, 10), sample(200, 40, 11, 0.3)))
    u, v = (torch.nn.functional.normalize(each) for each in (x, y))
    xx, yy, xy = (torch.exp(-(torch.cdist(a, b) ** 2) / 200).mean() for a, b in ((u, u), (v, v), (u, v)))
    assert cmmd(x.numpy(), y.numpy()) == pytest.approx(float(1000 * (xx + yy - 2 * xy)), rel=1e-9)
    assert cmmd(x.numpy(), 7 * x.numpy()) == pytest.approx(0.0, abs=1e-9)


def test_fid_infinity_is_dgm_evals_on_the_same_subsets() -> None:
    """Oracle: its loop re-stated, with sqrtm, scikit-learn's line and the subsets drawn from our seed."""
    x, y = sample(3000, 12, 12, 0.1), sample(2000, 12, 13)
    generator, distances = np.random.default_rng(0), []
    sizes = np.linspace(min(5000, max(len(x) // 10, 2)), len(x), 15).astype("int32")
    for size in sizes:
        part = generator.choice(x, size, replace=False)
        product = np.cov(y, rowvar=False) @ np.cov(part, rowvar=False)
        traces = np.cov(y, rowvar=False).trace() + np.cov(part, rowvar=False).trace()
        gap = ((y.mean(0) - part.mean(0)) ** 2).sum()
        distances.append(gap + traces - 2 * np.trace(scipy.linalg.sqrtm(product)).real)
    line = LinearRegression().fit(1 / sizes.reshape(-1, 1), np.array(distances))
    assert frechet_infinity(x, Moments.of_features(y)) == pytest.approx(line.intercept_, rel=1e-5)


def test_fid_infinity_takes_the_bias_of_few_outputs_away() -> None:
    """Of the reference's own distribution: the distance of 600 outputs is all bias, and the intercept a tenth of it."""
    exact = Moments.of_covariance(np.zeros(20), np.eye(20))
    found = [frechet_infinity(sample(600, 20, seed), exact) for seed in range(10)]
    biased = [distribution.frechet_distance(Moments.of_features(sample(600, 20, seed)), exact) for seed in range(10)]
    assert abs(np.mean(found)) < 0.1 * np.mean(biased)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: kid(x, x),
        lambda x: kid(x, x[:, 1:], size=5),
        lambda x: inception_scores(x[:9]),
        lambda x: neighbourhoods(x, x[:3], k=3, closed=True),
        lambda x: cmmd(x, x[:0]),
    ],
)
def test_too_few_or_of_another_kind_is_refused(call) -> None:
    with pytest.raises(ValueError):
        call(sample(20, 4, 0))
