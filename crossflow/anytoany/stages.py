"""The stages of training an any-to-any system: each trains its own parts, and leaves all others as it found them.

A stage is the model of a recipe. It is given the file of the stage before, and writes it again with its own parts
added: codecs, then prompt encoders by bridging alignment, then a diffuser a modality, then latent alignment pair by
pair.
"""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from crossflow.anytoany.alignment import JointDraws, draw_jointly, joint_loss, learning
from crossflow.anytoany.prompts import Contrast, follow
from crossflow.anytoany.system import AnyToAny, AnyToAnyConfig, Member, Trained, load_system, system_config
from crossflow.errors import CrossFlowError
from crossflow.flow import losses
from crossflow.flow.batch import Batch
from crossflow.flow.losses import Draws
from crossflow.losses import LossConfig
from crossflow.model.checkpoint import check_tensors, shipped, take_weights
from crossflow.model.settings import Losses
from crossflow.networks.blocks import check_sizes

Own = dict[
    Literal["codecs", "prompts", "diffusers", "environments", "connections", "anchor", "direct"], tuple[str, ...]
]
"""Which parts of which modalities a stage trains."""
PROMPT = "prompt"
"""The entry of a batch with the bare prompts of its items, as the prompt encoder of texts reads them."""
FOLLOWED = 0.01
"""The share of the way by which the encoders of a queue's keys follow, at each step."""
WRONG = "wrong"
"""The entry with texts that differ from those of the items in one thing, [b n l]."""
CAPTION = "caption"
"""The entry with the latents of a caption of each item, in a form that texts are given in."""


def read_of(name: str) -> str:
    """The entry of a batch with what the prompt encoder of a modality reads; its latents have the modality's name."""
    return f"{name} read"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What all stages have: the ``system`` as it was before, with the sizes that the parts to come will have."""

    system: AnyToAnyConfig
    terms: ClassVar[tuple[LossConfig, ...]] = ()
    bare: ClassVar[bool] = False
    """Whether it also reads the bare prompts of the items."""

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The pairs of modalities that it reads; of several each step reads one."""
        return ()

    @property
    def reading(self) -> tuple[str, ...]:
        """The modalities that its prompt encoders read."""
        return ()

    @property
    def reaching(self) -> tuple[str, ...]:
        """The modalities whose latents it learns to generate."""
        return ()

    @property
    def captioned(self) -> tuple[int, ...]:
        """The forms of captions of which it reads one an item as latents, 0 the bare prompt; all are as likely.

        A form that stands twice is twice as likely. Empty for a stage that reads no latents of captions.
        """
        return ()

    @property
    def worded(self) -> tuple[int, ...]:
        """The forms of captions whose words its prompt encoders read, as ``captioned``; empty for all of them."""
        return ()

    @property
    def own(self) -> Own:
        """The parts that it trains."""
        raise NotImplementedError

    @property
    def left(self) -> AnyToAnyConfig:
        """The system that it leaves."""
        raise NotImplementedError

    def sized(self, found: AnyToAnyConfig) -> AnyToAnyConfig:
        """The system ``found`` before it, with the sizes of its own parts where these are new.

        CrossFlowError if that lacks what the stage stands on.
        """
        raise NotImplementedError

    def is_in(self, found: AnyToAnyConfig) -> bool:
        """Whether the system ``found`` has what the stage trains."""
        raise NotImplementedError

    def is_alike(self, found: AnyToAnyConfig) -> bool:
        """Whether what the system ``found`` has of it is of the stage's own sizes and settings."""
        raise NotImplementedError

    def after(self, init: Path | None) -> Any:
        """The stage on the system in the file ``init``; CrossFlowError if that cannot be."""
        if init is None:
            raise CrossFlowError("This stage goes on from the one before: give its model.safetensors as --init.")
        return replace(self, system=self.sized(system_config(init)))


