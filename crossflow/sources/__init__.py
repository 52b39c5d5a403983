"""From data to a Gaussian over source latents, where a flow begins: a source a file.

A source's config says what ``kind`` of data it ``accepts`` and what ``variance`` its Gaussian has (learned, fixed or
none), and builds it by ``config.build(reads, shape)``: a module of ``(values, mask) -> Gaussian``.
"""

from typing import Annotated

from pydantic import Field

from crossflow.sources.codec import CodecConfig
from crossflow.sources.fixed import DeterministicConfig, FixedNoiseConfig
from crossflow.sources.image import ImageEncoderConfig
from crossflow.sources.released import ReleasedEncoderConfig
from crossflow.sources.upsample import UpsampleConfig
from crossflow.sources.variational import VariationalConfig

SourceConfig = Annotated[
    VariationalConfig
    | ReleasedEncoderConfig
    | ImageEncoderConfig
    | UpsampleConfig
    | DeterministicConfig
    | FixedNoiseConfig
    | CodecConfig,
    Field(discriminator="kind"),
]
