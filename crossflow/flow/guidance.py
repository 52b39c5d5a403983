"""Guidance: extrapolation from a weaker velocity field to a better one, v = v_weak + scale (v_good - v_weak).

Scale 1 is no guidance: only the better field is evaluated. Scale 0 is the weaker field alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.files.kinds import Kinds
from crossflow.files.names import is_name
from crossflow.flow.solver import Velocity


@dataclass(frozen=True, kw_only=True)
class NoGuidance:
    """No guidance: there are no null items in training, and the scale is always 1."""

    kind: Literal["none"] = "none"
    null_rate: ClassVar[float] = 0.0
    weaker: ClassVar[None] = None

    def velocity(self, velocity_of: "IndicatorVelocity", scale: float, weaker: Velocity | None) -> Velocity:
        """The conditional velocity; CrossFlowError for a ``scale`` other than 1."""
        check_scale(scale)
        if scale != 1:
            raise CrossFlowError(f"guidance_scale is {scale}, and this model was trained without guidance: give 1.")
        return indicator(velocity_of, 1.0)


@dataclass(frozen=True, kw_only=True)
class Indicator:
    """Classifier-free guidance with an indicator: a fraction ``null_rate`` of items is trained on another's target."""

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
    """Autoguidance (Karras et al. 2024): ``checkpoint`` is a weaker version of the model, a file in the same folder.

    There are no null items in training.
    """

    checkpoint: str
    kind: Literal["autoguidance"] = "autoguidance"
    null_rate: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        if not is_name(self.checkpoint):
            raise CrossFlowError(
                f"checkpoint is {self.checkpoint!r}; it must be the name of a file in the folder of the model's own."
            )

    @property
    def weaker(self) -> str:
        return self.checkpoint

    def velocity(self, velocity_of: "IndicatorVelocity", scale: float, weaker: Velocity | None) -> Velocity:
        """See ``autoguidance``; CrossFlowError if the scale needs the weaker model and it was not loaded."""
        good = indicator(velocity_of, 1.0)
        if scale == 1:
            return good
        if weaker is None:
            raise CrossFlowError(f"guidance_scale is {scale}, and the weaker model {self.checkpoint} was not loaded.")
        return autoguidance(good, weaker, scale)


GUIDANCES = Kinds("guidance", "crossflow.guidances", NoGuidance, Indicator, Autoguidance)


@runtime_checkable
class Guidance(Protocol):
    """The interface of a guidance config."""

    @property
    def kind(self) -> str:
        """Its name in checkpoints and in the registry."""
        ...

    @property
    def null_rate(self) -> float:
        """The fraction of training items that are unconditional: trained on the target of another item."""
        ...

    @property
    def weaker(self) -> str | None:
        """The checkpoint of the weaker model that it needs, a file in the model's own folder; None for none."""
        ...

    def velocity(self, velocity_of: "IndicatorVelocity", scale: float, weaker: Velocity | None) -> Velocity:
        """The guided velocity field, a function of (x, t)."""
        ...


if TYPE_CHECKING:  # the union narrows types; at run time any registered kind is accepted
    GuidanceConfig = NoGuidance | Indicator | Autoguidance
else:
    GuidanceConfig = Annotated[Guidance, GUIDANCES.reader]
IndicatorVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x [b ...], t [b], conditional [b] bool) -> dx/dt [b ...]"""


def indicator(velocity_of: IndicatorVelocity, scale: float | Float[Tensor, "*dims"]) -> Velocity:
    """Classifier-free guidance with an indicator (CrossFlow, section 3.4).

    The condition is in the source, so it cannot be dropped. Instead the network gets the flag ``conditional``: whether
    to flow to the source's own target or to any. Both are evaluated as one doubled batch, conditional half first.
    ``scale`` is one for all, or one a dimension of an item. A negative or non-finite scale raises CrossFlowError.
    """
    scales = scale.unique().tolist() if isinstance(scale, Tensor) else [scale]
    for each in scales:
        check_scale(each)

    def conditional_only(x: Float[Tensor, "b *dims"], t: Float[Tensor, " b"]) -> Float[Tensor, "b *dims"]:
        return velocity_of(x, t, torch.ones(len(x), dtype=torch.bool, device=x.device))

    def guided(x: Float[Tensor, "b *dims"], t: Float[Tensor, " b"]) -> Float[Tensor, "b *dims"]:
        conditional = torch.arange(2 * len(x), device=x.device) < len(x)
        both = velocity_of(torch.cat([x, x]), torch.cat([t, t]), conditional)
        with_condition, without = both.chunk(2)
        return without + scale * (with_condition - without)

    return conditional_only if scales == [1] else guided


def autoguidance(good: Velocity, bad: Velocity, scale: float) -> Velocity:
    """Guide a model with a weaker version of itself (Karras et al. 2024), such as an earlier checkpoint.

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