@dataclass(frozen=True, kw_only=True)
class CodecStage(Stage):
    """Codecs of all modalities: those that are fitted are, before the first step; the others learn to reconstruct."""

    kind: Literal["any-to-any-codecs"] = "any-to-any-codecs"
    summary: ClassVar[str] = "any to any, codecs"

    @property
    def own(self) -> Own:
        return {"codecs": self.system.names}

    @property
    def left(self) -> AnyToAnyConfig:
        return replace(self.system, coded=self.system.names)

    def is_in(self, found: AnyToAnyConfig) -> bool:
        return set(self.system.names) <= set(found.coded)

    def is_alike(self, found: AnyToAnyConfig) -> bool:
        return all(found.member(each.name).codec == each.codec for each in self.system.members)

    def after(self, init: Path | None) -> "CodecStage":
        """Itself; CrossFlowError if it is given a file, whose parts stand on codecs that would be others."""
        if init is not None:
            raise CrossFlowError("The codecs are the first stage, and everything stands on them: leave --init out.")
        return self

    def build(self, training: bool = True) -> AnyToAny:
        """The stage or, without ``training``, the system that it leaves."""
        return CodecTraining(self) if training else self.left.build()

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """The noise of the codecs that sample their latents: the channels of all of them, in their order."""
        channels = sum(member.shape[0] for member in self.system.members)
        return losses.draw(count, (channels, *self.system.members[0].shape[1:]), 0.0, generator)


@dataclass(frozen=True, kw_only=True)
class PromptStage(Stage):
    """Prompt encoders of a ``pair`` of text and another modality: of both, or of what no pair before had.

    ``queue`` is how many earlier pairs are wrong answers, besides the others of the batch. ``forms`` are those of
    captions that are read, a form that stands twice twice as often; empty is all.
    """

    pair: tuple[str, str]
    queue: int = 4096
    forms: tuple[int, ...] = ()
    kind: Literal["any-to-any-prompts"] = "any-to-any-prompts"

    def __post_init__(self) -> None:
        check_sizes(queue=self.queue)
        if self.pair[0] != "text" or self.pair[1] == "text":
            raise CrossFlowError(f"Prompts are aligned with texts, not {' with '.join(self.pair)}: let text be first.")

    @property
    def summary(self) -> str:
        """What it trains, in a few words."""
        return f"any to any, prompt encoders of {' and '.join(self.pair)}"

    @property
    def learning(self) -> tuple[str, ...]:
        """The modalities that have no prompt encoder yet."""
        return tuple(name for name in self.pair if name not in self.system.prompted)

    @property
    def own(self) -> Own:
        return {"prompts": self.learning}

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        return (self.pair,)

    @property
    def reading(self) -> tuple[str, ...]:
        return self.pair

    @property
    def worded(self) -> tuple[int, ...]:
        return self.forms

    @property
    def left(self) -> AnyToAnyConfig:
        prompted = _among(self.system, (*self.system.prompted, *self.pair))
        return replace(self.system, prompted=prompted, trained=noted(self.system, "prompts", self.pairs))

    def is_in(self, found: AnyToAnyConfig) -> bool:
        return set(self.pair) <= set(found.prompted)

    def is_alike(self, found: AnyToAnyConfig) -> bool:
        return found.prompts == self.system.prompts

    def sized(self, found: AnyToAnyConfig) -> AnyToAnyConfig:
        found.needing("coded", self.pair)
        if self.is_in(found):
            raise CrossFlowError(f"Prompts of {' and '.join(self.pair)} are aligned already: go on to another stage.")
        return found if found.prompted else replace(found, prompts=self.system.prompts)

    def build(self, training: bool = True) -> AnyToAny:
        """The stage or, without ``training``, the system that it leaves."""
        return PromptTraining(self) if training else self.left.build()

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Next to nothing: the loss has no randomness of its own."""
        return losses.draw(count, (1, 1, 1), 0.0, generator)


@dataclass(frozen=True, kw_only=True)
class DiffuserStage(Stage):
    """The diffuser of one ``modality``, prompted at each step by another one of ``prompts``."""

    modality: str
    prompts: tuple[str, ...] = ("text",)
    kind: Literal["any-to-any-diffuser"] = "any-to-any-diffuser"

    def __post_init__(self) -> None:
        if not self.prompts or self.modality in self.prompts:
            raise CrossFlowError(
                f"The diffuser of {self.modality} is prompted by {', '.join(self.prompts) or 'nothing'}: name others."
            )

    @property
    def summary(self) -> str:
        """What it trains, in a few words."""
        return f"any to any, diffuser of {self.modality} from {' or '.join(self.prompts)}"

    @property
    def own(self) -> Own:
        return {"diffusers": (self.modality,)}

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        return tuple((prompt, self.modality) for prompt in self.prompts)

    @property
    def reading(self) -> tuple[str, ...]:
        return self.prompts

    @property
    def reaching(self) -> tuple[str, ...]:
        return (self.modality,)

    @property
    def left(self) -> AnyToAnyConfig:
        diffused = _among(self.system, (*self.system.diffused, self.modality))
        return replace(self.system, diffused=diffused, trained=noted(self.system, "diffuser", self.pairs))

    def is_in(self, found: AnyToAnyConfig) -> bool:
        return self.modality in found.diffused

    def is_alike(self, found: AnyToAnyConfig) -> bool:
        return found.member(self.modality).diffuser == self.system.member(self.modality).diffuser

    def sized(self, found: AnyToAnyConfig) -> AnyToAnyConfig:
        found.needing("prompted", self.prompts)
        found.needing("coded", [self.modality])
        if self.is_in(found):
            raise CrossFlowError(f"The diffuser of {self.modality} is trained: go on to another stage.")
        return replace(found, members=tuple(self._member(member) for member in found.members))

    def _member(self, found: Member) -> Member:
        own = self.system.member(self.modality).diffuser
        return replace(found, diffuser=own) if found.name == self.modality else found

    def build(self, training: bool = True) -> AnyToAny:
        """The stage or, without ``training``, the system that it leaves."""
        return DiffuserTraining(self) if training else self.left.build()

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Noise, times, and which items lose their prompt."""
        config = self.system.member(self.modality).diffuser
        return losses.draw(count, config.shape, config.guidance.null_rate, generator, times=config.times)


