"""Ancestral sampling: what of the source is noise is drawn anew at every step, as much as is forgotten of it there.

A flow that follows its own path keeps every mistake: what is decided wrongly early, as an object that is there twice,
stays. With new noise it is decided again, by a velocity that has seen the rest. It is the ancestral sampler of
diffusion models (DDPM, arXiv 2006.11239; DDIM, arXiv 2010.02502, with eta = 1; Euler a of k-diffusion) for a path that
begins in a Gaussian of any mean and variance: the posterior of CrossFlow's source, or the baseline's standard normal.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.flow.path import Path
from crossflow.flow.solver import Velocity, check_steps


def euler_ancestral(
    velocity: Velocity,
    path: Path,
    x0: Float[Tensor, "b *dims"],
    mean: Float[Tensor, "b *dims"],
    sd: Float[Tensor, "b *dims"],
    noise: Iterator[Float[Tensor, "b *dims"]] | None,
    steps: int,
) -> Float[Tensor, "b *dims"]:
    """x1 of the source sample ``x0`` of a Gaussian of ``mean`` and ``sd``, in ``steps`` steps of equal length.

    From t to s the velocity gives both ends of the path, x0 and x1. Of the noise (x0 - mean) / sd a share r = a(t) b(s)
    / (a(s) b(t)) is kept, a and b being how much of x1 and of x0 is in xt, and sqrt(1 - r^2) of ``noise``, standard
    normal, is added: with the exact velocity and many steps every xt has the distribution that it was trained on. All
    is new in the first step, and nothing in the last, which ends in x1. One evaluation a step.
    """
    check_steps(steps)
    if noise is None:
        raise CrossFlowError("Ancestral sampling draws noise at every step, and was given none: use another solver.")
    x = x0
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    kept = path.gained(times[:-1]) * path.left(times[1:]) / (path.gained(times[1:]) * path.left(times[:-1]))
    for step in range(steps):
        now, later = (x.new_full((len(x),), float(t)) for t in times[step : step + 2])
        start, end = path.ends(x, velocity(x, now), now)
        if step < steps - 1:
            r = float(kept[step])
            start = mean + r * (start - mean) + (1 - r * r) ** 0.5 * sd * next(noise).to(x)
        x = path.sample(start, end, later).xt
    return x
