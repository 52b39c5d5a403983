"""Blocks, and velocity networks: ``forward(x [b c h w], t [b], conditional [b] bool) -> velocity [b c h w]``.

``velocities`` takes the same and gives what training compares: a prediction for each resolution, the finest last. A
network's config builds it: ``config.build(shape)``, and for the baseline ``config.attending(...)``, which also looks at
the source, or ``config.beside(...)``, which has the source in further channels.
"""

from typing import Annotated

from pydantic import Field

from crossflow.networks.dimr import DiMR, DiMRConfig
from crossflow.networks.dit import DiT, DiTConfig
from crossflow.networks.transformer import Transformer, TransformerConfig

BackboneConfig = Annotated[TransformerConfig | DiMRConfig | DiTConfig, Field(discriminator="kind")]
Backbone = Transformer | DiMR | DiT
