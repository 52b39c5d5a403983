"""The authors' released models as configs, and the parts that they share with the paper's models."""

from collections.abc import Mapping
from typing import Literal

from crossflow.flow.guidance import Indicator
from crossflow.losses import KL, Contrast
from crossflow.modalities.kl_autoencoder import KLConfig
from crossflow.modalities.tokens import TokensConfig
from crossflow.model.crossflow import FlowConfig
from crossflow.model.settings import Sampling
from crossflow.networks.dimr import DiMRConfig, Stage
from crossflow.networks.dit import DiTConfig
from crossflow.sources.released import ReleasedEncoderConfig

STAGE_WEIGHTS: Mapping[int, tuple[float, ...]] = {1: (1.0,), 2: (0.25, 1.0), 3: (0.25, 0.5, 1.0)}
"""The authors' weights of the flow loss at each resolution, by the number of resolutions."""


def stages(width: int, depth: int, levels: int, heads: int = 16) -> DiMRConfig:
    """A DiMR in the authors' proportions: a transformer, then ConvNeXts of half its depth, each of half the width."""
    low = Stage(block="transformer", width=width, hidden=2 * width, depth=depth, heads=heads, patch=2 ** (levels - 1))
    fine = [
        Stage(
            block="convnext", width=width >> i, hidden=2 * width >> i, depth=depth // 2 + 1, patch=2 ** (levels - 1 - i)
        )
        for i in range(1, levels)
    ]
    return DiMRConfig(stages=(low, *fine))


AUTHORS_LOSSES = (KL(weight=1e-2), Contrast(weight=1.0, tower="siglip-l16", scale="raw"))
"""The terms that the authors' code adds to the flow loss."""


def text_to_image(
    backbone: DiMRConfig | DiTConfig, size: int, text: Literal["clip-vit-l14", "t5-v1.1-xxl"], null_rate: float = 0.1
) -> FlowConfig:
    """A model of the authors' code for images of ``size`` pixels a side."""
    t5 = text == "t5-v1.1-xxl"
    return FlowConfig(
        shape=(4, size // 8, size // 8),
        reads=TokensConfig(model=text, count=77, width=4096 if t5 else 768),
        source=ReleasedEncoderConfig(
            width=1024 if t5 else 768,
            depth=11,
            hidden=1024,
            compress=t5,
            adaptor=(4096, 32, 64) if size == 512 else None,
        ),
        target=KLConfig(),
        backbone=backbone,
        losses=AUTHORS_LOSSES,
        guidance=Indicator(null_rate=null_rate),
        stage_weights=STAGE_WEIGHTS[backbone.resolutions],
        sampling=Sampling(solver="euler_official", steps=50, guidance_scale=7.0),
    )


AUTHORS_MODELS: Mapping[str, FlowConfig] = {
    "t2i-256px-clip-dimr": text_to_image(stages(1024, 65, 2), 256, "clip-vit-l14"),
    "t2i-256px-t5-dimr": text_to_image(stages(1024, 65, 2), 256, "t5-v1.1-xxl"),
    "t2i-512px-clip-dimr": text_to_image(stages(1024, 65, 3), 512, "clip-vit-l14", null_rate=0.15),
    "t2i-512px-t5-dimr": text_to_image(stages(1024, 65, 3), 512, "t5-v1.1-xxl", null_rate=0.15),
    "t2i-512px-t5-dit": text_to_image(DiTConfig(width=1280, depth=36, heads=20, patch=2), 512, "t5-v1.1-xxl"),
    "t2i-training-demo": text_to_image(stages(960, 29, 3), 512, "clip-vit-l14"),
}
"""The released models by file name; ``t2i-training-demo`` is the model of the authors' training demo."""
