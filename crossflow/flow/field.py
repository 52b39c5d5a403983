"""The velocity field of a network that predicts the velocity itself, or one end of the path, from which it follows."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from crossflow.flow.path import NEAREST, Path

Predict = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]
"""(x [b ...], t [b], conditional [b] bool) -> one prediction per resolution, the finest last."""


class Field:
    """A velocity field v(x, t, conditional); ``resolutions`` gives the velocity at every resolution."""

    def __init__(self, predict: Predict) -> None:
        self.resolutions = predict

    def __call__(self, x: Tensor, t: Tensor, conditional: Tensor) -> Tensor:
        """The velocity at full resolution."""
        return self.resolutions(x, t, conditional)[-1]


Parameterisation = Literal["eps", "velocity", "target"]
"""What a network predicts: the noise that the path began in, the velocity, or the target that it ends in."""


def field_of(predict: Predict, path: Path, parameterisation: Parameterisation) -> Field:
    """The velocity field of a network that predicts velocities, targets of ``path``, or the noise at its start.

    With ``eps`` an Euler step is the deterministic DDIM step (arXiv 2010.02502, eta = 0) between the same two points of
    the path. At t = 0 the noise tells nothing of the target, so before ``NEAREST`` the network is asked as if the time
    were that, as latent diffusion starts where a little of the data is left.
    """
    match parameterisation:
        case "velocity":
            return Field(predict)
        case "target":
            return Field(lambda x, t, known: tuple(path.velocity_to(each, x, t) for each in predict(x, t, known)))
        case "eps":

            def from_noise(x: Tensor, t: Tensor, conditional: Tensor) -> tuple[Tensor, ...]:
                t = t.clamp(min=NEAREST)
                return tuple(path.velocity_from(each, x, t) for each in predict(x, t, conditional))

            return Field(from_noise)
