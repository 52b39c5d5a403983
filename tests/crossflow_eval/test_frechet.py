"""The Frechet distance against closed forms, against the exact value where n < d, and against the libraries in use."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.image.fid import _compute_fid

from crossflow_eval.metrics.frechet import Moments, frechet_distance, rank_warning
from crossflow_eval.stats import jackknife


def sample(n: int, dim: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Correlated features with a spectrum that decays over two orders of magnitude, as those of networks do."""
    generator = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(generator.normal(size=(dim, dim)))
    return generator.normal(size=(n, dim)) * np.geomspace(3, 0.03, dim) @ rotation + shift


def of_features(x: np.ndarray, y: np.ndarray) -> float:
    return frechet_distance(Moments.of_features(x), Moments.of_features(y))


def of_covariances(x: np.ndarray, y: np.ndarray) -> float:
    first, second = (Moments.of_covariance(z.mean(0), np.cov(z, rowvar=False)) for z in (x, y))
    return frechet_distance(first, second)


@pytest.mark.parametrize("dim", [1, 3, 40])
def test_commuting_covariances_have_a_closed_form(dim: int) -> None:
    """For C1 = Q diag(a) Q', C2 = Q diag(b) Q' it is |m1 - m2|^2 + sum (sqrt a - sqrt b)^2; some a and b are zero."""
    generator = np.random.default_rng(dim)
    rotation, _ = np.linalg.qr(generator.normal(size=(dim, dim)))
    a, b = generator.exponential(size=(2, dim)) + 0.1
    if dim == 40:
        a[:5], b[3:9] = 0, 0
    m1, m2 = generator.normal(size=(2, dim))
    first = Moments.of_covariance(m1, rotation * a @ rotation.T)
    second = Moments.of_covariance(m2, rotation * b @ rotation.T)
    exact = ((m1 - m2) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(first, second) == pytest.approx(exact, rel=1e-11)


@pytest.mark.parametrize(("n", "m", "dim"), [(20, 20, 60), (20, 500, 60), (61, 20, 60), (59, 60, 60)])
def test_rank_deficient_sets_give_the_exact_value(n: int, m: int, dim: int) -> None:
    """Oracle: the nuclear norm of the small Gram matrix of the two centred sets, which has no null space to round."""
    x, y = sample(n, dim, 1), sample(m, dim, 2, 0.1)
    a, b = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y))
    nuclear = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    exact = ((x.mean(0) - y.mean(0)) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * nuclear
    assert of_features(x, y) == pytest.approx(exact, rel=1e-11)
    assert of_covariances(x, y) == pytest.approx(exact, rel=1e-11)


@pytest.mark.parametrize(("n", "dim"), [(10, 64), (64, 64), (500, 64)])
def test_a_set_is_at_no_distance_of_itself(n: int, dim: int) -> None:
    x = sample(n, dim, 3)
    assert 0 <= of_features(x, x) <= 1e-20
    assert 0 <= of_features(x, x[::-1]) <= 1e-20
    assert 0 <= of_covariances(x, x) <= 1e-20


def test_a_tiny_distance_keeps_its_digits() -> None:
    """Scaling a set by 1 + s moves it by s^2 tr C: eight orders below the traces that are subtracted."""
    x = sample(300, 30, 4)
    x -= x.mean(0)
    exact = 1e-8 * np.cov(x, rowvar=False).trace()
    assert of_features(x, x * (1 + 1e-4)) == pytest.approx(exact, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 20), st.integers(0, 10**6))
def test_it_is_symmetric_and_never_negative(n: int, m: int, dim: int, seed: int) -> None:
    x, y = sample(n, dim, seed), sample(m, dim, seed + 1)
    forward, backward = of_features(x, y), of_features(y, x)
    assert forward >= 0
    assert forward == pytest.approx(backward, rel=1e-10)


def test_at_full_rank_it_is_the_number_that_the_libraries_print() -> None:
    """clean-fid's formula re-stated with sqrtm, and torchmetrics' eigvals, on 3,000 features of 96 dimensions."""
    x, y = sample(3000, 96, 5), sample(2000, 96, 6, 0.2)
    (m1, c1), (m2, c2) = ((z.mean(0), np.cov(z, rowvar=False)) for z in (x, y))
    root = scipy.linalg.sqrtm(c1 @ c2)
    sqrtm = float(((m1 - m2) ** 2).sum() + c1.trace() + c2.trace() - 2 * np.trace(root).real)
    eigvals = float(_compute_fid(*(torch.from_numpy(array) for array in (m1, c1, m2, c2))))
    for ours in (of_features(x, y), of_covariances(x, y)):
        assert ours == pytest.approx(sqrtm, rel=1e-6)
        assert ours == pytest.approx(eigvals, rel=1e-6)


