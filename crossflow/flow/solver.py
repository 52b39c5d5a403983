"""Solvers of dx/dt = velocity(x, t), from the source (t = 0) to the target (t = 1) or back.

Every solver is called as ``solver(velocity, x, steps, backward=False)``. The velocity always gets the whole batch, so
that it may use per-item conditions, and t as a tensor [b] of x's dtype. Fixed-step solvers take ``steps`` equal steps.
"""

from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossflow.errors import CrossFlowError, named

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x [b ...], t [b]) -> dx/dt [b ...]"""

OFFICIAL_END = 1 - 1e-5
"""Where the official sampler stops; its sigma grid begins at 1e-5."""
TOLERANCE = 1e-5
"""Relative and absolute tolerance of dopri5, as in the official code."""
MAX_STEPS = 1000
"""Most steps that dopri5 tries; a trained model takes tens."""
MIN_STEP = 1e-9
"""The shortest step dopri5 tries; only a velocity that is not finite or not continuous asks for less."""


@runtime_checkable
class Solver(Protocol):
    """Integrates the velocity field from t = 0 to t = 1 or, with ``backward``, from 1 to 0."""

    def __call__(
        self, velocity: Velocity, x: Float[Tensor, "b *dims"], steps: int, backward: bool = False
    ) -> Float[Tensor, "b *dims"]:
        """x at the final time. ``steps`` below 1 raises CrossFlowError."""
        ...


def euler(
    velocity: Velocity, x: Float[Tensor, "b *dims"], steps: int, backward: bool = False
) -> Float[Tensor, "b *dims"]:
    """Euler's method, first order: x + h v(x, t) with t_i = i / steps. One evaluation per step."""
    for t, h in _grid(steps, backward):
        x = x + h * velocity(x, _same(x, t))
    return x


def euler_official(
    velocity: Velocity, x: Float[Tensor, "b *dims"], steps: int, backward: bool = False
) -> Float[Tensor, "b *dims"]:
    """The official sampler: it evaluates at t_i = (1 - 1e-5) i / (steps - 1), but steps by (1 - 1e-5) / steps.

    The times run ahead of the steps, by a whole step at the end, so it is a first-order method with an additional
    error: use it to reproduce published samples. Backward takes the same times in reverse. One evaluation per step.
    """
    check_steps(steps)
    h = OFFICIAL_END / steps
    times = [OFFICIAL_END * i / max(steps - 1, 1) for i in range(steps)]
    for t in reversed(times) if backward else times:
        x = x + (-h if backward else h) * velocity(x, _same(x, t))
    return x


def midpoint(
    velocity: Velocity, x: Float[Tensor, "b *dims"], steps: int, backward: bool = False
) -> Float[Tensor, "b *dims"]:
    """Explicit midpoint, second order: the velocity at the middle of the step. Two evaluations per step."""
    for t, h in _grid(steps, backward):
        half = x + h / 2 * velocity(x, _same(x, t))
        x = x + h * velocity(half, _same(x, t + h / 2))
    return x


def heun(
    velocity: Velocity, x: Float[Tensor, "b *dims"], steps: int, backward: bool = False
) -> Float[Tensor, "b *dims"]:
    """Heun's method, second order: the mean of the velocities at both ends of the step. Two evaluations per step."""
    for t, h in _grid(steps, backward):
        here = velocity(x, _same(x, t))
        there = velocity(x + h * here, _same(x, t + h))
        x = x + h / 2 * (here + there)
    return x


