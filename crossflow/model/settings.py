"""What CrossFlow and the baseline have in common: sampling settings, the types that they answer with, checks."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.flow.ancestral import euler_ancestral
from crossflow.flow.guidance import check_scale
from crossflow.flow.path import Path
from crossflow.flow.solver import ANCESTRAL, Velocity, solver_named
from crossflow.networks.blocks import check_sizes

Values = Float[Tensor, "b n d"] | Float[Tensor, "b k i j"]
"""What a flow reads: token embeddings, images in [-1, 1], or latents."""
Losses = dict[str, Tensor]
"""The terms of one step's loss by name, ``total`` and ``flow`` first, and statistics to monitor."""


@dataclass(frozen=True, kw_only=True)
class Override:
    """Sampling settings that replace a model's own; None keeps a setting."""

    solver: str | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    noise: float | None = None


OWN = Override()
"""All of a model's own settings."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """A model's default sampling settings, chosen on a validation split.

    ``noise`` multiplies the standard deviation of the source sample: 1 as in the paper; 0 takes the posterior mean, for
    tasks with one right answer.
    """

    solver: str = "midpoint"
    steps: int = 25
    guidance_scale: float = 1.0
    noise: float = 1.0

    def __post_init__(self) -> None:
        solver_named(self.solver)
        check_sizes(steps=self.steps)
        check_scale(self.guidance_scale)
        if not 0 <= self.noise <= 1:
            raise CrossFlowError(f"noise is {self.noise}; it must be from 0 to 1.")

    def of_latents(self) -> "Sampling":
        """These settings for latents of which no source is known: of no noise to draw anew is made Euler's method."""
        return replace(self, solver="euler") if self.solver == ANCESTRAL else self

    def but(self, override: Override) -> "Sampling":
        """These settings, replaced where ``override`` is not None."""
        return replace(self, **{name: value for name, value in vars(override).items() if value is not None})


def sample_noise(
    velocity: Velocity,
    path: Path,
    noise: Float[Tensor, "b *dims"],
    sampling: Sampling,
    further: Iterator[Float[Tensor, "b *dims"]] | None,
) -> Float[Tensor, "b *dims"]:
    """x1 of a flow that starts at standard normal ``noise``; ``further`` is the noise of ancestral sampling's steps."""
    x0 = sampling.noise * noise
    if sampling.solver == ANCESTRAL:
        mean, sd = torch.zeros_like(x0), torch.full_like(x0, sampling.noise)
        return euler_ancestral(velocity, path, x0, mean, sd, further, sampling.steps)
    return solver_named(sampling.solver)(velocity, x0, sampling.steps)


def check_reversible(sampling: Sampling) -> None:
    """CrossFlowError for the solver that draws noise on its way, and so cannot be run backward."""
    if sampling.solver == ANCESTRAL:
        raise CrossFlowError(f"{ANCESTRAL} draws noise on its way, and this flow runs backward: choose another solver.")


def check_ends(config: Any) -> None:
    """CrossFlowError for what is invalid in either model."""
    check_sizes(**dict(zip(("channels", "height", "width"), config.shape, strict=True)))
    if config.reads.name == config.target.name:
        raise CrossFlowError(f"Both ends are called {config.target.name}: give what is read another name.")
    if len(config.stage_weights) != config.backbone.resolutions:
        raise CrossFlowError(
            f"There are {len(config.stage_weights)} stage_weights for {config.backbone.resolutions} stages."
        )
    if config.parameterisation == "target" and config.backbone.resolutions > 1:
        raise CrossFlowError("A network of several resolutions predicts velocities: parameterisation is velocity.")
    check_tail(config.tail)
    if config.sampling.guidance_scale != 1 and config.guidance.kind == "none":
        raise CrossFlowError(
            f"guidance_scale is {config.sampling.guidance_scale}, and there is no guidance: let it be 1, or train some."
        )


def check_tail(tail: float) -> None:
    """CrossFlowError for what is no last part of a path."""
    if not 0 <= tail < 1:
        raise CrossFlowError(f"tail is {tail}; it is a part of the path, from 0 to less than 1.")
