"""Sources: encoders from data to a Gaussian over source latents, where the flow starts. One file per source.

A source's config names the kind of data that it ``accepts`` and the ``variance`` of its Gaussian (learned, fixed or
none). ``config.build(reads, shape)`` returns a module ``(values, mask) -> Gaussian``.
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
    """The interface of a source config."""

    @property
    def kind(self) -> str:
        """Its name in checkpoints and in the registry."""
        ...

    @property
    def accepts(self) -> str:
        """The kind of data that it reads: tokens, image or latents."""
        ...

    @property
    def variance(self) -> str:
        """The variance of its Gaussian: learned, fixed or none."""
        ...

    def build(self, reads: tuple[int, ...], shape: tuple[int, int, int]) -> nn.Module:
        """The module for values of the shape ``reads`` and latents of ``shape`` (c, h, w)."""
        ...


if TYPE_CHECKING:  # the union narrows types; at run time any registered kind is accepted
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
