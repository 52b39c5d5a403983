"""From data to a Gaussian over source latents, where a flow begins: a source a file.

A source's config says what kind of data it ``accepts`` and what ``variance`` its Gaussian has (learned, fixed or none),
and builds it by ``config.build(reads, shape)``: a module of ``(values, mask) -> Gaussian``.
"""

from typing import TYPE_CHECKING, Annotated, Protocol, runtime_checkable

from torch import nn

from crossflow.files.kinds import Kinds
from crossflow.sources.codec import CodecConfig
from crossflow.sources.fixed import DeterministicConfig, FixedNoiseConfig
from crossflow.sources.image import ImageEncoderConfig
from crossflow.sources.released import ReleasedEncoderConfig
from crossflow.sources.upsample import UpsampleConfig
from crossflow.sources.variational import VariationalConfig

SOURCES = Kinds(
    "source",
    "crossflow.sources",
    VariationalConfig,
    ReleasedEncoderConfig,
    ImageEncoderConfig,
    UpsampleConfig,
    DeterministicConfig,
    FixedNoiseConfig,
    CodecConfig,
)


@runtime_checkable
class Source(Protocol):
    """What the config of a source has."""

    @property
    def kind(self) -> str:
        """The name by which a file holds it."""
        ...

    @property
    def accepts(self) -> str:
        """The kind of what it reads: tokens, image or latents."""
        ...

    @property
    def variance(self) -> str:
        """That of its Gaussian: learned, fixed or none."""
        ...

    def build(self, reads: tuple[int, ...], shape: tuple[int, int, int]) -> nn.Module:
        """The module for values of the shape ``reads`` and latents of ``shape`` (c, h, w)."""
        ...


if TYPE_CHECKING:  # what is here, so that types are narrowed by it; another package's is as good
    SourceConfig = (
        VariationalConfig
        | ReleasedEncoderConfig
        | ImageEncoderConfig
        | UpsampleConfig
        | DeterministicConfig
        | FixedNoiseConfig
        | CodecConfig
    )
else:
    SourceConfig = Annotated[Source, SOURCES.reader]
