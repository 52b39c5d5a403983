"""The recipes of the embedded world: ``SCENES[name]``, each CrossFlow model beside its baseline."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from crossflow.backbone.transformer import TransformerConfig
from crossflow.encoder import EncoderConfig, ImageEncoderConfig, UpsampleConfig
from crossflow.flow_config import FlowConfig, Sampling
from crossflow.latents import PatchPCAConfig
from crossflow.maps import DepthConfig, PixelsConfig
from crossflow.recipe import SceneData, TrainConfig
from crossflow.text_autoencoder import TextAutoencoderConfig

WORDS = (
    *("a", "an", "and", "at", "by", "day", "in", "is", "are", "of", "the", "there", "this", "to", ",", "night"),
    *("ball", "box", "cone", "cross", "ring", "pillar", "red", "orange", "yellow", "green", "cyan", "blue", "purple"),
    *("pink", "photo", "picture", "scene", "bright", "dark", "two", "three", "four", "balls", "boxes", "cones"),
    *("crosses", "rings", "pillars", "left", "right", "above", "below", "top", "bottom", "middle"),
)
"""Every word of the captions of scenes."""


def _from_scene(
    shape: tuple[int, int, int],
    autoencoder: TextAutoencoderConfig | DepthConfig | PixelsConfig,
    data: SceneData,
    *,
    source: int,
    backbone: TransformerConfig,
    encoder: ImageEncoderConfig | UpsampleConfig | None,
    steps: int,
    batch_size: int = 64,
    reconstruction_weight: float = 0.0,
    condition: Literal["attention", "channels"] = "attention",
) -> TrainConfig:
    """An image of a scene, ``source`` pixels a side, to text, depth or a larger image; unguided. No encoder is the
    baseline."""
    model = FlowConfig(
        shape=shape,
        backbone=backbone,
        encoder=encoder,
        autoencoder=autoencoder,
        image=(3, source, source),
        condition=condition,
        null_rate=0.0,
        kl_weight=1e-5 if isinstance(encoder, ImageEncoderConfig) else 0.0,
        contrastive_weight=0.0,
        reconstruction_weight=reconstruction_weight,
        sampling=Sampling(solver="midpoint", steps=8, guidance_scale=1.0),
    )
    return TrainConfig(model=model, data=data, steps=steps, batch_size=batch_size, optimizer="muon")


def _caption(backbone: TransformerConfig, encoder: ImageEncoderConfig | None, steps: int) -> TrainConfig:
    """An image to the latents of its caption: 16 places of 16 numbers."""
    text = TextAutoencoderConfig(words=WORDS, count=20, width=128, depth=2, heads=4)
    data = SceneData(count=40_000)
    return _from_scene((16, 4, 4), text, data, source=32, backbone=backbone, encoder=encoder, steps=steps)


def _depth(backbone: TransformerConfig, encoder: ImageEncoderConfig | None, steps: int) -> TrainConfig:
    """An image to its depth map, in pixel space."""
    return _from_scene(
        (1, 32, 32),
        DepthConfig(),
        SceneData(count=40_000),
        source=32,
        backbone=backbone,
        encoder=encoder,
        steps=steps,
        reconstruction_weight=0.0 if encoder is None else 0.1,
        condition="channels",
    )


def _superres(backbone: TransformerConfig, encoder: UpsampleConfig | None, steps: int) -> TrainConfig:
    """An image of 16 pixels a side to one of 64, in pixel space."""
    return _from_scene(
        (3, 64, 64),
        PixelsConfig(),
        SceneData(count=20_000, size=64),
        source=16,
        backbone=backbone,
        encoder=encoder,
        steps=steps,
        batch_size=32,
        condition="channels",
    )


def _scenes(backbone: TransformerConfig, encoder: EncoderConfig | None, steps: int, null_rate: float) -> TrainConfig:
    """Text to 32-pixel scenes: 16 patches of 48 principal components each. No encoder is the baseline."""
    model = FlowConfig(
        shape=(48, 4, 4),
        backbone=backbone,
        encoder=encoder,
        autoencoder=PatchPCAConfig(patch=8, components=48, sd=0.35),
        null_rate=null_rate,
        contrastive_weight=0.0 if encoder is None else 0.1,
        sampling=Sampling(solver="midpoint", steps=16, guidance_scale=2.0),
    )
    return TrainConfig(model=model, data=SceneData(), steps=steps, optimizer="muon")


_VANILLA = TransformerConfig(width=128, depth=4, heads=4)


SCENES: Mapping[str, TrainConfig] = {
    "scenes-t2i": replace(
        _scenes(
            TransformerConfig(width=128, depth=6, heads=4, summaries=4),
            EncoderConfig(width=128, depth=1, heads=4, readout="flat"),
            steps=17_000,
            null_rate=0.2,
        ),
        data=SceneData(count=80_000),
    ),
    "scenes-table1-crossflow": _scenes(_VANILLA, EncoderConfig(width=128, depth=1, heads=4), 1_500, 0.1),
    "scenes-table1-standard": _scenes(_VANILLA, None, 1_500, 0.1),
    "scenes-caption": _caption(_VANILLA, ImageEncoderConfig(width=128, depth=2, heads=4, patch=8), 4_000),
    "scenes-caption-standard": _caption(replace(_VANILLA, depth=5), None, 4_000),
    "scenes-depth": _depth(replace(_VANILLA, patch=8), ImageEncoderConfig(width=128, depth=2, heads=4, patch=8), 4_000),
    "scenes-depth-standard": _depth(replace(_VANILLA, patch=8, depth=6), None, 4_000),
    "scenes-sr": _superres(replace(_VANILLA, patch=8), UpsampleConfig(factor=4), 4_000),
    "scenes-sr-standard": _superres(replace(_VANILLA, patch=8), None, 4_000),
    "scenes-tiny": replace(
        _scenes(
            TransformerConfig(width=32, depth=1, heads=1, summaries=1),
            EncoderConfig(width=32, depth=1, heads=1, readout="flat"),
            steps=20,
            null_rate=0.1,
        ),
        data=SceneData(count=256),
        batch_size=16,
        log_every=5,
        save_every=5,
        sample_every=10,
    ),
}
"""Recipe name -> recipe."""
