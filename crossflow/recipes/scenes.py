"""The recipes of the embedded world: a CrossFlow model and its baseline for each task."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from crossflow.flow.guidance import Indicator, NoGuidance
from crossflow.losses import KL, Contrast, ImageReconstruction, LossConfig
from crossflow.modalities.depth import DepthConfig
from crossflow.modalities.patch_pca import PatchPCAConfig
from crossflow.modalities.pixels import ImageConfig, PixelsConfig
from crossflow.modalities.text_autoencoder import TextAutoencoderConfig
from crossflow.modalities.tokens import TokensConfig
from crossflow.model.config import ModelConfig
from crossflow.model.crossflow import FlowConfig
from crossflow.model.settings import Sampling
from crossflow.model.standard import StandardConfig
from crossflow.networks.transformer import TransformerConfig
from crossflow.recipes.recipe import SceneData, TrainConfig
from crossflow.sources.image import ImageEncoderConfig
from crossflow.sources.upsample import UpsampleConfig
from crossflow.sources.variational import VariationalConfig

WORDS = (
    *("a", "an", "and", "at", "by", "day", "in", "is", "are", "of", "the", "there", "this", "to", ",", "night"),
    *("ball", "box", "cone", "cross", "ring", "pillar", "red", "orange", "yellow", "green", "cyan", "blue", "purple"),
    *("pink", "photo", "picture", "scene", "bright", "dark", "two", "three", "four", "balls", "boxes", "cones"),
    *("crosses", "rings", "pillars", "left", "right", "above", "below", "top", "bottom", "middle"),
)
"""Every word of the captions of scenes."""


def _caption(backbone: TransformerConfig, source: ImageEncoderConfig | None) -> TrainConfig:
    """An image of a scene to the latents of its caption, 16 positions of 8 channels. Without a source: the baseline.

    The contrastive loss is between image and caption, as in text-to-image.
    """
    target = TextAutoencoderConfig(words=WORDS, count=20, width=96, depth=1, heads=4)
    losses = (KL(weight=1e-2), Contrast(weight=0.1))
    model = _from_image((8, 4, 4), target, 32, backbone, source, losses, solver="midpoint")
    if source is not None:
        model = replace(model, sampling=replace(model.sampling, noise=0.0))
    return _trained(model, SceneData(count=40_000), steps=1_200)


def _depth(backbone: TransformerConfig, source: ImageEncoderConfig | None) -> TrainConfig:
    """An image of a scene to its depth map, in pixel space. Without a source: the baseline."""
    losses = (KL(weight=1e-5), ImageReconstruction(weight=0.1, patch=8))
    model = _from_image((1, 32, 32), DepthConfig(), 32, backbone, source, losses, "channels", solver="euler")
    return _trained(replace(model, times="uniform"), SceneData(count=40_000), steps=1_500)


def _superres(backbone: TransformerConfig, source: UpsampleConfig | None) -> TrainConfig:
    """An image of a scene at 16 pixels to 64 pixels, in pixel space. Without a source: the baseline.

    A patch has 192 dimensions, and noise cannot pass through a narrower network, so the baseline's is wider.
    """
    model = _from_image((3, 64, 64), PixelsConfig(), 16, backbone, source, (), "channels", solver="midpoint")
    return _trained(replace(model, times="uniform"), SceneData(count=20_000, size=64), steps=1_200, batch_size=32)


def _regression(recipe: TrainConfig) -> TrainConfig:
    """The same network as a regression: trained at the source alone, and sampled by the one step that was trained."""
    one_step = Sampling(solver="euler", steps=1, guidance_scale=1.0)
    return replace(recipe, model=replace(recipe.model, times="source", sampling=one_step))


def _from_image(
    shape: tuple[int, int, int],
    target: TextAutoencoderConfig | DepthConfig | PixelsConfig,
    side: int,
    backbone: TransformerConfig,
    source: ImageEncoderConfig | UpsampleConfig | None,
    losses: tuple[LossConfig, ...],
    condition: Literal["attention", "channels"] = "attention",
    *,
    solver: str,
) -> FlowConfig | StandardConfig:
    """A model from images of ``side`` pixels to latents of ``shape``, without guidance."""
    reads = ImageConfig(shape=(3, side, side), name="small image" if target.name == "image" else "image")
    sampling = Sampling(solver=solver, steps=4, guidance_scale=1.0)
    none = NoGuidance()
    if source is None:
        return StandardConfig(
            shape=shape,
            reads=reads,
            target=target,
            backbone=backbone,
            condition=condition,
            guidance=none,
            sampling=sampling,
        )
    return FlowConfig(
        shape=shape,
        reads=reads,
        source=source,
        target=target,
        backbone=backbone,
        losses=losses,
        guidance=none,
        sampling=sampling,
    )


def _trained(model: ModelConfig, data: SceneData, steps: int, batch_size: int = 64) -> TrainConfig:
    return TrainConfig(model=model, data=data, steps=steps, batch_size=batch_size, optimizer="muon", precision="fp32")


def _scenes(
    backbone: TransformerConfig,
    source: VariationalConfig | None,
    steps: int,
    null_rate: float,
    reads: TokensConfig | None = None,
) -> TrainConfig:
    """Text to 32-pixel scenes: 16 patches of 48 principal components each. Without a source: the baseline."""
    target = PatchPCAConfig(patch=8, components=48, sd=0.35)
    sampling = Sampling(solver="midpoint", steps=16, guidance_scale=2.0)
    shape, guidance, reads = (48, 4, 4), Indicator(null_rate=null_rate), reads or TokensConfig()
    model: FlowConfig | StandardConfig
    if source is None:
        model = StandardConfig(
            shape=shape, reads=reads, target=target, backbone=backbone, guidance=guidance, sampling=sampling
        )
    else:
        model = FlowConfig(
            shape=shape,
            reads=reads,
            source=source,
            target=target,
            backbone=backbone,
            losses=(KL(weight=1e-2), Contrast(weight=0.1)),
            guidance=guidance,
            sampling=sampling,
        )
    return TrainConfig(model=model, data=SceneData(), steps=steps, optimizer="muon")


def _short(backbone: TransformerConfig, source: VariationalConfig | None) -> TrainConfig:
    """Text to scenes in three minutes on a CPU core: what the search found to help both methods, given to both.

    Small batches at a high rate, targets predicted, the tail of the path weighed down, and time in every block.
    results/scenes/search.md is the log of the search.
    """
    recipe = _scenes(replace(backbone, modulated=True), source, steps=1_600, null_rate=0.1)
    return replace(
        recipe,
        model=replace(recipe.model, parameterisation="target", tail=0.35),
        data=SceneData(count=20_000),
        batch_size=32,
        learning_rate=5e-3,
        precision="bf16",
    )


def _layout(backbone: TransformerConfig, source: VariationalConfig | None) -> TrainConfig:
    """Text to scenes: what helps a short training, with what tells the source where things are. Without: the baseline.

    Tokens are whitened, and enough for the places of two objects. The contrast compares source and image place by
    place, and has captions that are not true of the image. Half of the captions name every object, and a scene of two
    shapes is asked for mostly in the forms that need binding. results/scenes/search.md is the log of the search.
    """
    network = replace(backbone, positions="unit", modulated=True)
    reads = TokensConfig(count=24)
    recipe = _scenes(network, source, 14_000, null_rate=0.1, reads=reads)
    model: Any = replace(recipe.model, parameterisation="target", tail=0.35)
    data = SceneData(count=16_384, captions=(0, 0, 1, 3), retold=True)
    if source is not None:
        contrast = Contrast(weight=1.0, tower="places", hard_negatives=True)
        model = replace(model, losses=(KL(weight=1e-2), contrast))
        data = replace(data, negatives=1)
    return replace(recipe, model=model, data=data, batch_size=32, learning_rate=4e-3, precision="bf16")


_VANILLA = TransformerConfig(width=128, depth=4, heads=4)
_IMAGE = ImageEncoderConfig(width=128, depth=2, heads=4, patch=8)


SCENES: Mapping[str, TrainConfig] = {
    "scenes-t2i": _layout(
        replace(_VANILLA, summaries=4), VariationalConfig(width=128, depth=2, heads=4, whitened=True)
    ),
    "scenes-t2i-standard": _layout(replace(_VANILLA, depth=6, whitened=True), None),
    "scenes-t2i-short": _short(_VANILLA, VariationalConfig(width=128, depth=1, heads=4)),
    "scenes-t2i-short-standard": _short(_VANILLA, None),
    "scenes-table1-crossflow": _scenes(_VANILLA, VariationalConfig(width=128, depth=1, heads=4), 1_500, 0.1),
    "scenes-table1-standard": _scenes(_VANILLA, None, 1_500, 0.1),
    "scenes-caption": _caption(_VANILLA, _IMAGE),
    "scenes-caption-standard": _caption(replace(_VANILLA, depth=5), None),
    "scenes-depth": _depth(replace(_VANILLA, patch=8), _IMAGE),
    "scenes-depth-standard": _depth(replace(_VANILLA, patch=8, depth=6), None),
    "scenes-sr": _superres(replace(_VANILLA, patch=8), UpsampleConfig(factor=4)),
    "scenes-sr-regression": _regression(_superres(replace(_VANILLA, patch=8), UpsampleConfig(factor=4))),
    "scenes-sr-standard": _superres(TransformerConfig(width=208, depth=2, heads=4, patch=8), None),
    "scenes-tiny": replace(
        _scenes(
            TransformerConfig(width=32, depth=1, heads=1, summaries=1),
            VariationalConfig(width=32, depth=1, heads=1, readout="flat"),
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