@dataclass(frozen=True, kw_only=True)
class PairStage(Stage):
    """Latent alignment of a ``pair``: environment and connections of what no pair before had, all diffusers frozen.

    Its prompts are the bare ones of the texts. A text as output is the full description: else nothing is left untold
    that the other modality could tell it.
    """

    pair: tuple[str, str]
    kind: Literal["any-to-any-pair"] = "any-to-any-pair"
    bare: ClassVar[bool] = True

    @property
    def summary(self) -> str:
        """What it trains, in a few words."""
        return f"any to any, alignment of {' and '.join(self.pair)}"

    @property
    def own(self) -> Own:
        before = [pair for note in self.system.trained if note.stage == "pair" for pair in note.pairs]
        learn = learning((*before, self.pair), len(before))
        return {"environments": learn, "connections": learn}

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        return (self.pair,)

    @property
    def reaching(self) -> tuple[str, ...]:
        return self.pair

    @property
    def left(self) -> AnyToAnyConfig:
        aligned = _among(self.system, (*self.system.aligned, *self.pair))
        return replace(self.system, aligned=aligned, trained=noted(self.system, "pair", self.pairs))

    def is_in(self, found: AnyToAnyConfig) -> bool:
        return set(self.pair) <= set(found.aligned)

    def is_alike(self, found: AnyToAnyConfig) -> bool:
        return found.alignment == self.system.alignment

    def sized(self, found: AnyToAnyConfig) -> AnyToAnyConfig:
        found.needing("diffused", self.pair)
        found.needing("prompted", ["text"])
        return found if found.aligned else replace(found, alignment=self.system.alignment)

    def build(self, training: bool = True) -> AnyToAny:
        """The stage or, without ``training``, the system that it leaves."""
        return PairTraining(self) if training else self.left.build()

    def draw(self, count: int, generator: torch.Generator) -> JointDraws:
        """The noise of both, one time for both, and which items lose their prompt."""
        configs = [self.system.member(name).diffuser for name in self.pair]
        shapes = {name: config.shape for name, config in zip(self.pair, configs, strict=True)}
        return draw_jointly(count, shapes, configs[0].guidance.null_rate, generator, configs[0].times)


