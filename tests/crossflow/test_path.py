"""Laws of the paths: their ends, and velocity = d(xt)/dt."""

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import forward_ad

from crossflow.errors import CrossFlowError
from crossflow.flow.path import PATHS, LinearPath, Path, SinCosPath

each_path = pytest.mark.parametrize("path", [LinearPath(), LinearPath(sigma_min=0.1), SinCosPath()], ids=repr)


def pair(seed: int = 0, shape: tuple[int, ...] = (5, 3, 2)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x0, x1 = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return x0, x1


@each_path
@given(seed=st.integers(0, 2**31), time=st.floats(0, 1))
def test_velocity_is_the_derivative_of_the_point(path: Path, seed: int, time: float) -> None:
    x0, x1 = pair(seed)
    t = torch.full((5,), time, dtype=torch.float64)
    with forward_ad.dual_level():
        point, derivative = forward_ad.unpack_dual(path.sample(x0, x1, forward_ad.make_dual(t, torch.ones_like(t))).xt)
    sample = path.sample(x0, x1, t)
    torch.testing.assert_close(sample.xt, point, rtol=0, atol=1e-14)
    torch.testing.assert_close(sample.velocity, derivative, rtol=0, atol=1e-13)


@each_path
def test_time_zero_is_the_source_and_time_one_the_target(path: Path) -> None:
    x0, x1 = pair()
    left = path.sigma_min if isinstance(path, LinearPath) else 0.0
    torch.testing.assert_close(path.sample(x0, x1, x0.new_zeros(5)).xt, x0, rtol=0, atol=0)
    torch.testing.assert_close(path.sample(x0, x1, x0.new_ones(5)).xt, x1 + left * x0, rtol=0, atol=1e-15)


@each_path
def test_each_item_has_its_own_time(path: Path) -> None:
    x0, x1 = pair()
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    whole = path.sample(x0, x1, t)
    for i in range(5):
        alone = path.sample(x0[i : i + 1], x1[i : i + 1], t[i : i + 1])
        assert torch.equal(whole.xt[i], alone.xt[0])
        assert torch.equal(whole.velocity[i], alone.velocity[0])


@each_path
def test_what_is_left_is_the_share_of_the_source(path: Path) -> None:
    x0, t = pair()[0], torch.linspace(0, 1, 5, dtype=torch.float64)
    point = path.sample(x0, torch.zeros_like(x0), t).xt
    torch.testing.assert_close(point, path.left(t)[:, None, None] * x0, rtol=0, atol=1e-15)


@each_path
@given(seed=st.integers(0, 2**31), time=st.floats(0, 1))
def test_a_point_and_its_velocity_tell_both_ends(path: Path, seed: int, time: float) -> None:
    x0, x1 = pair(seed)
    t = torch.full((5,), time, dtype=torch.float64)
    sample = path.sample(x0, x1, t)
    start, end = path.ends(sample.xt, sample.velocity, t)
    torch.testing.assert_close(start, x0, rtol=0, atol=1e-13)
    torch.testing.assert_close(end, x1, rtol=0, atol=1e-13)
    gained = path.sample(torch.zeros_like(x0), torch.ones_like(x1), t).xt[:, 0, 0]
    torch.testing.assert_close(path.gained(t), gained, rtol=0, atol=1e-15)


def test_sincos_keeps_the_variance_and_linear_does_not() -> None:
    """Of independent unit-variance ends: 1 at every t on sin-cos, 1/2 half-way on the line. 4e5 draws: 0.01 is 4 sd."""
    x0, x1 = pair(shape=(4, 100_000))
    t = x0.new_full((4,), 0.5)
    assert SinCosPath().sample(x0, x1, t).xt.var() == pytest.approx(1, abs=0.01)
    assert LinearPath().sample(x0, x1, t).xt.var() == pytest.approx(0.5, abs=0.01)


def test_the_names_lead_to_the_paths() -> None:
    assert {name: path() for name, path in PATHS.items()} == {"linear": LinearPath(), "sincos": SinCosPath()}


@pytest.mark.parametrize("sigma_min", [-0.1, 1.0, float("nan")])
def test_a_sigma_min_outside_its_range_is_refused(sigma_min: float) -> None:
    with pytest.raises(CrossFlowError, match="sigma_min"):
        LinearPath(sigma_min=sigma_min)


@each_path
def test_shapes_that_would_broadcast_are_refused(path: Path) -> None:
    """Without the shape checks of the test run, as a user has it."""
    x0, x1 = pair()
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(CrossFlowError, match=r"\[5, 3, 2\], x1 \[1, 3, 2\]"):
            path.sample(x0, x1[:1], x0.new_zeros(5))
        with pytest.raises(CrossFlowError, match=r"t \[1\]"):
            path.sample(x0, x1, x0.new_zeros(1))
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
