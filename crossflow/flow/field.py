"""A velocity field from what a network predicts: the velocity itself, or the target, whose velocity follows."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from crossflow.flow.path import Path

Predict = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]
"""(x [b ...], t [b], conditional [b] bool) -> a prediction for each resolution, the finest last."""


class Field:
    """The velocity that a network's predictions mean, at (x, t, conditional)."""

    def __init__(self, predict: Predict) -> None:
        self.resolutions = predict

    def __call__(self, x: Tensor, t: Tensor, conditional: Tensor) -> Tensor:
        """At full resolution."""
        return self.resolutions(x, t, conditional)[-1]


def field_of(predict: Predict, path: Path, parameterisation: Literal["velocity", "target"]) -> Field:
    """The field of a network that predicts velocities, or targets of ``path``."""
    if parameterisation == "velocity":
        return Field(predict)
    return Field(lambda x, t, conditional: tuple(path.velocity_to(each, x, t) for each in predict(x, t, conditional)))
