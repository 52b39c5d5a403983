"""Paths from a source x0 to a target x1. t = 0 is the source and t = 1 the target, throughout the package."""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from crossflow.errors import CrossFlowError


class PathSample(NamedTuple):
    """A point on the path, and the velocity d(xt)/dt there, the regression target."""

    xt: Float[Tensor, "b *dims"]
    velocity: Float[Tensor, "b *dims"]


@runtime_checkable
class Path(Protocol):
    """The interface of a path from x0 to x1."""

    def sample(self, x0: Float[Tensor, "b *dims"], x1: Float[Tensor, "b *dims"], t: Float[Tensor, " b"]) -> PathSample:
        """The point and the velocity at t, one time in [0, 1] per item."""
        ...

    def velocity_to(
        self, x1: Float[Tensor, "b *dims"], xt: Float[Tensor, "b *dims"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, "b *dims"]:
        """The velocity at xt of the path that ends in x1: for networks that predict the target itself.

        It is 0 / 0 at t = 1, so the denominator is clamped to ``NEAREST`` (0.05, as in arXiv 2511.13720).
        """
        ...

    def velocity_from(
        self, x0: Float[Tensor, "b *dims"], xt: Float[Tensor, "b *dims"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, "b *dims"]:
        """The velocity at xt of the path that began in x0: for networks that predict the source, which is noise.

        It is 0 / 0 at t = 0, so the denominator is clamped to ``NEAREST``.
        """
        ...

    def left(self, t: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        """How much of x0 is left in xt, from 1 at the source to about 0 at the target."""
        ...

    def gained(self, t: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        """How much of x1 is in xt, from 0 at the source to 1 at the target."""
        ...

    def ends(
        self, xt: Float[Tensor, "b *dims"], velocity: Float[Tensor, "b *dims"], t: Float[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b *dims"], Float[Tensor, "b *dims"]]:
        """x0 and x1 of the path that is at xt with this velocity at t."""
        ...


NEAREST = 0.05
"""The smallest denominator of ``velocity_to`` and ``velocity_from``."""


@dataclass(frozen=True)
class LinearPath:
    """The straight path of flow matching (Lipman et al. 2023), which CrossFlow trains on.

    xt = t x1 + (1 - (1 - sigma_min) t) x0, so d(xt)/dt = x1 - (1 - sigma_min) x0 at every t. At t = 1,
    sigma_min x0 remains.
    """

    sigma_min: float = 1e-5

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_min < 1:
            raise CrossFlowError(f"sigma_min is {self.sigma_min}; it must be at least 0 and less than 1.")

    def sample(self, x0: Float[Tensor, "b *dims"], x1: Float[Tensor, "b *dims"], t: Float[Tensor, " b"]) -> PathSample:
        """The point and the velocity at t. CrossFlowError for shapes that do not match."""
        t = _times(x0, x1, t)
        kept = 1 - self.sigma_min
        return PathSample(t * x1 + self.left(t) * x0, x1 - kept * x0)

    def velocity_to(
        self, x1: Float[Tensor, "b *dims"], xt: Float[Tensor, "b *dims"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, "b *dims"]:
        """(x1 - (1 - sigma_min) xt) / (1 - (1 - sigma_min) t)."""
        t = _times(xt, x1, t)
        return (x1 - (1 - self.sigma_min) * xt) / self.left(t).clamp(min=NEAREST)

    def velocity_from(
        self, x0: Float[Tensor, "b *dims"], xt: Float[Tensor, "b *dims"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, "b *dims"]:
        """(xt - x0) / t."""
        t = _times(x0, xt, t)
        return (xt - x0) / t.clamp(min=NEAREST)

    def left(self, t: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        """1 - (1 - sigma_min) t."""
        return 1 - (1 - self.sigma_min) * t

    def gained(self, t: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        """t."""
        return t

    def ends(
        self, xt: Float[Tensor, "b *dims"], velocity: Float[Tensor, "b *dims"], t: Float[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b *dims"], Float[Tensor, "b *dims"]]:
        """xt - t v, and v + (1 - sigma_min) times that."""
        x0 = xt - _times(xt, velocity, t) * velocity
        return x0, velocity + (1 - self.sigma_min) * x0


@dataclass(frozen=True)
class SinCosPath:
    """The trigonometric path of stochastic interpolants (Albergo et al. 2023), the paper's "Sin-Cos" variant.

    xt = cos(pi t / 2) x0 + sin(pi t / 2) x1, which preserves the variance of independent x0 and x1 of equal variance.
    The paper gives no formula; this is the standard one.
    """

    def sample(self, x0: Float[Tensor, "b *dims"], x1: Float[Tensor, "b *dims"], t: Float[Tensor, " b"]) -> PathSample:
        """The point and the velocity at t. CrossFlowError for shapes that do not match."""
        angle = _times(x0, x1, t) * (math.pi / 2)
        cos, sin = angle.cos(), angle.sin()
        return PathSample(cos * x0 + sin * x1, (cos * x1 - sin * x0) * (math.pi / 2))

    def velocity_to(
        self, x1: Float[Tensor, "b *dims"], xt: Float[Tensor, "b *dims"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, "b *dims"]:
        """pi / 2 (x1 - sin(pi t / 2) xt) / cos(pi t / 2)."""
        angle = _times(xt, x1, t) * (math.pi / 2)
        return (x1 - angle.sin() * xt) / angle.cos().clamp(min=NEAREST) * (math.pi / 2)

    def velocity_from(
        self, x0: Float[Tensor, "b *dims"], xt: Float[Tensor, "b *dims"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, "b *dims"]:
        """pi / 2 (cos(pi t / 2) xt - x0) / sin(pi t / 2)."""
        angle = _times(x0, xt, t) * (math.pi / 2)
        return (angle.cos() * xt - x0) / angle.sin().clamp(min=NEAREST) * (math.pi / 2)

    def left(self, t: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        """cos(pi t / 2)."""
        return (t * (math.pi / 2)).cos()

    def gained(self, t: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
        """sin(pi t / 2)."""
        return (t * (math.pi / 2)).sin()

    def ends(
        self, xt: Float[Tensor, "b *dims"], velocity: Float[Tensor, "b *dims"], t: Float[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b *dims"], Float[Tensor, "b *dims"]]:
        """cos(pi t / 2) xt - 2 / pi sin(pi t / 2) v, and sin(pi t / 2) xt + 2 / pi cos(pi t / 2) v."""
        angle, slope = _times(xt, velocity, t) * (math.pi / 2), velocity * (2 / math.pi)
        return angle.cos() * xt - angle.sin() * slope, angle.sin() * xt + angle.cos() * slope


PATHS: dict[str, type[LinearPath] | type[SinCosPath]] = {"linear": LinearPath, "sincos": SinCosPath}


def _times(x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    """t [b] with the trailing axes of x0 [b ...]; accidental broadcasting would train on wrong pairs."""
    if x0.shape != x1.shape or t.shape != x0.shape[:1]:
        raise CrossFlowError(
            f"The path got x0 {list(x0.shape)}, x1 {list(x1.shape)} and t {list(t.shape)}; "
            "x0 and x1 need one shape [b ...] and t the shape [b]."
        )
    return t.reshape(-1, *[1] * (x0.ndim - 1))
