"""The recipes of the paper's ablations, ``<scale>-<row>``: each row of Table 3 and its sisters changes one thing.

=========  ==========================================================================================
scale      what is trained
=========  ==========================================================================================
``smoke``  the embedded world, networks and data as small as they go: it proves the way and learns nothing
``tiny``   the embedded world, minutes a training on a CPU core
``base``   the paper's 70 M, which its Table 3 is of, on image-text pairs in a folder
``paper``  the paper's 0.95 B on the same
=========  ==========================================================================================

What the paper leaves open is settled here: the noise of "Encoder + noise" is one of ``NOISES``, chosen on validation;
the text encoder is pre-trained for ``PRETRAINING`` of the steps of joint training.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from crossflow.flow.guidance import NoGuidance
from crossflow.losses import LossConfig, TextContrast, TextReconstruction
from crossflow.model.authors_models import text_to_image
from crossflow.model.crossflow import FlowConfig
from crossflow.model.standard import StandardConfig
from crossflow.networks.dimr import DiMRConfig
from crossflow.recipes.paper import PAPER
from crossflow.recipes.recipe import SceneData, Stage, TrainConfig
from crossflow.recipes.scenes import SCENES
from crossflow.sources.fixed import DeterministicConfig, FixedNoiseConfig
from crossflow.sources.released import ReleasedEncoderConfig
from crossflow.sources.variational import VariationalConfig

NOISES = (0.1, 0.3, 1.0)
"""Standard deviations that "Encoder + noise" is trained with. The paper's is not stated."""
PRETRAINING = 0.25
"""Steps of pre-training of the text encoder, as a share of those of joint training. The paper's is not stated."""
KEPT = (0.25, 0.5)
"""Checkpoints kept along the run that autoguidance takes its weaker model from, as shares of its steps."""
REACHED = (0.4, 0.5, 0.65, 0.8, 1.0)
"""Steps of joint fine-tuning after which a checkpoint is kept, as shares of those of joint training.

The paper says that it converges about 35 % faster.
"""
ALONG = (0.25, 0.5, 0.75, 1.0)
"""Checkpoints kept along the runs of Figure 3, as shares of their steps."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What the text-to-image rows of one scale change one thing of: the final setting, and the baseline of its size.

    ``decoder`` and ``second`` are the sizes of the networks that text reconstruction and text contrast train with;
    ``texts`` are other language models, by the name of their row; ``sizes`` are pairs of both methods, by their size.
    """

    crossflow: TrainConfig
    standard: TrainConfig
    decoder: TextReconstruction
    second: TextContrast
    texts: Mapping[str, TrainConfig]
    sizes: Mapping[str, tuple[TrainConfig, TrainConfig]]


def rows(of: Ground) -> dict[str, TrainConfig]:
    """Every text-to-image row by its name."""
    full, model = of.crossflow, _flow(of.crossflow)
    kl, contrast = model.losses
    encoder = model.source
    assert isinstance(encoder, VariationalConfig | ReleasedEncoderConfig)
    unguided = _changed(full, guidance=NoGuidance(), sampling=replace(model.sampling, guidance_scale=1.0))

    def encoded(*losses: LossConfig) -> TrainConfig:
        return _changed(unguided, losses=losses)

    found = {
        "crossflow": full,
        "standard": of.standard,
        "sincos": _changed(full, path="sincos"),
        "encoder": _changed(encoded(of.decoder), source=DeterministicConfig(mean_of=encoder)),
        **{
            f"encoder-noise-{sd:g}": _changed(encoded(of.decoder), source=FixedNoiseConfig(mean_of=encoder, sd=sd))
            for sd in NOISES
        },
        "text-reconstruction": encoded(kl, of.decoder),
        "text-contrast": encoded(kl, of.second),
        "image-contrast": _keeping(encoded(kl, contrast), KEPT),
        **of.texts,
        **_two_stages(full),
    }
    for size, pair in of.sizes.items():
        for name, each in zip(("crossflow", "standard"), pair, strict=True):
            found[f"figure3-{name}-{size}"] = _keeping(replace(each, final_learning_rate=1.0), ALONG)
    return found


def _two_stages(full: TrainConfig) -> dict[str, TrainConfig]:
    """Table 3e, at as many steps as joint training in all (``-total``), and at as many of the second stage."""
    own = tuple(term.name for term in full.model.terms)
    found: dict[str, TrainConfig] = {}
    first = round(PRETRAINING * full.steps)
    for name, second in (("separate", Stage(steps=1, trains="flow", losses=("flow",))), ("finetuned", Stage(steps=1))):
        for suffix, steps in (("-total", full.steps - first), ("", full.steps)):
            stages = (Stage(steps=first, trains="source", losses=own), replace(second, steps=steps))
            found[f"two-stage-{name}{suffix}"] = replace(full, steps=first + steps, stages=stages)
    long = found["two-stage-finetuned"]
    kept = tuple(first + round(share * full.steps) for share in REACHED)
    return {**found, "two-stage-finetuned": replace(long, keep_at=kept)}


def _flow(recipe: TrainConfig) -> FlowConfig:
    assert isinstance(recipe.model, FlowConfig)
    return recipe.model


def _changed(recipe: TrainConfig, **changes: object) -> TrainConfig:
    """The recipe with some fields of its model changed."""
    return replace(recipe, model=replace(recipe.model, **changes))


def _keeping(recipe: TrainConfig, shares: tuple[float, ...]) -> TrainConfig:
    return replace(recipe, keep_at=tuple(max(1, round(share * recipe.steps)) for share in shares))


