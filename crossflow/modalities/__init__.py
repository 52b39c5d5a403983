"""Kinds of data, a file each: between raw data and latents.

A flow reads one (``ReadsConfig``) and reaches another (``TargetConfig``); what they have in common is in ``modality``.
"""

from typing import Annotated

from pydantic import Field

from crossflow.modalities.depth import DepthConfig
from crossflow.modalities.kl_autoencoder import KLConfig
from crossflow.modalities.latents import LatentsConfig
from crossflow.modalities.patch_pca import PatchPCAConfig
from crossflow.modalities.pixels import ImageConfig, PixelsConfig
from crossflow.modalities.text_autoencoder import TextAutoencoderConfig
from crossflow.modalities.tokens import TokensConfig

ReadsConfig = Annotated[TokensConfig | ImageConfig | LatentsConfig, Field(discriminator="kind")]
TargetConfig = Annotated[
    PatchPCAConfig | KLConfig | PixelsConfig | DepthConfig | TextAutoencoderConfig, Field(discriminator="kind")
]
