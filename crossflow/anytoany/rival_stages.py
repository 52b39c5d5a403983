"""The trainings of the rivals, on the codecs of a system: a shared latent, and direct flows a pair.

A text that is given is a caption in one of the forms that are asked with, bare prompts above all; a text that is made
is the full description, as it is of the system's diffuser.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch

from crossflow.anytoany.anchor import AnchorConfig, AnchorDraws, as_given
from crossflow.anytoany.rivals import DirectConfig, padded
from crossflow.anytoany.stages import CAPTION, Own, Stage, Training, noted
from crossflow.anytoany.system import AnyToAny, AnyToAnyConfig
from crossflow.errors import CrossFlowError
from crossflow.flow import losses
from crossflow.flow.batch import Batch, Item
from crossflow.flow.losses import Draws
from crossflow.model.settings import Losses


@dataclass(frozen=True, kw_only=True)
class AnchorStage(Stage):
    """All flows from the shared latent, and its encoders, by ``paired`` modalities, one pair a step.

    Of a text a step has the full description, which is made, and a caption of the forms ``captions``, which is given.
    """

    anchor: AnchorConfig
    paired: tuple[tuple[str, str], ...]
    captions: tuple[int, ...]
    kind: Literal["any-to-any-anchor"] = "any-to-any-anchor"

    @property
    def summary(self) -> str:
        """What it trains, in a few words."""
        return f"any to any, a shared latent of {', '.join(self.anchor.modalities)}"

    @property
    def own(self) -> Own:
        return {"anchor": ("flows", "encoders")}

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        return self.paired

    @property
    def reaching(self) -> tuple[str, ...]:
        return self.anchor.modalities

    @property
    def captioned(self) -> tuple[int, ...]:
        return self.captions

    @property
    def left(self) -> AnyToAnyConfig:
        return replace(self.system, anchor=self.anchor, trained=noted(self.system, "anchor", self.pairs))

    def is_in(self, found: AnyToAnyConfig) -> bool:
        return found.anchor is not None

    def is_alike(self, found: AnyToAnyConfig) -> bool:
        return found.anchor == self.anchor

    def sized(self, found: AnyToAnyConfig) -> AnyToAnyConfig:
        found.needing("coded", self.anchor.modalities)
        if self.is_in(found):
            raise CrossFlowError("The shared latent of this system is trained: go on to another stage.")
        return found

    def build(self, training: bool = True) -> AnyToAny:
        """The stage or, without ``training``, the system that it leaves."""
        return AnchorTraining(self) if training else self.left.build()

    def draw(self, count: int, generator: torch.Generator) -> AnchorDraws:
        """Noise and times."""
        drawn = losses.draw(count, self.anchor.shape, 0.0, generator, times="uniform")
        return AnchorDraws(drawn.noise, drawn.t)


@dataclass(frozen=True, kw_only=True)
class DirectStage(Stage):
    """The direct flow of one ``pair``, source first; it is also run backward, where no other leads that way.

    A text as source is a caption of the forms ``captions``, as target the full description.
    """

    direct: DirectConfig
    pair: tuple[str, str]
    captions: tuple[int, ...]
    kind: Literal["any-to-any-direct"] = "any-to-any-direct"

    @property
    def summary(self) -> str:
        """What it trains, in a few words."""
        return f"any to any, a direct flow from {self.pair[0]} to {self.pair[1]}"

    @property
    def own(self) -> Own:
        return {"direct": ("-".join(self.pair),)}

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        return (self.pair,)

    @property
    def reaching(self) -> tuple[str, ...]:
        return self.pair

    @property
    def captioned(self) -> tuple[int, ...]:
        return self.captions if self.pair[0] == "text" else ()

    @property
    def left(self) -> AnyToAnyConfig:
        before = self.system.direct
        direct = replace(self.direct, pairs=(*(() if before is None else before.pairs), self.pair))
        return replace(self.system, direct=direct, trained=noted(self.system, "direct", self.pairs))

    def is_in(self, found: AnyToAnyConfig) -> bool:
        return found.direct is not None and self.pair in found.direct.pairs

    def is_alike(self, found: AnyToAnyConfig) -> bool:
        return found.direct is not None and replace(found.direct, pairs=self.direct.pairs) == self.direct

    def sized(self, found: AnyToAnyConfig) -> AnyToAnyConfig:
        found.needing("coded", self.pair)
        if self.is_in(found):
            raise CrossFlowError(f"The flow from {' to '.join(self.pair)} is trained: go on to another stage.")
        return found

    def build(self, training: bool = True) -> AnyToAny:
        """The stage or, without ``training``, the system that it leaves."""
        return DirectTraining(self) if training else self.left.build()

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Noise on the source, and times."""
        return losses.draw(count, self.direct.shape, 0.0, generator, times="uniform")


class AnchorTraining(Training):
    """See ``AnchorStage``."""

    def __init__(self, stage: AnchorStage) -> None:
        super().__init__(stage)
        self.stage = stage

    def forward(self, batch: Batch, draws: AnchorDraws, counted: tuple[str, ...] | None = None) -> Losses:
        """The loss of one batch, which has the latents of a pair."""
        config = self.stage.anchor
        entries = {name: name for name in config.modalities} | {as_given(name): CAPTION for name in config.given}
        found = {name: batch[entry].values for name, entry in entries.items() if entry in batch}
        return self.anchor({name: padded(x, config.shape[0]) for name, x in found.items()}, draws)


class DirectTraining(Training):
    """See ``DirectStage``."""

    def __init__(self, stage: DirectStage) -> None:
        super().__init__(stage)
        self.stage = stage

    def forward(self, batch: Batch, draws: Draws, counted: tuple[str, ...] | None = None) -> Losses:
        """The flow's loss of one batch."""
        source, target = self.stage.pair
        entries = {source: CAPTION if self.stage.captioned else source, target: target}
        items = {name: Item(padded(batch[entry].values, self.stage.direct.shape[0])) for name, entry in entries.items()}
        return self.direct["-".join(self.stage.pair)](Batch(items, batch.same, items[target].values), draws)
