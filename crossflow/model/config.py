"""A model's config is CrossFlow's or the baseline's; it builds its model, and a file says by ``kind`` which it is.

What the trainer asks of a config is less, so that it also trains what is no flow of its own (``Trainable``).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import nn

from crossflow.model.crossflow import CrossFlow, FlowConfig
from crossflow.model.standard import StandardConfig, StandardFlow

ModelConfig = Annotated[FlowConfig | StandardConfig, Field(discriminator="kind")]
FlowModel = CrossFlow | StandardFlow


@runtime_checkable
class Trainable(Protocol):
    """What the trainer asks of the config of a model, which is also a dataclass of plain JSON values."""

    @property
    def kind(self) -> str:
        """What a state calls it."""
        ...

    @property
    def terms(self) -> Sequence[Any]:
        """The configs of further terms of the loss."""
        ...

    @property
    def summary(self) -> str:
        """Its ends and its network in a few words, for the list of recipes."""
        ...

    def build(self, training: bool = True) -> Any:
        """A module ``(batch, draws, counted) -> Losses``; without ``training`` what its checkpoint holds."""
        ...

    def draw(self, count: int, generator: torch.Generator) -> Any:
        """All random numbers of a training step for a batch of ``count``: ``Draws``, or what has their methods."""
        ...

    def after(self, init: Path | None) -> Any:
        """The same config for a training that starts from the checkpoint ``init``, if from any."""
        ...


if TYPE_CHECKING:  # the unions narrow types; at run time a recipe holds whatever can be trained
    TrainedConfig = ModelConfig
    TrainedModel = FlowModel
else:
    TrainedConfig = Trainable
    TrainedModel = nn.Module