class Training(AnyToAny):
    """The system that a stage leaves, of which only the stage's own parts learn."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage.left)
        self.requires_grad_(False)
        self.own = tuple(f"{part}.{name}." for part, names in stage.own.items() for name in names)
        for name, weight in self.named_parameters():
            weight.requires_grad_(name.startswith(self.own))


class CodecTraining(Training):
    """See ``CodecStage``; the loss is the sum of those of the codecs that learn."""

    def __init__(self, stage: CodecStage) -> None:
        super().__init__(stage)
        if not any(self.codec(name).learns for name in stage.system.names):
            raise CrossFlowError("No codec of this system learns: fit them, and leave this stage out.")

    def forward(self, batch: Batch, draws: Draws, counted: tuple[str, ...] | None = None) -> Losses:
        """The loss of one batch of values, whose items are of other events in each modality."""
        noise = draws.noise.split([member.shape[0] for member in self.config.members], dim=1)
        found: Losses = {}
        for own, name in zip(noise, self.config.names, strict=True):
            if self.codec(name).learns:
                found[name] = self.codec(name).reach(batch[name].values, own).loss
        total = torch.stack(list(found.values())).sum()
        return {"total": total, **{name: part.detach() for name, part in found.items()}}


class PromptTraining(Training):
    """See ``PromptStage``; ``slow`` are encoders that follow those that learn, for the keys of the queue."""

    def __init__(self, stage: PromptStage) -> None:
        super().__init__(stage)
        self.pair = stage.pair
        slow = copy.deepcopy(nn.ModuleDict({name: self.prompts[name] for name in stage.learning})).requires_grad_(False)
        self.terms = nn.ModuleDict({"contrast": Contrast(stage.left.prompts, stage.queue), "slow": slow})

    def forward(self, batch: Batch, draws: Draws, counted: tuple[str, ...] | None = None) -> Losses:
        """The contrastive loss of one batch, whose texts come with wrong ones."""
        slow: Any = self.terms["slow"]
        for name, encoder in slow.items():
            follow(encoder, self.prompts[name], FOLLOWED)
        read = {name: batch[read_of(name)].values for name in self.pair}
        text, other = (self.prompts[name](read[name]) for name in self.pair)
        with torch.no_grad():
            keys = [
                slow[name](read[name]) if name in slow else own
                for name, own in zip(self.pair, (text, other), strict=True)
            ]
        wrong = batch[WRONG].values
        near = self.prompts["text"](wrong.flatten(0, 1)).unflatten(0, wrong.shape[:2])
        loss = self.terms["contrast"]((text, other), (keys[0], keys[1]), batch.same, near)
        return {"total": loss, "contrastive": loss.detach()}


class DiffuserTraining(Training):
    """See ``DiffuserStage``."""

    def __init__(self, stage: DiffuserStage) -> None:
        super().__init__(stage)
        self.stage = stage

    def forward(self, batch: Batch, draws: Draws, counted: tuple[str, ...] | None = None) -> Losses:
        """The diffuser's loss of one batch, which has what one of the prompts reads."""
        prompt = next(name for name in self.stage.prompts if read_of(name) in batch)
        with torch.no_grad():
            vectors = self.prompts[prompt](batch[read_of(prompt)].values)
        return self.diffusers[self.stage.modality](batch[self.stage.modality].values, vectors, draws)


class PairTraining(Training):
    """See ``PairStage``."""

    def __init__(self, stage: PairStage) -> None:
        super().__init__(stage)
        self.pair = stage.pair
        align = self.config.alignment
        learned = stage.own["environments"] if align.reconstruction else ()
        shapes = {name: self.config.member(name).shape for name in learned}
        self.terms = nn.ModuleDict({name: align.environment.reconstruction(shape) for name, shape in shapes.items()})

    def forward(self, batch: Batch, draws: JointDraws, counted: tuple[str, ...] | None = None) -> Losses:
        """The joint loss of one batch."""
        with torch.no_grad():
            vectors = self.prompts["text"](batch[PROMPT].values)
        latents = {name: batch[name].values for name in self.pair}
        heads = dict(self.terms.items())
        return joint_loss(self.parts(self.pair), latents, vectors, draws, self.config.alignment, batch.same, heads)


@take_weights.register(Training)
def _take(model: Training, path: str | Path) -> list[str]:
    """The weights of the stage before; the stage's own parts start anew."""
    found = shipped(load_system(Path(path)))
    expected = {name: part for name, part in shipped(model).items() if not name.startswith(model.own)}
    check_tensors(path, found, expected, "the recipe")
    model.load_state_dict(found, strict=False)
    return []


def _among(system: AnyToAnyConfig, names: tuple[str, ...]) -> tuple[str, ...]:
    """The modalities in the order of the system."""
    return tuple(name for name in system.names if name in names)


def noted(
    system: AnyToAnyConfig,
    stage: Literal["prompts", "diffuser", "pair", "anchor", "direct"],
    pairs: tuple[tuple[str, str], ...],
) -> tuple[Trained, ...]:
    """What was trained, with one stage more."""
    return (*system.trained, Trained(stage=stage, pairs=pairs))
