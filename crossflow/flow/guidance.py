"""Guidance: a velocity pushed away from that of a worse one, v = v_worse + scale (v_better - v_worse).

Scale 1 is no guidance: only the better velocity is run. Scale 0 is the worse velocity alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.files.kinds import Kinds
from crossflow.flow.solver import Velocity


@dataclass(frozen=True, kw_only=True)
class NoGuidance:
    """Nothing is trained without its source, and nothing guided."""

    kind: Literal["none"] = "none"
    null_rate: ClassVar[float] = 0.0
    weaker: ClassVar[None] = None

    def velocity(self, velocity_of: "IndicatorVelocity", scale: float, weaker: Velocity | None) -> Velocity:
        """The velocity as it is; CrossFlowError for a ``scale`` other than 1."""
        check_scale(scale)
        if scale != 1:
            raise CrossFlowError(f"guidance_scale is {scale}, and this model was trained without guidance: give 1.")
        return indicator(velocity_of, 1.0)


@dataclass(frozen=True, kw_only=True)
class Indicator:
    """Classifier-free guidance with an indicator: the share ``null_rate`` of items goes to a target not its own."""

    null_rate: float = 0.1
    kind: Literal["indicator"] = "indicator"
    weaker: ClassVar[None] = None

    def __post_init__(self) -> None:
        if not 0 < self.null_rate <= 1:
            raise CrossFlowError(f"null_rate is {self.null_rate}; it must be above 0 and at most 1 (0 is kind none).")

    def velocity(self, velocity_of: "IndicatorVelocity", scale: float, weaker: Velocity | None) -> Velocity:
        """See ``indicator``."""
        return indicator(velocity_of, scale)


@dataclass(frozen=True, kw_only=True)
class Autoguidance:
    """Guidance by a worse version of the model: ``checkpoint`` is its file, named from the folder of the model's own.

    Nothing is trained without its source.
    """

    checkpoint: str
    kind: Literal["autoguidance"] = "autoguidance"
    null_rate: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if not self.checkpoint or PurePath(self.checkpoint).name != self.checkpoint:
            raise CrossFlowError(
                f"checkpoint is {self.checkpoint!r}; it must be the name of a file in the folder of the model's own."
            )

    @property
    def weaker(self) -> str:
        """The file of the worse model."""
        return self.checkpoint

    def velocity(self, velocity_of: "IndicatorVelocity", scale: float, weaker: Velocity | None) -> Velocity:
        """See ``autoguidance``; CrossFlowError where the worse model is needed and not there."""
        good = indicator(velocity_of, 1.0)
        if scale == 1:
            return good
        if weaker is None:
            raise CrossFlowError(f"guidance_scale is {scale}, and the worse model {self.checkpoint} was not loaded.")
        return autoguidance(good, weaker, scale)


GUIDANCES = Kinds("guidance", "crossflow.guidances", NoGuidance, Indicator, Autoguidance)


@runtime_checkable
class Guidance(Protocol):
    """What a config of guidance has."""

    @property
    def kind(self) -> str:
        """The name by which a file holds it."""
        ...

    @property
    def null_rate(self) -> float:
        """The share of items that are trained towards a target not their own."""
        ...

    @property
    def weaker(self) -> str | None:
        """The file of the worse model that it needs, in the folder of the model's own; None for none."""
        ...

    def velocity(self, velocity_of: "IndicatorVelocity", scale: float, weaker: Velocity | None) -> Velocity:
        """The guided velocity, a function of (x, t)."""
        ...


if TYPE_CHECKING:  # what is here, so that types are narrowed by it; another package's is as good
    GuidanceConfig = NoGuidance | Indicator | Autoguidance
else:
    GuidanceConfig = Annotated[Guidance, GUIDANCES.reader]
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
