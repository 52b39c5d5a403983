"""Laws of guidance: the formula, and how often the model runs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossflow.errors import CrossFlowError
from crossflow.flow.guidance import autoguidance, indicator
from crossflow.flow.solver import midpoint

Tensor = torch.Tensor
X = torch.randn(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
T = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
scales = st.floats(0, 20)


def better(x: Tensor, t: Tensor) -> Tensor:
    return x.sin() + t[:, None, None]


def worse(x: Tensor, t: Tensor) -> Tensor:
    return x.cos() * t[:, None, None]


class Recorder:
    """A velocity with an indicator: ``better`` where conditional, ``worse`` elsewhere; it keeps what it is given."""

    def __init__(self) -> None:
        self.calls: list[Tensor] = []

    def __call__(self, x: Tensor, t: Tensor, conditional: Tensor) -> Tensor:
        self.calls.append(conditional)
        return torch.where(conditional[:, None, None], better(x, t), worse(x, t))


@given(scale=scales)
def test_indicator_guidance_is_its_formula(scale: float) -> None:
    expected = worse(X, T) + scale * (better(X, T) - worse(X, T))
    torch.testing.assert_close(indicator(Recorder(), scale)(X, T), expected, rtol=0, atol=1e-13)


@given(scale=scales)
def test_autoguidance_is_its_formula(scale: float) -> None:
    expected = worse(X, T) + scale * (better(X, T) - worse(X, T))
    torch.testing.assert_close(autoguidance(better, worse, scale)(X, T), expected, rtol=0, atol=1e-13)


@given(scale=scales)
def test_guidance_between_equal_velocities_changes_nothing(scale: float) -> None:
    torch.testing.assert_close(autoguidance(better, better, scale)(X, T), better(X, T), rtol=0, atol=0)
    same = indicator(lambda x, t, conditional: better(x, t), scale)
    torch.testing.assert_close(same(X, T), better(X, T), rtol=0, atol=0)


def test_scale_one_runs_the_conditional_model_alone() -> None:
    model = Recorder()
    assert torch.equal(indicator(model, 1.0)(X, T), better(X, T))
    assert [call.tolist() for call in model.calls] == [[True] * 3]
    assert autoguidance(better, worse, 1.0) is better


def test_any_other_scale_runs_one_doubled_batch() -> None:
    model = Recorder()
    assert torch.equal(indicator(model, 0.0)(X, T), worse(X, T))
    assert [call.tolist() for call in model.calls] == [[True] * 3 + [False] * 3]


def test_a_guided_velocity_is_a_velocity_for_every_solver() -> None:
    """A constant pair: x moves by v_worse + 3 (v_better - v_worse) = -1 + 3 * 3."""
    guided = autoguidance(lambda x, t: torch.full_like(x, 2), lambda x, t: torch.full_like(x, -1), 3.0)
    torch.testing.assert_close(midpoint(guided, X, 4), X + 8)


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_a_scale_that_means_nothing_is_refused(scale: float) -> None:
    with pytest.raises(CrossFlowError, match="guidance_scale is"):
        indicator(Recorder(), scale)
    with pytest.raises(CrossFlowError, match="guidance_scale is"):
        autoguidance(better, worse, scale)
