"""Velocity networks: ``forward(x [b c h w], t [b], conditional [b] bool) -> velocity [b c h w]``.

``velocities`` takes the same and gives what training compares: a prediction for each resolution, the finest last.
"""

from crossflow.backbone.dimr import DiMR, DiMRConfig
from crossflow.backbone.dit import DiT, DiTConfig
from crossflow.backbone.transformer import Transformer, TransformerConfig

BackboneConfig = TransformerConfig | DiMRConfig | DiTConfig
Backbone = Transformer | DiMR | DiT


def build_backbone(config: BackboneConfig, shape: tuple[int, int, int]) -> Backbone:
    """The network that ``config`` describes, for latents of ``shape`` (c, h, w)."""
    match config:
        case DiMRConfig():
            return DiMR(config, shape)
        case DiTConfig():
            return DiT(config, shape)
        case TransformerConfig():
            return Transformer(config, shape)
