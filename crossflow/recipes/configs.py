"""Every named recipe: ``CONFIGS[name]`` holds a model and all that decides how its weights come out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from crossflow.modalities.latents import KLConfig
from crossflow.model.config import FlowConfig, Sampling
from crossflow.networks.dimr import DiMRConfig, Stage
from crossflow.networks.dit import DiTConfig
from crossflow.recipes.recipe import PairData, TrainConfig
from crossflow.recipes.scenes import SCENES
from crossflow.sources.released import ReleasedEncoderConfig

STAGE_WEIGHTS: Mapping[int, tuple[float, ...]] = {1: (1.0,), 2: (0.25, 1.0), 3: (0.25, 0.5, 1.0)}
"""The authors' weights of the flow loss at each resolution, by the number of resolutions."""


def _stages(width: int, depth: int, levels: int, heads: int = 16) -> DiMRConfig:
    """A DiMR of the authors' proportions: a transformer, then ConvNeXts, each of half the width and (once) depth."""
    low = Stage(block="transformer", width=width, hidden=2 * width, depth=depth, heads=heads, patch=2 ** (levels - 1))
    fine = [
        Stage(
            block="convnext", width=width >> i, hidden=2 * width >> i, depth=depth // 2 + 1, patch=2 ** (levels - 1 - i)
        )
        for i in range(1, levels)
    ]
    return DiMRConfig(stages=(low, *fine))


def _text_to_image(
    backbone: DiMRConfig | DiTConfig,
    size: int,
    text: Literal["clip-vit-l14", "t5-v1.1-xxl"],
    rate: float,
    null_rate: float = 0.1,
) -> TrainConfig:
    """The authors' recipe: the released program and its configs, whose learning rates are those of fine-tuning."""
    t5 = text == "t5-v1.1-xxl"
    levels = len(backbone.stages) if isinstance(backbone, DiMRConfig) else 1
    model = FlowConfig(
        shape=(4, size // 8, size // 8),
        backbone=backbone,
        encoder=ReleasedEncoderConfig(
            width=1024 if t5 else 768,
            depth=11,
            hidden=1024,
            compress=t5,
            adaptor=(4096, 32, 64) if size == 512 else None,
        ),
        autoencoder=KLConfig(),
        token_count=77,
        token_width=4096 if t5 else 768,
        text=text,
        null_rate=null_rate,
        contrastive_scale="raw",
        tower="siglip-l16",
        stage_weights=STAGE_WEIGHTS[levels],
        sampling=Sampling(solver="euler_official", steps=50, guidance_scale=7.0),
    )
    return TrainConfig(
        model=model,
        data=PairData(size=size),
        steps=1_000_000,
        batch_size=1024,
        learning_rate=rate,
        final_learning_rate=1.0,
        warmup=5_000,
        betas=(0.9, 0.9),
        weight_decay=0.03,
        clip=None,
        ema=0.9999,
        log_every=50,
        save_every=5_000,
        sample_every=5_000,
    )


def _paper(backbone: DiMRConfig) -> TrainConfig:
    """The paper's recipe at 256 pixels: the ordinary KL at weight 1e-4, a learned temperature, 300,000 steps."""
    recipe = _text_to_image(backbone, 256, "clip-vit-l14", 1e-4)
    model = replace(recipe.model, kl_form="standard", kl_weight=1e-4, contrastive_scale="exp")
    return replace(recipe, model=model, steps=300_000)


_TINY = TrainConfig(
    model=FlowConfig(
        shape=(4, 4, 4),
        backbone=DiMRConfig(
            stages=(
                Stage(block="transformer", width=32, hidden=64, depth=3, patch=2, heads=2),
                Stage(block="convnext", width=16, hidden=32, depth=1, patch=1, kernel=3),
            )
        ),
        encoder=ReleasedEncoderConfig(width=64, depth=1, hidden=64, compress=True),
        autoencoder=KLConfig(),
        token_count=77,
        text="minilm",
        contrastive_scale="raw",
        stage_weights=STAGE_WEIGHTS[2],
        sampling=Sampling(solver="euler_official", steps=10, guidance_scale=2.0),
    ),
    data=PairData(size=32),
    steps=20,
    batch_size=16,
    learning_rate=1e-3,
    final_learning_rate=1.0,
    warmup=5,
    betas=(0.9, 0.9),
    weight_decay=0.03,
    clip=None,
    log_every=5,
    save_every=5,
    sample_every=10,
)
"""The authors' architecture and losses as small as can be, with the text encoder that comes with the package."""


def _with_image_features(recipe: TrainConfig) -> TrainConfig:
    """Contrast with image features that were computed once, in place of a SigLIP trained from random weights."""
    return replace(recipe, model=replace(recipe.model, tower="features"))


_AUTHORS: Mapping[str, TrainConfig] = {
    "t2i-256px-clip-dimr": _text_to_image(_stages(1024, 65, 2), 256, "clip-vit-l14", 1e-5),
    "t2i-256px-t5-dimr": _text_to_image(_stages(1024, 65, 2), 256, "t5-v1.1-xxl", 5e-5),
    "t2i-512px-clip-dimr": _text_to_image(_stages(1024, 65, 3), 512, "clip-vit-l14", 1e-5, null_rate=0.15),
    "t2i-512px-t5-dimr": _text_to_image(_stages(1024, 65, 3), 512, "t5-v1.1-xxl", 1e-5, null_rate=0.15),
    "t2i-512px-t5-dit": _text_to_image(DiTConfig(width=1280, depth=36, heads=20, patch=2), 512, "t5-v1.1-xxl", 2e-5),
    "t2i-training-demo": replace(_text_to_image(_stages(960, 29, 3), 512, "clip-vit-l14", 1e-5), batch_size=4),
}
"""The released models, by the names of their files; the demo is what the authors' program trains when it is tried."""

_PAPER: Mapping[str, TrainConfig] = {
    "paper-70m": _paper(_stages(384, 33, 2, heads=6)),
    "paper-150m": _paper(_stages(512, 41, 2, heads=8)),
    "paper-300m": _paper(_stages(640, 53, 2, heads=10)),
    "paper-500m": _paper(_stages(768, 61, 2, heads=12)),
    "paper-1b": _paper(_stages(1024, 65, 2)),
}
"""The sizes of the paper's Figure 3, with layers of our own in the 1B model's proportions: the paper prints none."""

CONFIGS: Mapping[str, TrainConfig] = {
    **SCENES,
    "t2i-tiny": _TINY,
    **_AUTHORS,
    **_PAPER,
    **{f"{name}-image-features": _with_image_features(recipe) for name, recipe in {**_AUTHORS, **_PAPER}.items()},
}
"""Recipe name -> recipe.

``t2i-*`` are the authors' program, ``paper-*`` the paper; either with ``-image-features`` is another recipe.

The two of Table 1 differ in the source and in where the text comes in; they match exactly in steps and within 5 % in
parameters, the encoder counted. ``scenes-tiny``, and ``t2i-tiny`` for pairs in a folder, are for tests and first steps:
they run in seconds and learn nothing.
"""
