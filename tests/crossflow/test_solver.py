"""Laws of the solvers: measured order, straight paths, there and back; torchdiffeq as the oracle."""

import math
from itertools import pairwise

import pytest
import torch
import torchdiffeq
from hypothesis import given, settings
from hypothesis import strategies as st

from crossflow.errors import CrossFlowError
from crossflow.flow.path import LinearPath
from crossflow.flow.solver import (
    OFFICIAL_END,
    SOLVERS,
    dopri5,
    dopri5_step,
    euler,
    euler_official,
    heun,
    midpoint,
    solver_named,
)

Tensor = torch.Tensor
START = torch.tensor([[0.3, 0.7], [1.1, 1.6]], dtype=torch.float64)
each_solver = pytest.mark.parametrize("name", list(SOLVERS))
both_ways = pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])


def logistic(x: Tensor, t: Tensor) -> Tensor:
    """x' = (1 + t) x (1 - x / 2): nonlinear, non-autonomous, and solvable in closed form."""
    return (1 + t)[:, None] * x * (1 - x / 2)


def logistic_end(x: Tensor, backward: bool) -> Tensor:
    time = -1.5 if backward else 1.5
    return 2 / (1 + (2 / x - 1) * math.exp(-time))


def error(name: str, steps: int, backward: bool) -> float:
    end = SOLVERS[name](logistic, START, steps, backward=backward)
    return (end - logistic_end(START, backward)).abs().max().item()


def orders(errors: list[float]) -> list[float]:
    return [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]


@both_ways
@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("euler_official", 1), ("midpoint", 2), ("heun", 2)])
def test_error_falls_with_the_order_of_the_method(name: str, order: int, backward: bool) -> None:
    measured = orders([error(name, steps, backward) for steps in (32, 64, 128)])
    assert measured == pytest.approx([order] * 2, abs=0.15)


@both_ways
def test_the_inner_step_of_dopri5_is_of_fifth_order_and_its_estimate_too(backward: bool) -> None:
    """Local errors of one more order: the step's own is h^6, the embedded estimate's h^5."""
    errors, local = [], []
    for steps in (8, 16, 32):
        x, h = START, START.new_full((2,), (-1 if backward else 1) / steps)
        t = torch.ones_like(h) if backward else torch.zeros_like(h)
        estimates = []
        for _ in range(steps):
            x, estimate, _ = dopri5_step(logistic, x, t, h, logistic(x, t))
            estimates.append(estimate.abs().max().item())
            t = t + h
        errors.append((x - logistic_end(START, backward)).abs().max().item())
        local.append(max(estimates))
    assert orders(errors) == pytest.approx([5, 5], abs=0.4)
    assert orders(local) == pytest.approx([5, 5], abs=0.4)


@both_ways
def test_dopri5_keeps_its_tolerance(backward: bool) -> None:
    """A few local errors of 1e-5 (1 + |x|) may add up; the solution is at most 2."""
    assert error("dopri5", 10, backward) < 1e-4
    assert error("dopri5", 1, backward) < 1e-4


@each_solver
def test_one_step_is_exact_on_a_straight_path(name: str) -> None:
    """The official grid alone stops 1e-5 before the end."""
    x0, x1 = torch.randn(2, 4, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    path = LinearPath()
    along = path.sample(x0, x1, x0.new_zeros(4)).velocity
    target = path.sample(x0, x1, x0.new_ones(4)).xt
    missing = 1e-5 * along if name == "euler_official" else 0 * along
    torch.testing.assert_close(SOLVERS[name](lambda x, t: along, x0, 1), target - missing, rtol=0, atol=1e-14)
    torch.testing.assert_close(
        SOLVERS[name](lambda x, t: along, target, 1, backward=True), x0 + missing, rtol=0, atol=1e-14
    )


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("euler", 2e-3), ("euler_official", 2e-3), ("midpoint", 1e-6), ("heun", 1e-6), ("dopri5", 1e-4)],
)
def test_there_and_back_returns(name: str, tolerance: float) -> None:
    there = SOLVERS[name](logistic, START, 500)
    back = SOLVERS[name](logistic, there, 500, backward=True)
    assert (there - START).abs().min() > 0.2
    torch.testing.assert_close(back, START, rtol=0, atol=tolerance)


@both_ways
@pytest.mark.parametrize(("name", "peer"), [("euler", "euler"), ("midpoint", "midpoint"), ("heun", "heun2")])
def test_fixed_steps_are_those_of_torchdiffeq(name: str, peer: str, backward: bool) -> None:
    times = torch.linspace(0, 1, 8, dtype=torch.float64)
    times = times.flip(0) if backward else times
    expected = torchdiffeq.odeint(lambda t, x: logistic(x, t.expand(2)), START, times, method=peer)[-1]
    torch.testing.assert_close(SOLVERS[name](logistic, START, 7, backward), expected, rtol=0, atol=1e-14)


