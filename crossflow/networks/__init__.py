"""Velocity networks: ``forward(x [b c h w], t [b], conditional [b] bool) -> velocity [b c h w]``.

``velocities`` takes the same and gives what training compares: a prediction for each resolution, the finest last.
"""

from typing import Annotated

from pydantic import Discriminator, Tag

from crossflow.networks.blocks import OWN, kind
from crossflow.networks.dimr import DiMR, DiMRConfig
from crossflow.networks.dit import DiT, DiTConfig
from crossflow.networks.transformer import Transformer, TransformerConfig

BackboneConfig = Annotated[
    Annotated[TransformerConfig, Tag(OWN)] | Annotated[DiMRConfig, Tag("dimr")] | Annotated[DiTConfig, Tag("dit")],
    Discriminator(kind),
]
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
