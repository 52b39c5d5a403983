"""The recipe: a model config, its training data, and all hyperparameters that determine the trained weights."""

import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, Literal, cast

from crossflow.anytoany.stages import Stage as AnyStage
from crossflow.errors import CrossFlowError
from crossflow.losses.contrast import NEGATIVES
from crossflow.modalities.components import ComponentsConfig
from crossflow.model.config import ModelConfig, TrainedConfig
from crossflow.networks.blocks import check_sizes
from crossflow.scenes.negatives import MOST
from crossflow.scenes.spec import VERSION as WORLD

PLACES = 5
"""The index of a scene's caption by ``scenes.caption.places``, after the five that it brings."""
CELL = 8
"""Pixels per side of one cell of Stable Diffusion's latents."""


def _check_count(count: int) -> None:
    """CrossFlowError for data without any item."""
    if count < 1:
        raise CrossFlowError(f"count is {count}; data have at least one item.")


@dataclass(frozen=True, kw_only=True)
class SceneData:
    """Training pairs from ``count`` scenes of the split ``train``, rendered at ``size`` pixels.

    ``captions`` are the indices of the captions to sample from, 0 being the prompt and PLACES the shapes with their
    places; an index given twice is sampled twice as often, and a ``Stage`` may read some alone. ``negatives`` is how
    many untrue prompts come with an item, for a contrast with hard negatives. ``retold`` asks for each scene of two
    shapes in a form drawn anew, mostly one that needs binding, ``sides`` of the relations by sides (see
    ``scenes.retell``).
    """

    count: int = 60_000
    size: int = 32
    captions: tuple[int, ...] = (0,)
    negatives: int = 0
    retold: bool = False
    sides: float = 0.0
    kind: Literal["scenes"] = "scenes"

    def __post_init__(self) -> None:
        _check_count(self.count)
        check_sizes(size=self.size)
        if not self.captions or not set(self.captions) <= set(range(PLACES + 1)):
            raise CrossFlowError(f"captions are {self.captions}; give some of the indices from 0 to {PLACES}.")
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
    captions: ClassVar[tuple[int, ...]] = ()

    def check(self, model: ModelConfig) -> None:
        """CrossFlowError for a model that does not read texts, or whose targets are not latents of such images."""
        if model.reads.kind != "tokens":
            raise CrossFlowError(f"Pairs in a folder are of texts and images, and this model reads {model.reads.kind}.")
        if not model.target.external:
            raise CrossFlowError("Pairs in a folder are encoded by the KL autoencoder, scenes by any other.")
        if model.shape[1:] != (self.size // CELL,) * 2:
            raise CrossFlowError(f"Images of {self.size} pixels do not have latents of {model.shape[1:]}.")


@dataclass(frozen=True, kw_only=True)
class SetData:
    """Training pairs made of the images of data sets in their own ``layouts``, in a folder given at training time.

    Of several data sets each lies in a subfolder of its name. What is made of an image depends on the model's ends: its
    caption, its depth, itself for a model that reads it shrunk, or itself of its caption. Images are cut to ``size``
    (h, w) after they are resized to just cover it or, without ``resize``, as they are; in the centre or, with the
    ``crop`` random, anywhere. ``benchmark`` first cuts images that are as wide as KITTI's, and its virtual twin's, to
    its benchmark crop. ``flip`` is the share of items that are mirrored. Holes in depth are filled by the rule
    ``holes``; the loss leaves them out.

    Of super-resolution, images whose shorter side is below ``size`` are left out, and cutting and shrinking is SR3's.
    """

    layouts: tuple[str, ...]
    size: tuple[int, int]
    resize: bool = True
    crop: Literal["center", "random"] = "center"
    flip: float = 0.0
    benchmark: bool = False
    holes: Literal["nearest"] = "nearest"
    kind: Literal["sets"] = "sets"
    captions: ClassVar[tuple[int, ...]] = ()

    def __post_init__(self) -> None:
        check_sizes(layouts=len(self.layouts), height=self.size[0], width=self.size[1])
        if not 0 <= self.flip <= 1:
            raise CrossFlowError(f"flip is {self.flip}; it is a share from 0 to 1 of the items.")

    def check(self, model: ModelConfig) -> None:
        """CrossFlowError for a model that reads neither images nor texts, or another size, or gives what no set has."""
        ends = (model.reads.kind, model.target.name)
        if model.target.external or ends not in (
            ("tokens", "image"),
            *(("image", made) for made in ("text", "depth", "image")),
        ):
            raise CrossFlowError(
                "Of the images of data sets captions, depth or larger images are made, or they of their captions: "
                "change the ends."
            )
        larger = ends == ("image", "image")
        sizes = {"read": model.reads.shape[1:]} if ends[0] == "image" and not larger else {}
        side = model.target.patch if isinstance(model.target, ComponentsConfig) else 1
        sizes |= {} if model.target.name == "text" else {"given": tuple(side * cells for cells in model.shape[1:])}
        for what, size in sizes.items():
            if size != self.size:
                raise CrossFlowError(f"The images that are {what} are {size}, and the data are cut to {self.size}.")
        if larger and self.size[0] != self.size[1]:
            raise CrossFlowError(f"Super-resolution is trained on squares, and size is {self.size}.")
        if model.beside:
            raise CrossFlowError(f"A term of the loss reads {model.beside[0]}, which data sets do not have.")


PAIRS = (
    *(("text", name) for name in ("image", "depth", "audio", "video")),
    ("audio", "video"),
    ("image", "depth"),
)
"""The pairs of modalities that are ever seen together: text is the bridge to all, two more share what no text tells.

Image and audio, image and video, depth and audio, depth and video are never: what is generated of these together, or of
one from the other, was not trained.
"""


@dataclass(frozen=True, kw_only=True)
class EventData:
    """Pairs of modalities from ``count`` events of the split ``train``, as latents; only these ``pairs`` are read."""

    count: int = 20_000
    pairs: tuple[tuple[str, str], ...] = PAIRS
    kind: Literal["events"] = "events"
    captions: ClassVar[tuple[int, ...]] = ()

    def __post_init__(self) -> None:
        _check_count(self.count)

    def check(self, model: Any) -> None:
        """CrossFlowError for a model that is no stage of an any-to-any system, or for a pair that is not paired."""
        if not isinstance(model, AnyStage):
            raise CrossFlowError(
                "Latents of events are read by the stages of an any-to-any system alone: choose other data."
            )
        allowed = {frozenset(pair) for pair in self.pairs}
        for pair in model.pairs:
            if frozenset(pair) not in allowed:
                raise CrossFlowError(
                    f"{pair[0]} and {pair[1]} are never trained together: the pairs are "
                    f"{', '.join(f'{one}-{other}' for one, other in self.pairs)}."
                )


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of training: ``steps`` that train ``all``, the ``source`` with the loss terms' networks, or the ``flow``.

    ``losses`` names the losses that are computed, ``flow`` and those of the terms; None is all. What is not trained
    keeps its weights, and without the flow loss the velocity network is not evaluated. ``captions`` are those of the
    data's captions that are read; empty is all.
    """

    steps: int
    trains: Literal["all", "source", "flow"] = "all"
    losses: tuple[str, ...] | None = None
    captions: tuple[int, ...] = ()

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
    over ``warmup`` steps and decays, ``linear`` or by half a ``cosine``, to the fraction ``final_learning_rate`` of its
    peak; 1 is a constant rate. A recipe in ``epochs``, with a warm-up of ``warmup_epochs``, has the steps that these
    are on the items that it is given (see ``on``); ``steps`` and ``warmup`` are then those on the whole data set.
    ``clip`` is the largest gradient norm, None for no clipping. ``ema`` is the decay of the moving average, which
    starts anew with each stage. ``precision`` auto is bf16 where the hardware supports it, which small networks gain
    nothing from on a CPU. The checkpoints of the steps in ``keep_at`` are kept besides the last.
    """

    model: TrainedConfig
    data: SceneData | PairData | SetData | EventData
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
    epochs: int | None = None
    warmup_epochs: int = 0
    decay: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        self._check_numbers()
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
        read = {caption for stage in self.stages for caption in stage.captions}
        if absent := sorted(read - set(self.data.captions)):
            raise CrossFlowError(f"A stage reads caption {absent[0]}; the data have {self.data.captions or 'none'}.")
        if any(not 1 <= step <= self.steps for step in self.keep_at):
            raise CrossFlowError(f"keep_at is {list(self.keep_at)}; there are steps 1 to {self.steps}.")
        if self.epochs is not None and not 0 <= self.warmup_epochs <= self.epochs:
            raise CrossFlowError(f"warmup_epochs is {self.warmup_epochs}; it is from 0 to the {self.epochs} epochs.")

    def _check_numbers(self) -> None:
        """CrossFlowError for a number that a training would stumble over, or that torch would refuse."""
        counts = ("steps", "batch_size", "accumulate", "warmup", "log_every", "save_every", "sample_every")
        if low := [name for name in counts if getattr(self, name) < 1]:
            hint = " (one step is no warm-up)" if low[0] == "warmup" else ""
            raise CrossFlowError(f"{low[0]} is {getattr(self, low[0])}; it must be at least 1{hint}.")
        for name in ("learning_rate", "final_learning_rate", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise CrossFlowError(f"{name} is {getattr(self, name)}; it must be a finite number of at least 0.")
        if not all(0 <= each < 1 for each in (*self.betas, self.ema)):
            raise CrossFlowError(f"betas are {self.betas} and ema is {self.ema}; they must be from 0 to below 1.")
        if self.clip is not None and not self.clip > 0:
            raise CrossFlowError(f"clip is {self.clip}; it must be above 0, and None is no clipping.")

    def on(self, items: int) -> "TrainConfig":
        """The recipe on a data set of ``items``: one in ``epochs`` in the steps that they take, any other as it is."""
        if self.epochs is None:
            return self
        steps = max(1, round(self.epochs * items / self.batch_size))
        warmup = max(1, round(self.warmup_epochs * items / self.batch_size))
        return replace(self.in_steps(steps), epochs=self.epochs, warmup_epochs=self.warmup_epochs, warmup=warmup)

    def laid_out(self, *layouts: str) -> "TrainConfig":
        """The same recipe on data sets of other layouts. CrossFlowError for one that reads no data set."""
        if not isinstance(self.data, SetData):
            raise CrossFlowError(
                "This recipe reads no data set in a layout of its own: leave --layout out, or choose own-* or paper-* "
                "of captions, depth and super-resolution."
            )
        return replace(self, data=replace(self.data, layouts=layouts))

    def in_steps(self, steps: int) -> "TrainConfig":
        """The same recipe in another number of steps: stages and kept checkpoints keep their shares of the whole.

        One in epochs is then in steps, with the warm-up that it had.
        """
        ends = [round(steps * end / self.steps) for end in itertools.accumulate(stage.steps for stage in self.stages)]
        stages = tuple(
            replace(stage, steps=end - start) for stage, start, end in zip(self.stages, [0, *ends], ends, strict=False)
        )
        kept = tuple(max(1, round(steps * step / self.steps)) for step in self.keep_at)
        return replace(self, steps=steps, stages=stages, keep_at=kept, epochs=None, warmup_epochs=0)

    def begun_with(self, steps: int) -> "TrainConfig":
        """The recipe of a training of so many ``steps`` that this one goes on from, which for most is itself.

        At a constant rate, in one stage and with no checkpoint kept along it, no step depends on how many there are.
        """
        same = self.final_learning_rate == 1 and not (self.stages or self.keep_at or self.epochs)
        return replace(self, steps=steps) if same else self

    def stage(self, step: int) -> Stage:
        """The stage of optimiser step ``step``, counted from 0."""
        return self._place(step)[0]

    def inside(self, step: int) -> int:
        """How many steps of its own stage come before optimiser step ``step``."""
        return self._place(step)[1]

    def rate(self, step: int) -> float:
        """The learning rate of optimiser step ``step``: linear warm-up, times the decay to the final fraction.

        The first step has 1 / ``warmup`` of the rate; in the authors' code it has 0, and so no effect. The linear decay
        ends early where it meets the final fraction; half a cosine reaches it at the last step of the stage.
        """
        stage, since = self._place(step)
        rise = min(1.0, (since + 1) / self.warmup)
        final = self.final_learning_rate
        if self.decay == "linear":
            return self.learning_rate * rise * max(final, 1.0 - since / stage.steps)
        left = 0.5 * (1.0 + math.cos(math.pi * since / max(1, stage.steps - 1)))
        return self.learning_rate * rise * (final + (1.0 - final) * left)

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
        chosen = _chosen(self)
        if self.epochs is not None:  # the steps are those of the data, which the digest does not read
            chosen = {name: value for name, value in chosen.items() if name not in ("steps", "warmup")}
        whole = {"recipe": chosen, "world": WORLD, "seed": seed}
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
