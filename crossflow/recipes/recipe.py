"""What a recipe is: a model, its training pairs, and all that decides how its weights come out."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from crossflow.errors import CrossFlowError
from crossflow.losses.contrast import NEGATIVES
from crossflow.model.config import ModelConfig
from crossflow.networks.blocks import check_sizes
from crossflow.scenes.negatives import MOST
from crossflow.scenes.spec import VERSION as WORLD

CELL = 8
"""Pixels a side that one cell of Stable Diffusion's latents covers."""


@dataclass(frozen=True, kw_only=True)
class SceneData:
    """The training pairs: ``count`` scenes of the split ``train``, drawn at ``size`` pixels.

    ``captions`` are the numbers of the captions that an item may come with, 0 being the prompt; a number that stands
    twice comes twice as often. ``negatives`` is how many prompts come with an item that are not true of it, for a
    contrast with hard negatives.
    """

    count: int = 60_000
    size: int = 32
    captions: tuple[int, ...] = (0,)
    negatives: int = 0
    kind: Literal["scenes"] = "scenes"

    def __post_init__(self) -> None:
        if not 0 <= self.negatives <= MOST:
            raise CrossFlowError(f"negatives is {self.negatives}; of every prompt there are from 0 to {MOST}.")

    def check(self, model: ModelConfig) -> None:
        """CrossFlowError for a model whose targets scenes do not have."""
        if model.target.external:
            raise CrossFlowError("Pairs in a folder are encoded by the KL autoencoder, scenes by any other.")
        given = (NEGATIVES,) if self.negatives else ()
        if unknown := [name for name in model.beside if name not in given]:
            raise CrossFlowError(
                f"A term of the loss reads {unknown[0]}, which these scenes do not have: "
                + ("let the data have negatives." if unknown[0] == NEGATIVES else "choose another tower.")
            )


@dataclass(frozen=True, kw_only=True)
class PairData:
    """Image-text pairs in a folder that is given at training time: the authors' feature files, or our shards.

    ``size`` is the side of the images in pixels, ``CELL`` of which make one cell of the latents.
    """

    size: int = 256
    kind: Literal["folder"] = "folder"

    def check(self, model: ModelConfig) -> None:
        """CrossFlowError for a model whose targets are no latents of images of this size."""
        if not model.target.external:
            raise CrossFlowError("Pairs in a folder are encoded by the KL autoencoder, scenes by any other.")
        if model.shape[1:] != (self.size // CELL,) * 2:
            raise CrossFlowError(f"Images of {self.size} pixels do not have latents of {model.shape[1:]}.")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a training: ``steps`` that train all, the ``source`` with the terms' networks, or the ``flow``.

    ``losses`` are the names of what counts, ``flow`` and those of the terms; None is everything. What is not trained
    keeps its weights, and where the flow loss does not count its network is not run.
    """

    steps: int
    trains: Literal["all", "source", "flow"] = "all"
    losses: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise CrossFlowError(f"A stage has {self.steps} steps; it must have at least one.")
        if self.losses is not None and not self.losses:
            raise CrossFlowError("A stage counts no loss: name some, or leave losses out for all.")
        if self.trains == "flow" and self.losses is not None and "flow" not in self.losses:
            raise CrossFlowError("A stage that trains the flow has to count the loss flow.")

    def trained(self, name: str) -> bool:
        """Whether the parameter ``name`` of a model is trained."""
        inside = {"all": ("",), "source": ("encoder.", "terms."), "flow": ("backbone.",)}
        return name.startswith(inside[self.trains])


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A recipe. ``batch_size`` is that of one optimiser step, over all processes and accumulated parts.

    ``stages`` divide the ``steps``; none is one stage of everything. The rate rises over ``warmup`` steps and then
    falls to its share ``final_learning_rate``, where 1 is a constant rate. ``clip`` is the largest norm of the
    gradient, None for no clipping. ``precision`` auto is bf16 where the hardware multiplies in it, which small networks
    gain nothing from on a CPU. The sampling checkpoints of the steps ``keep_at`` are kept beside the last one.
    """

    model: ModelConfig
    data: SceneData | PairData
    steps: int
    stages: tuple[Stage, ...] = ()
    batch_size: int = 64
    accumulate: int = 1
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 2e-3
    final_learning_rate: float = 0.02
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    clip: float | None = 1.0
    ema: float = 0.999
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    log_every: int = 50
    save_every: int = 500
    sample_every: int = 2000
    keep_at: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_sizes(accumulate=self.accumulate)
        if self.batch_size % self.accumulate:
            raise CrossFlowError(f"batch_size {self.batch_size} does not divide into {self.accumulate} equal parts.")
        self.data.check(self.model)
        if self.stages and sum(stage.steps for stage in self.stages) != self.steps:
            raise CrossFlowError(
                f"The stages have {[stage.steps for stage in self.stages]} steps and the training {self.steps}: "
                "let them add up."
            )
        known = {"flow", *(term.name for term in self.model.terms)}
        named = {name for stage in self.stages for name in stage.losses or ()}
        if unknown := sorted(named - known):
            raise CrossFlowError(f"A stage counts the loss {unknown[0]!r}; the model has {', '.join(sorted(known))}.")
        if any(not 1 <= step <= self.steps for step in self.keep_at):
            raise CrossFlowError(f"keep_at is {list(self.keep_at)}; there are steps 1 to {self.steps}.")

    def stage(self, step: int) -> Stage:
        """The stage that optimiser step ``step``, counted from 0, belongs to."""
        end = 0
        for stage in self.stages:
            end += stage.steps
            if step < end:
                return stage
        return Stage(steps=self.steps)

    def rate(self, step: int) -> float:
        """The learning rate of optimiser step ``step``: linear warm-up, then linear decay to the final share.

        The first step is taken at 1 / ``warmup`` of the rate; in the authors' program it is taken at 0, and so lost.
        """
        rise = min(1.0, (step + 1) / self.warmup)
        return self.learning_rate * rise * max(self.final_learning_rate, 1.0 - step / self.steps)

    def plain(self) -> dict[str, Any]:
        """All but the model, as plain JSON values, with the version of the embedded world."""
        training = asdict(self) | {"world": WORLD}
        del training["model"]
        return json.loads(json.dumps(training))

    def digest(self, seed: int) -> str:
        """Twelve hexadecimal digits that name the training with ``seed``: of all of the recipe, and of the world."""
        whole = {"model": asdict(self.model), "training": self.plain(), "seed": seed}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]
