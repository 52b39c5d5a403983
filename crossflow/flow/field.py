"""The velocity field of a network that predicts the velocity itself, or the target, from which it follows."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from crossflow.flow.path import Path

Predict = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]
"""(x [b ...], t [b], conditional [b] bool) -> one prediction per resolution, the finest last."""


class Field:
    """A velocity field v(x, t, conditional); ``resolutions`` gives the velocity at every resolution."""

    def __init__(self, predict: Predict) -> None:
        self.resolutions = predict

    def __call__(self, x: Tensor, t: Tensor, conditional: Tensor) -> Tensor:
        """The velocity at full resolution."""
        return self.resolutions(x, t, conditional)[-1]


def field_of(predict: Predict, path: Path, parameterisation: Literal["velocity", "target"]) -> Field:
    """The velocity field of a network that predicts velocities, or targets of ``path``."""
    if parameterisation == "velocity":
        return Field(predict)
    return Field(lambda x, t, conditional: tuple(path.velocity_to(each, x, t) for each in predict(x, t, conditional)))