def _baseline(recipe: TrainConfig, depth: int) -> TrainConfig:
    """The paper's baseline of a DiMR: from noise, cross-attention after each of ``depth`` blocks of the transformer.

    The depth is the one whose parameters are nearest to those of the recipe's own network.
    """
    model = _flow(recipe)
    assert isinstance(model.backbone, DiMRConfig)
    low, *fine = model.backbone.stages
    return replace(
        recipe,
        model=StandardConfig(
            shape=model.shape,
            reads=model.reads,
            target=model.target,
            backbone=DiMRConfig(stages=(replace(low, depth=depth), *fine)),
            guidance=model.guidance,
            times=model.times,
            stage_weights=model.stage_weights,
            sampling=model.sampling,
        ),
    )


LLAMA = "hf:meta-llama/Meta-Llama-3-8B"
"""The paper says Llama 3 of 7 B; the smallest that there is has 8 B."""
DEPTHS: Mapping[str, int] = {"70m": 23, "150m": 29, "300m": 39, "500m": 47, "1b": 51}
"""Transformer blocks of the baseline in the sizes of Figure 3, within 2 % of CrossFlow's parameters."""
_SIZES = {size: (PAPER[f"paper-{size}"], _baseline(PAPER[f"paper-{size}"], depth)) for size, depth in DEPTHS.items()}


def _published(size: str) -> Ground:
    """The rows of the paper in the size that is given."""
    full, standard = _SIZES[size]
    model = _flow(full)
    assert isinstance(model.backbone, DiMRConfig)
    t5 = text_to_image(model.backbone, 256, "t5-v1.1-xxl")
    return Ground(
        crossflow=full,
        standard=standard,
        decoder=TextReconstruction(width=512, depth=4, heads=8),
        second=TextContrast(width=512, depth=4, heads=8),
        texts={
            "t5": _changed(full, reads=t5.reads, source=t5.source),
            "llama3": _changed(full, reads=replace(t5.reads, model=LLAMA), source=t5.source),
        },
        sizes=_SIZES,
    )


TUNING = 0.5
"""Steps of the fine-tuning on captions, as a share of those of the text-to-image model."""
TEXTS = {"random": "minilm-random", "words": "bag-of-words"}
"""The other language models of the embedded world: MiniLM's transformer with random weights, and a bag of words."""
WIDTHS = (64, 96, 128)
"""Widths of both methods' networks in Figure 3 on the embedded world."""
_FROM_IMAGES = ("caption", "depth", "sr")


def _of_scenes(full: TrainConfig, standard: TrainConfig, widths: tuple[int, ...]) -> Ground:
    """The rows of the embedded world."""
    return Ground(
        crossflow=full,
        standard=standard,
        decoder=TextReconstruction(),
        second=TextContrast(),
        texts={
            row: _changed(full, reads=replace(_flow(full).reads, model=name, name="text"))
            for row, name in TEXTS.items()
        },
        sizes={str(width): (_in_width(full, width), _in_width(standard, width)) for width in widths},
    )


def _in_width(recipe: TrainConfig, width: int) -> TrainConfig:
    """The recipe with networks of another width, in heads of 32 channels."""
    model, sizes = recipe.model, {"width": width, "heads": width // 32}
    changes: dict[str, object] = {"backbone": replace(model.backbone, **sizes)}
    if isinstance(model, FlowConfig):
        changes["source"] = replace(model.source, **sizes)
    return _changed(recipe, **changes)


def _on_captions(of: Ground) -> TrainConfig:
    """Table 4's fine-tuning of the text-to-image model: captions of whole scenes, ``TUNING`` of its steps."""
    data = of.crossflow.data
    assert isinstance(data, SceneData)
    short = of.crossflow.in_steps(max(1, round(TUNING * of.crossflow.steps)))
    return replace(short, data=replace(data, captions=(1,), negatives=0), learning_rate=0.5 * short.learning_rate)


_SMALLEST = SCENES["scenes-tiny"]


def _smallest(recipe: TrainConfig) -> TrainConfig:
    """The recipe on as few data and in as few steps as its row of ``smoke`` needs."""
    assert isinstance(recipe.data, SceneData)
    short = recipe.in_steps(_SMALLEST.steps)
    data = replace(recipe.data, count=256)
    return replace(short, data=data, batch_size=16, log_every=5, save_every=10, sample_every=20)


_TINY = _of_scenes(SCENES["scenes-t2i-short"], SCENES["scenes-t2i-short-standard"], WIDTHS)
_SMOKE = _of_scenes(_smallest(_in_width(_TINY.crossflow, 32)), _smallest(_in_width(_TINY.standard, 32)), (32, 64))
_IMAGES = {
    name.removeprefix("scenes-"): recipe
    for name, recipe in SCENES.items()
    if name.removeprefix("scenes-").split("-")[0] in _FROM_IMAGES
}

ABLATIONS: Mapping[str, TrainConfig] = {
    f"{scale}-{row}": recipe
    for scale, found in (
        (
            "smoke",
            {
                **rows(_SMOKE),
                "pairs": _on_captions(_SMOKE),
                **{name: _smallest(recipe) for name, recipe in _IMAGES.items()},
            },
        ),
        ("tiny", {**rows(_TINY), "pairs": _on_captions(_TINY), **_IMAGES}),
        ("base", rows(_published("70m"))),
        ("paper", rows(_published("1b"))),
    )
    for row, recipe in found.items()
}
"""Recipe name -> recipe. In the embedded world those that read images are the recipes ``scenes-*`` of their tasks."""
