"""The recipe: a model config, its training data, and all hyperparameters that determine the trained weights."""

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass, replace
from typing import Any, Literal, cast

from crossflow.errors import CrossFlowError
from crossflow.losses.contrast import NEGATIVES
from crossflow.model.config import ModelConfig
from crossflow.networks.blocks import check_sizes
from crossflow.scenes.negatives import MOST
from crossflow.scenes.spec import VERSION as WORLD

PLACES = 5
"""The index of a scene's caption by ``scenes.caption.places``, after the five that it brings."""
CELL = 8
"""Pixels per side of one cell of Stable Diffusion's latents."""


@dataclass(frozen=True, kw_only=True)
class SceneData:
    """Training pairs from ``count`` scenes of the split ``train``, rendered at ``size`` pixels.

    ``captions`` are the indices of the captions to sample from, 0 being the prompt and PLACES the shapes with their
    places; an index given twice is sampled twice as often. ``negatives`` is how many untrue prompts come with an item,
    for a contrast with hard negatives. ``retold`` asks for each scene of two shapes in a form drawn anew, mostly one
    that needs binding, ``sides`` of the relations by sides (see ``scenes.retell``).
    """

    count: int = 60_000
    size: int = 32
    captions: tuple[int, ...] = (0,)
    negatives: int = 0
    retold: bool = False
    sides: float = 0.0
    kind: Literal["scenes"] = "scenes"

    def __post_init__(self) -> None:
        if not 0 <= self.negatives <= MOST:
            raise CrossFlowError(f"negatives is {self.negatives}; of every prompt there are from 0 to {MOST}.")
        if not 0 <= self.sides <= 1 or (self.sides and not self.retold):
            raise CrossFlowError(f"sides is {self.sides}; it is a share from 0 to 1 of the relations of retold scenes.")

    def check(self, model: ModelConfig) -> None:
        """CrossFlowError for a model with an external autoencoder, which scenes are not encoded by."""
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
    """Image-text pairs in a folder given at training time: the authors' feature files, or our shards.

    ``size`` is the side of the images in pixels, ``CELL`` times that of the latents.
    """

    size: int = 256
    kind: Literal["folder"] = "folder"

    def check(self, model: ModelConfig) -> None:
        """CrossFlowError for a model whose targets are not latents of images of this size."""
        if not model.target.external:
            raise CrossFlowError("Pairs in a folder are encoded by the KL autoencoder, scenes by any other.")
        if model.shape[1:] != (self.size // CELL,) * 2:
            raise CrossFlowError(f"Images of {self.size} pixels do not have latents of {model.shape[1:]}.")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of training: ``steps`` that train ``all``, the ``source`` with the loss terms' networks, or the ``flow``.

    ``losses`` names the losses that are computed, ``flow`` and those of the terms; None is all. What is not trained
    keeps its weights, and without the flow loss the velocity network is not evaluated.
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
    """A recipe. ``batch_size`` is that of one optimiser step, over all processes and accumulated micro-batches.

    ``stages`` divide the ``steps``; empty is one stage that trains everything. In each stage the learning rate rises
    over ``warmup`` steps, then decays linearly to the fraction ``final_learning_rate`` of its peak; 1 is a constant
    rate. ``clip`` is the largest gradient norm, None for no clipping. ``ema`` is the decay of the moving average, which
    starts anew with each stage. ``precision`` auto is bf16 where the hardware supports it, which small networks gain
    nothing from on a CPU. The checkpoints of the steps in ``keep_at`` are kept besides the last.
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

    def in_steps(self, steps: int) -> "TrainConfig":
        """The same recipe in another number of steps: stages and kept checkpoints keep their shares of the whole."""
        ends = [round(steps * end / self.steps) for end in itertools.accumulate(stage.steps for stage in self.stages)]
        stages = tuple(
            replace(stage, steps=end - start) for stage, start, end in zip(self.stages, [0, *ends], ends, strict=False)
        )
        kept = tuple(max(1, round(steps * step / self.steps)) for step in self.keep_at)
        return replace(self, steps=steps, stages=stages, keep_at=kept)

    def stage(self, step: int) -> Stage:
        """The stage of optimiser step ``step``, counted from 0."""
        return self._place(step)[0]

    def inside(self, step: int) -> int:
        """How many steps of its own stage come before optimiser step ``step``."""
        return self._place(step)[1]

    def rate(self, step: int) -> float:
        """The learning rate of optimiser step ``step``: linear warm-up, and linear decay to the final fraction.

        The first step has 1 / ``warmup`` of the rate; in the authors' code it has 0, and so no effect.
        """
        stage, since = self._place(step)
        rise = min(1.0, (since + 1) / self.warmup)
        return self.learning_rate * rise * max(self.final_learning_rate, 1.0 - since / stage.steps)

    def _place(self, step: int) -> tuple[Stage, int]:
        """The stage of ``step``, and the steps since its beginning."""
        for stage in self.stages:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        return Stage(steps=self.steps), step

    def plain(self) -> dict[str, Any]:
        """Everything but the model, as plain JSON values, with the version of the embedded world."""
        training = asdict(self) | {"world": WORLD}
        del training["model"]
        return json.loads(json.dumps(training))

    def digest(self, seed: int, init: str | None = None) -> str:
        """Twelve hexadecimal digits that identify the training: a hash of recipe, embedded world and ``seed``.

        Of the recipe it reads the fields that are not at their defaults, so a new field renames no training if its
        default is what was done before; for the same reason the default of a field is never changed. ``init`` is the
        sha256 of the checkpoint that the training starts from, if any.
        """
        whole = {"recipe": _chosen(self), "world": WORLD, "seed": seed}
        whole |= {} if init is None else {"init": init}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]


def _chosen(value: Any) -> Any:
    """A config as plain values, without the fields that are at their defaults, ``kind`` excepted."""
    if isinstance(value, tuple | list):
        return [_chosen(each) for each in cast(Sequence[Any], value)]
    if not is_dataclass(value) or isinstance(value, type):
        return value
    held = {field: getattr(value, field.name) for field in fields(value)}
    return {
        field.name: _chosen(each) for field, each in held.items() if field.name == "kind" or each != _default(field)
    }


def _default(field: Field[Any]) -> Any:
    """The default of a field, or MISSING."""
    return field.default if field.default_factory is MISSING else field.default_factory()
