"""The recipes of the authors' code: the released models with its schedule, and a tiny one of the same architecture."""

from collections.abc import Mapping
from dataclasses import replace

from crossflow.losses import KL, Contrast
from crossflow.modalities.kl_autoencoder import KLConfig
from crossflow.modalities.tokens import TokensConfig
from crossflow.model.authors_models import AUTHORS_MODELS, STAGE_WEIGHTS
from crossflow.model.crossflow import FlowConfig
from crossflow.model.settings import Sampling
from crossflow.networks.dimr import DiMRConfig, Stage
from crossflow.recipes.recipe import PairData, TrainConfig
from crossflow.sources.released import ReleasedEncoderConfig


def authors_schedule(model: FlowConfig, rate: float) -> TrainConfig:
    """The authors' training hyperparameters for a model; the learning rates in their configs are for fine-tuning."""
    return TrainConfig(
        model=model,
        data=PairData(size=8 * model.shape[1]),
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


TINY = TrainConfig(
    model=FlowConfig(
        shape=(4, 4, 4),
        backbone=DiMRConfig(
            stages=(
                Stage(block="transformer", width=32, hidden=64, depth=3, patch=2, heads=2),
                Stage(block="convnext", width=16, hidden=32, depth=1, patch=1, kernel=3),
            )
        ),
        reads=TokensConfig(count=77),
        source=ReleasedEncoderConfig(width=64, depth=1, hidden=64, compress=True),
        target=KLConfig(),
        losses=(KL(weight=1e-2), Contrast(weight=1.0, scale="raw")),
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
"""The authors' architecture and losses at the smallest sizes, with MiniLM as the text encoder."""


def _authors(name: str, rate: float) -> TrainConfig:
    return authors_schedule(AUTHORS_MODELS[name], rate)


AUTHORS: Mapping[str, TrainConfig] = {
    "t2i-256px-clip-dimr": _authors("t2i-256px-clip-dimr", 1e-5),
    "t2i-256px-t5-dimr": _authors("t2i-256px-t5-dimr", 5e-5),
    "t2i-512px-clip-dimr": _authors("t2i-512px-clip-dimr", 1e-5),
    "t2i-512px-t5-dimr": _authors("t2i-512px-t5-dimr", 1e-5),
    "t2i-512px-t5-dit": _authors("t2i-512px-t5-dit", 2e-5),
    "t2i-training-demo": replace(_authors("t2i-training-demo", 1e-5), batch_size=4),
}
"""The recipes of the released models, by file name."""
