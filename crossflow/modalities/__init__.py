"""Kinds of data, a file each: between raw data and latents.

A flow reads one (``ReadsConfig``) and reaches another (``TargetConfig``); what they have in common is in ``modality``.
"""

from typing import TYPE_CHECKING, Annotated, Protocol, runtime_checkable

from crossflow.files.kinds import Kinds
from crossflow.modalities.depth import DepthConfig
from crossflow.modalities.kl_autoencoder import KLConfig
from crossflow.modalities.latents import LatentsConfig
from crossflow.modalities.modality import Modality
from crossflow.modalities.patch_pca import PatchPCAConfig
from crossflow.modalities.pixels import ImageConfig, PixelsConfig
from crossflow.modalities.text_autoencoder import TextAutoencoderConfig
from crossflow.modalities.tokens import TokensConfig

READS = Kinds("modality to read", "crossflow.reads", TokensConfig, ImageConfig, LatentsConfig)
TARGETS = Kinds(
    "target",
    "crossflow.targets",
    PatchPCAConfig,
    KLConfig,
    PixelsConfig,
    DepthConfig,
    TextAutoencoderConfig,
)


@runtime_checkable
class Reads(Protocol):
    """What the config of a modality has that a flow reads."""

    @property
    def kind(self) -> str:
        """What a source has to accept: tokens, image or latents."""
        ...

    @property
    def name(self) -> str:
        """That in a batch."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the values of one item."""
        ...


@runtime_checkable
class Target(Protocol):
    """What the config of a modality has that a flow reaches."""

    @property
    def kind(self) -> str:
        """The name by which a file holds it."""
        ...

    @property
    def name(self) -> str:
        """That in a batch."""
        ...

    @property
    def drawn(self) -> bool:
        """Whether its latents are drawn afresh at every step from Gaussians."""
        ...

    @property
    def external(self) -> bool:
        """Whether its weights are a file of their own."""
        ...

    def build(self, shape: tuple[int, int, int]) -> Modality:
        """The modality for latents of ``shape`` (c, h, w)."""
        ...


if TYPE_CHECKING:  # what is here, so that types are narrowed by it; another package's is as good
    ReadsConfig = TokensConfig | ImageConfig | LatentsConfig
else:
    ReadsConfig = Annotated[Reads, READS.reader]
if TYPE_CHECKING:  # what is here, so that types are narrowed by it; another package's is as good
    TargetConfig = PatchPCAConfig | KLConfig | PixelsConfig | DepthConfig | TextAutoencoderConfig
else:
    TargetConfig = Annotated[Target, TARGETS.reader]