@pytest.mark.parametrize("rows", [80, 120])
@pytest.mark.parametrize("smallest", [1e-1, 1e-3, 1e-5, 1e-7, 1e-9])
def test_the_sum_of_singular_values_is_exact_enough_by_whichever_way(smallest: float, rows: int) -> None:
    """Against the singular values themselves, from well to hopelessly conditioned, square and not."""
    generator = np.random.default_rng(0)
    scales = np.geomspace(1, smallest, 120)
    first, second = (np.linalg.qr(generator.normal(size=(400, 120)) * scales, mode="r") for _ in range(2))
    exact = np.linalg.svd(first[:rows] @ second.T, compute_uv=False).sum()
    whole = (first[:rows] ** 2).sum() + (second**2).sum()
    mean = np.zeros(120)
    found = frechet_distance(Moments(mean, first[:rows]), Moments(mean, second))
    assert abs(found - (whole - 2 * exact)) <= 1e-11 * (whole - 2 * exact) + 2e-14 * exact


@pytest.mark.parametrize(("n", "m"), [(500, 400), (40, 40), (40, 50), (40, 500)])
def test_sets_of_features_need_no_singular_values(n: int, m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would take most of the time, at full rank and below; the distance is that of the singular values."""
    x, y = sample(n, 64, 11), sample(m, 64, 12)
    first, second = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y))
    roots = np.linalg.svd(first @ second.T, compute_uv=False).sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + (first**2).sum() + (second**2).sum() - 2 * roots
    monkeypatch.setattr(np.linalg, "svd", None)
    assert of_features(x, y) == pytest.approx(expected, rel=1e-10)


def test_nearly_dependent_features_get_the_root_of_their_rows() -> None:
    """A copied dimension leaves the covariance without a Cholesky root; a tiny distance still keeps its digits."""
    x = sample(300, 30, 13)
    x = np.concatenate([x, x[:, :1]], axis=1)
    exact = 1e-8 * (np.cov(x, rowvar=False).trace() + (x.mean(0) ** 2).sum())
    assert of_features(x, x * (1 + 1e-4)) == pytest.approx(exact, rel=1e-9)


def test_it_differs_from_the_libraries_only_where_they_take_roots_of_rounding_errors() -> None:
    """A witness of why: with n < d the self-distance by eigvals is off zero by more than ten thousand times ours."""
    x = sample(50, 256, 7)
    mean, covariance = torch.from_numpy(x.mean(0)), torch.from_numpy(np.cov(x, rowvar=False))
    theirs = abs(float(_compute_fid(mean, covariance, mean, covariance)))
    assert of_features(x, x) * 1e4 < theirs


def test_float32_features_are_lifted_before_any_sum() -> None:
    x = (sample(100, 20, 8) + 1000).astype(np.float32)
    y = (sample(100, 20, 9) + 1000).astype(np.float32)
    assert of_features(x, y) == of_features(x.astype(np.float64), y.astype(np.float64))


@pytest.mark.filterwarnings("error")
def test_arrays_may_be_read_only_and_of_any_order() -> None:
    x, y = sample(100, 20, 14), sample(90, 20, 15)
    covariance = np.cov(y[:, ::-1], rowvar=False)[::-1, ::-1]
    covariance.flags.writeable = False
    found = frechet_distance(Moments.of_features(np.asfortranarray(x)), Moments.of_covariance(y.mean(0), covariance))
    assert found == pytest.approx(of_features(x, y), rel=1e-12)


@pytest.mark.parametrize(
    "call",
    [
        lambda: Moments.of_features(np.zeros((1, 4))),
        lambda: Moments.of_features(np.full((3, 4), np.nan)),
        lambda: Moments.of_covariance(np.zeros(2), np.eye(3)),
        lambda: Moments.of_covariance(np.zeros(2), np.diag([1.0, -1.0])),
        lambda: Moments.of_covariance(np.zeros(2), np.array([[1.0, 0.9], [0.1, 1.0]])),
        lambda: of_features(sample(5, 3, 0), sample(5, 4, 0)),
    ],
)
def test_what_has_no_distance_is_refused(call) -> None:
    with pytest.raises(ValueError), warnings.catch_warnings():
        warnings.simplefilter("error")
        call()


def test_the_rank_warning_speaks_up_to_n_equal_to_d() -> None:
    """n centred points span n - 1 dimensions."""
    assert rank_warning("outputs", 65, 64) is None
    assert "64 outputs" in (rank_warning("outputs", 64, 64) or "")


def test_the_jackknife_interval_of_fid_is_as_wide_as_fid_varies() -> None:
    """Over 100 fresh sets of 120 the error of the jackknife must be the spread of FID, up to its known caution."""
    generator = np.random.default_rng(10)
    reference = Moments.of_features(generator.normal(size=(2000, 8)))
    distances, errors = [], []
    for _ in range(100):
        x = generator.normal(0.2, 1.0, size=(120, 8))
        value = jackknife(lambda kept, x=x: frechet_distance(Moments.of_features(x[kept]), reference), len(x))
        assert value.ci_low is not None
        distances.append(value.mean)
        errors.append((value.mean - value.ci_low) / 2.093)
    assert 0.85 <= np.mean(errors) / np.std(distances) <= 1.4