def dopri5(
    velocity: Velocity, x: Float[Tensor, "b *dims"], steps: int, backward: bool = False
) -> Float[Tensor, "b *dims"]:
    """Adaptive Dormand-Prince 5(4) (1980) at relative and absolute tolerance 1e-5; the first step is 1 / steps.

    Each item of the batch has its own time and step size, so its result does not depend on the rest of the batch;
    items that have finished stay fixed. Six evaluations per attempted step. CrossFlowError if it cannot finish, and for
    half precision, whose rounding is coarser than the tolerance.
    """
    check_steps(steps)
    if x.dtype not in (torch.float32, torch.float64):
        raise CrossFlowError(f"dopri5 needs float32 or float64 and got {x.dtype}: convert x, or use a fixed step.")

    def field(x: Tensor, s: Tensor) -> Tensor:  # s runs from 0 to 1 in both directions
        return -velocity(x, (1 - s).to(x)) if backward else velocity(x, s.to(x))

    s = torch.zeros(len(x), dtype=torch.float64)
    h = torch.full_like(s, 1 / steps)
    slope = field(x, s)
    for _ in range(MAX_STEPS):
        active = s < 1
        if not active.any():
            return x
        if (h[active] < MIN_STEP).any():
            break
        last = h >= 1 - s
        step = torch.where(last, 1 - s, h)
        proposal, error, end_slope = dopri5_step(field, x, s, step, slope)
        ratio = _error_ratio(error, x, proposal)
        accept = active & (ratio <= 1)
        x = _select(accept, proposal, x)
        slope = _select(accept, end_slope, slope)
        s = torch.where(accept, torch.where(last, 1.0, s + step), s)
        growth = (0.9 * ratio.clamp(min=1e-10) ** -0.2).clamp(0.2, 10)
        h = torch.where(active, step * growth, h)
    raise CrossFlowError(
        f"dopri5 came no further than {s.min():.3g} of the way in {MAX_STEPS} steps of at least {MIN_STEP}: "
        "the velocity is not finite, or too stiff; check the weights, or use a solver of fixed steps."
    )


_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def dopri5_step(
    velocity: Velocity,
    x: Float[Tensor, "b *dims"],
    t: Float[Tensor, " b"],
    h: Float[Tensor, " b"],
    slope: Float[Tensor, "b *dims"],
) -> tuple[Float[Tensor, "b *dims"], Float[Tensor, "b *dims"], Float[Tensor, "b *dims"]]:
    """One step of size h from t, given ``slope`` = v(x, t): the fifth-order x, its error estimate, and v at its end.

    The error estimate is the difference from the embedded fourth-order solution. t and h may have another dtype or
    device than x.
    """
    width = h.to(x).reshape(-1, *[1] * (x.ndim - 1))
    slopes, point = [slope], x
    for node, weights in zip(_NODES, _STAGES, strict=True):
        point = x + width * _weighted(weights, slopes)
        slopes.append(velocity(point, t + node * h))
    return point, width * _weighted(_ERROR, slopes), slopes[-1]


def _weighted(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    return torch.stack([w * k for w, k in zip(weights, slopes, strict=True) if w]).sum(0)


def _error_ratio(
    error: Float[Tensor, "b *dims"], x: Float[Tensor, "b *dims"], proposal: Float[Tensor, "b *dims"]
) -> Float[Tensor, " b"]:
    """Root mean square of error / tolerance over each item, in float64 on the CPU; NaN becomes infinite."""
    allowed = TOLERANCE + TOLERANCE * torch.maximum(x.abs(), proposal.abs())
    ratio = (error / allowed).reshape(len(x), -1).square().mean(1).sqrt()
    return ratio.double().cpu().nan_to_num(nan=torch.inf)


def _select(
    mask: Bool[Tensor, " b"], yes: Float[Tensor, "b *dims"], no: Float[Tensor, "b *dims"]
) -> Float[Tensor, "b *dims"]:
    return torch.where(mask.to(yes.device).reshape(-1, *[1] * (yes.ndim - 1)), yes, no)


def _grid(steps: int, backward: bool) -> Iterator[tuple[float, float]]:
    """Yield (t, h) of ``steps`` equal steps; h is negative backward."""
    check_steps(steps)
    for i in range(steps):
        yield (1 - i / steps, -1 / steps) if backward else (i / steps, 1 / steps)


def _same(x: Tensor, t: float) -> Tensor:
    return x.new_full((len(x),), t)


def check_steps(steps: int) -> None:
    """CrossFlowError for no step."""
    if steps < 1:
        raise CrossFlowError(f"A solver takes at least 1 step and got {steps}.")


ANCESTRAL = "euler_ancestral"
"""The solver that draws noise anew at every step (``flow.ancestral``)."""
SOLVERS: dict[str, Solver] = {
    "euler": euler,
    ANCESTRAL: euler,  # of a latent whose source is not known, which has no noise to draw anew
    "euler_official": euler_official,
    "midpoint": midpoint,
    "heun": heun,
    "dopri5": dopri5,
}


def solver_named(name: str) -> Solver:
    """The solver of that name; an unknown name raises CrossFlowError that lists the nearest and all known names."""
    return named("solver", name, SOLVERS)