@both_ways
@pytest.mark.parametrize("item", [0, 1])
def test_dopri5_agrees_with_torchdiffeq_at_a_like_cost(item: int, backward: bool) -> None:
    """Both at 1e-5, so the ends differ by tolerance; the peer's error weights are another pair's, so the cost may."""
    x = START[item : item + 1]
    ours, peers = [], []

    def wave(x: Tensor, t: Tensor, calls: list[int]) -> Tensor:
        calls.append(1)
        return 12 * torch.cos(20 * t)[:, None] - torch.sin(x)

    times = START.new_tensor([1, 0] if backward else [0, 1])
    peer = torchdiffeq.odeint(
        lambda t, x: wave(x, t.expand(1), peers),
        x,
        times,
        method="dopri5",
        rtol=1e-5,
        atol=1e-5,
        options={"first_step": 0.1},
    )
    end = dopri5(lambda x, t: wave(x, t, ours), x, 10, backward)
    torch.testing.assert_close(end, peer[-1], rtol=0, atol=1e-4)
    assert len(ours) == pytest.approx(len(peers), rel=0.25)


@pytest.mark.parametrize("steps", [1, 2, 50])
@both_ways
def test_official_times_and_steps_written_out(steps: int, backward: bool) -> None:
    """Times as linspace(0, 1 - 1e-5, N), steps as the differences of linspace(1e-5, 1, N + 1)."""
    seen: list[float] = []

    def record(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t[0].item())
        return torch.exp(2 * t)[:, None].expand_as(x)

    end = euler_official(record, START, steps, backward)
    times = torch.linspace(0, 1 - 1e-5, steps, dtype=torch.float64)
    widths = torch.linspace(1e-5, 1, steps + 1, dtype=torch.float64).diff()
    total = (widths * torch.exp(2 * times)).sum()
    torch.testing.assert_close(end, START - total if backward else START + total, rtol=0, atol=1e-12)
    assert seen == pytest.approx((times.flip(0) if backward else times).tolist(), abs=1e-15)


@each_solver
@both_ways
def test_time_reaches_the_velocity_as_one_number_an_item_of_the_same_dtype(name: str, backward: bool) -> None:
    seen: list[Tensor] = []
    x = torch.ones(3, 2, 4, dtype=torch.float32)
    end = SOLVERS[name](lambda x, t: seen.append(t) or -x, x, 4, backward)
    assert end.dtype == torch.float32
    assert all(t.shape == (3,) and t.dtype == torch.float32 and t.min() >= 0 and t.max() <= 1 for t in seen)
    first, last = (seen[-1], seen[0]) if backward else (seen[0], seen[-1])
    assert first.max() <= 0.25
    assert last.min() >= 0.75


stiffness = st.lists(st.floats(0.1, 60), min_size=2, max_size=6)


@each_solver
@both_ways
@given(rates=stiffness, cut=st.integers(1, 5))
@settings(max_examples=25)
def test_an_item_does_not_depend_on_its_batch_mates(name: str, backward: bool, rates: list[float], cut: int) -> None:
    """Rates differ up to 600-fold, so a step shared by the batch would show as a difference near the tolerance."""
    rate = torch.tensor(rates, dtype=torch.float64)[:, None]
    x = torch.linspace(-1, 1, 3 * len(rates), dtype=torch.float64).reshape(len(rates), 3)

    def solve(part: slice) -> Tensor:
        held = rate[part]
        sign = 1 if backward else -1
        return SOLVERS[name](lambda x, t: sign * held * (x - t[:, None] * t[:, None]), x[part], 60, backward)

    parts = [part for part in (slice(0, cut), slice(cut, None)) if len(x[part])]
    apart = torch.cat([solve(part) for part in parts])
    torch.testing.assert_close(solve(slice(None)), apart, rtol=1e-13, atol=1e-13)


def test_dopri5_lets_finished_items_rest() -> None:
    """An easy item beside a hard one ends where it ends alone, though the velocity is called on."""
    rate = START.new_tensor([[0.1], [50.0]])
    calls: list[int] = []
    both = dopri5(lambda x, t: calls.append(1) or -rate * x, START, 2)
    torch.testing.assert_close(both, START * torch.exp(-rate), rtol=0, atol=1e-4)
    assert len(calls) > 60


def test_dopri5_says_when_it_cannot_finish() -> None:
    with pytest.raises(CrossFlowError, match="not finite"):
        dopri5(lambda x, t: x * torch.nan, START, 10)
    with pytest.raises(CrossFlowError, match="too stiff"):
        dopri5(lambda x, t: -1e5 * (x - torch.cos(t)[:, None]), START, 10)
    with pytest.raises(CrossFlowError, match="float32 or float64"):
        dopri5(logistic, START.bfloat16(), 10)


@each_solver
def test_less_than_one_step_is_refused(name: str) -> None:
    with pytest.raises(CrossFlowError, match="at least 1 step and got 0"):
        SOLVERS[name](logistic, START, 0)


def test_an_empty_batch_stays_empty() -> None:
    for solver in (euler, euler_official, midpoint, heun, dopri5):
        assert solver(logistic, START[:0], 3).shape == (0, 2)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    assert solver_named("heun") is heun
    with pytest.raises(CrossFlowError) as caught:
        solver_named("huen")
    assert str(caught.value) == (
        "Unknown solver 'huen'. Did you mean 'heun'? "
        "Available: euler, euler_ancestral, euler_official, midpoint, heun, dopri5."
    )
    with pytest.raises(CrossFlowError, match=r"^Unknown solver 'zzz'\. Available: euler, "):
        solver_named("zzz")


def test_the_official_end_is_that_of_the_paper_code() -> None:
    assert OFFICIAL_END == 0.99999
