"""The recipes of the embedded world: ``SCENES[name]``, each CrossFlow model beside its baseline."""

from collections.abc import Mapping
from dataclasses import replace

from crossflow.modalities.depth import DepthConfig
from crossflow.modalities.patch_pca import PatchPCAConfig
from crossflow.modalities.pixels import PixelsConfig
from crossflow.modalities.text_autoencoder import TextAutoencoderConfig
from crossflow.model.config import FlowConfig, Sampling
from crossflow.networks.token_encoder import TokenEncoderConfig
from crossflow.networks.transformer import TransformerConfig
from crossflow.recipes.recipe import SceneData, TrainConfig
from crossflow.sources.image import ImageEncoderConfig
from crossflow.sources.upsample import UpsampleConfig

WORDS = (
    *("a", "an", "and", "at", "by", "day", "in", "is", "are", "of", "the", "there", "this", "to", ",", "night"),
    *("ball", "box", "cone", "cross", "ring", "pillar", "red", "orange", "yellow", "green", "cyan", "blue", "purple"),
    *("pink", "photo", "picture", "scene", "bright", "dark", "two", "three", "four", "balls", "boxes", "cones"),
    *("crosses", "rings", "pillars", "left", "right", "above", "below", "top", "bottom", "middle"),
)
"""Every word of the captions of scenes."""


def _caption(backbone: TransformerConfig, encoder: ImageEncoderConfig | None) -> TrainConfig:
    """An image of a scene to the latents of its caption, 16 places of 8 numbers. No encoder is the baseline.

    The contrast is between image and caption, as that of text and image is in the other direction.
    """
    text = TextAutoencoderConfig(words=WORDS, count=20, width=96, depth=1, heads=4)
    model = _from_image((8, 4, 4), text, 32, backbone, encoder, kl_weight=1e-2, solver="midpoint")
    if encoder is not None:
        model = replace(model, contrastive_weight=0.1, sampling=replace(model.sampling, noise=0.0))
    return _trained(model, SceneData(count=40_000), steps=1_200)


def _depth(backbone: TransformerConfig, encoder: ImageEncoderConfig | None) -> TrainConfig:
    """An image of a scene to its depth map, in pixel space."""
    model = _from_image((1, 32, 32), DepthConfig(), 32, backbone, encoder, kl_weight=1e-5, solver="euler")
    weight = 0.0 if encoder is None else 0.1
    model = replace(model, condition="channels", times="uniform", reconstruction_weight=weight)
    return _trained(model, SceneData(count=40_000), steps=1_500)


def _superres(backbone: TransformerConfig, encoder: UpsampleConfig | None) -> TrainConfig:
    """An image of a scene of 16 pixels a side to one of 64, in pixel space. No encoder is the baseline.

    A patch has 192 numbers: noise in them passes through no narrower network, so the baseline's has to be wider.
    """
    model = _from_image((3, 64, 64), PixelsConfig(), 16, backbone, encoder, kl_weight=0.0, solver="midpoint")
    model = replace(model, condition="channels", times="uniform")
    return _trained(model, SceneData(count=20_000, size=64), steps=1_200, batch_size=32)


def _from_image(
    shape: tuple[int, int, int],
    autoencoder: TextAutoencoderConfig | DepthConfig | PixelsConfig,
    side: int,
    backbone: TransformerConfig,
    encoder: ImageEncoderConfig | UpsampleConfig | None,
    kl_weight: float,
    solver: str,
) -> FlowConfig:
    """Images of ``side`` pixels to latents of ``shape``, without guidance."""
    return FlowConfig(
        shape=shape,
        backbone=backbone,
        encoder=encoder,
        autoencoder=autoencoder,
        image=(3, side, side),
        null_rate=0.0,
        kl_weight=0.0 if encoder is None else kl_weight,
        contrastive_weight=0.0,
        sampling=Sampling(solver=solver, steps=4, guidance_scale=1.0),
    )


def _trained(model: FlowConfig, data: SceneData, steps: int, batch_size: int = 64) -> TrainConfig:
    return TrainConfig(model=model, data=data, steps=steps, batch_size=batch_size, optimizer="muon", precision="fp32")


def _scenes(
    backbone: TransformerConfig, encoder: TokenEncoderConfig | None, steps: int, null_rate: float
) -> TrainConfig:
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
_IMAGE = ImageEncoderConfig(width=128, depth=2, heads=4, patch=8)


SCENES: Mapping[str, TrainConfig] = {
    "scenes-t2i": replace(
        _scenes(
            TransformerConfig(width=128, depth=6, heads=4, summaries=4),
            TokenEncoderConfig(width=128, depth=1, heads=4, readout="flat"),
            steps=17_000,
            null_rate=0.2,
        ),
        data=SceneData(count=80_000),
    ),
    "scenes-table1-crossflow": _scenes(_VANILLA, TokenEncoderConfig(width=128, depth=1, heads=4), 1_500, 0.1),
    "scenes-table1-standard": _scenes(_VANILLA, None, 1_500, 0.1),
    "scenes-caption": _caption(_VANILLA, _IMAGE),
    "scenes-caption-standard": _caption(replace(_VANILLA, depth=5), None),
    "scenes-depth": _depth(replace(_VANILLA, patch=8), _IMAGE),
    "scenes-depth-standard": _depth(replace(_VANILLA, patch=8, depth=6), None),
    "scenes-sr": _superres(replace(_VANILLA, patch=8), UpsampleConfig(factor=4)),
    "scenes-sr-standard": _superres(TransformerConfig(width=208, depth=2, heads=4, patch=8), None),
    "scenes-tiny": replace(
        _scenes(
            TransformerConfig(width=32, depth=1, heads=1, summaries=1),
            TokenEncoderConfig(width=32, depth=1, heads=1, readout="flat"),
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
