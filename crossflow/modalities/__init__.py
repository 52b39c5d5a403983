"""Modalities: conversion between raw data and what a flow reads, or the latents it ends in. One file per modality.

A flow reads one modality (``ReadsConfig``) and generates another (``TargetConfig``). ``modality`` has the base class;
the frozen language models behind token embeddings are in ``text_embedders`` and ``minilm``.
"""

from typing import TYPE_CHECKING, Annotated, Protocol, runtime_checkable

from crossflow.files.kinds import Kinds
from crossflow.modalities.audio import AudioConfig
from crossflow.modalities.clip_text import CLIPTextConfig
from crossflow.modalities.depth import DepthConfig, PatchDepthConfig, RelativeDepthConfig
from crossflow.modalities.kl_autoencoder import KLConfig
from crossflow.modalities.latents import LatentsConfig
from crossflow.modalities.modality import Modality
from crossflow.modalities.patch_pca import PatchPCAConfig
from crossflow.modalities.pixels import ImageConfig, PixelsConfig
from crossflow.modalities.text_autoencoder import TextAutoencoderConfig
from crossflow.modalities.tokens import TokensConfig
from crossflow.modalities.video import VideoConfig

READS = Kinds("modality to read", "crossflow.reads", TokensConfig, ImageConfig, LatentsConfig)
TARGETS = Kinds(
    "target",
    "crossflow.targets",
    PatchPCAConfig,
    KLConfig,
    PixelsConfig,
    DepthConfig,
    RelativeDepthConfig,
    PatchDepthConfig,
    AudioConfig,
    VideoConfig,
    TextAutoencoderConfig,
    CLIPTextConfig,
    LatentsConfig,
)


@runtime_checkable
class Reads(Protocol):
    """The interface of the config of a modality that a flow reads."""

    @property
    def kind(self) -> str:
        """The kind of data, which the source must accept: tokens, image or latents."""
        ...

    @property
    def name(self) -> str:
        """Its key in a batch."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one item's values."""
        ...


@runtime_checkable
class Target(Protocol):
    """The interface of the config of a modality that a flow generates."""

    @property
    def kind(self) -> str:
        """Its name in checkpoints and in the registry."""
        ...

    @property
    def name(self) -> str:
        """Its key in a batch."""
        ...

    @property
    def drawn(self) -> bool:
        """Whether its latents are sampled anew from a posterior at every training step."""
        ...

    @property
    def external(self) -> bool:
        """Whether its weights are a separate file, not part of the checkpoint."""
        ...

    def build(self, shape: tuple[int, int, int]) -> Modality:
        """The modality for latents of ``shape`` (c, h, w)."""
        ...


if TYPE_CHECKING:  # the union narrows types; at run time any registered kind is accepted
    ReadsConfig = TokensConfig | ImageConfig | LatentsConfig
else:
    ReadsConfig = Annotated[Reads, READS.reader]
if TYPE_CHECKING:  # the union narrows types; at run time any registered kind is accepted
    TargetConfig = (
        PatchPCAConfig
        | KLConfig
        | PixelsConfig
        | DepthConfig
        | RelativeDepthConfig
        | PatchDepthConfig
        | AudioConfig
        | VideoConfig
        | TextAutoencoderConfig
        | CLIPTextConfig
        | LatentsConfig
    )
else:
    TargetConfig = Annotated[Target, TARGETS.reader]
