"""Guidance: a velocity pushed away from that of a worse one, v = v_worse + scale (v_better - v_worse).

Scale 1 is no guidance: only the better velocity is run. Scale 0 is the worse velocity alone.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.flow.solver import Velocity

IndicatorVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x [b ...], t [b], conditional [b] bool) -> dx/dt [b ...]"""


def indicator(velocity_of: IndicatorVelocity, scale: float) -> Velocity:
    """Classifier-free guidance with an indicator (CrossFlow, section 3.4).

    The source already holds the condition, so it cannot be dropped. Instead the model is told by ``conditional``
    whether to go to the source's own target or to any. Both run as one doubled batch, conditional half first.
    A negative or non-finite scale raises CrossFlowError.
    """
    check_scale(scale)

    def conditional_only(x: Float[Tensor, "b *dims"], t: Float[Tensor, " b"]) -> Float[Tensor, "b *dims"]:
        return velocity_of(x, t, torch.ones(len(x), dtype=torch.bool, device=x.device))

    def guided(x: Float[Tensor, "b *dims"], t: Float[Tensor, " b"]) -> Float[Tensor, "b *dims"]:
        conditional = torch.arange(2 * len(x), device=x.device) < len(x)
        both = velocity_of(torch.cat([x, x]), torch.cat([t, t]), conditional)
        with_condition, without = both.chunk(2)
        return without + scale * (with_condition - without)

    return conditional_only if scale == 1 else guided


def autoguidance(good: Velocity, bad: Velocity, scale: float) -> Velocity:
    """Guide a model with a worse version of itself (Karras et al. 2024), such as an earlier checkpoint.

    A negative or non-finite scale raises CrossFlowError.
    """
    check_scale(scale)

    def guided(x: Float[Tensor, "b *dims"], t: Float[Tensor, " b"]) -> Float[Tensor, "b *dims"]:
        worse = bad(x, t)
        return worse + scale * (good(x, t) - worse)

    return good if scale == 1 else guided


def check_scale(scale: float) -> None:
    """Refuse a guidance scale that is negative or not finite."""
    if not math.isfinite(scale) or scale < 0:
        raise CrossFlowError(f"guidance_scale is {scale}; it must be a finite number of at least 0 (1 is no guidance).")
