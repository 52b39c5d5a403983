"""Images as principal components of their patches: the image latents of the embedded world."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from crossflow.modalities.components import ComponentsConfig, PatchComponents


@dataclass(frozen=True, kw_only=True)
class PatchPCAConfig(ComponentsConfig):
    """Principal components of RGB patches."""

    components: int = 48
    name: Literal["image"] = "image"
    kind: Literal["patch-pca"] = "patch-pca"
    channels: ClassVar[int] = 3

    def build(self, shape: tuple[int, int, int]) -> "PatchPCA":
        """The modality for latents of ``shape``; CrossFlowError if the channels are not the components."""
        self.check(shape)
        return PatchPCA(self)


class PatchPCA(PatchComponents):
    """PCA of image patches: uint8 [b h w 3] to latents [b c h/8 w/8] and back, rounded and clipped to [0, 255]."""

    noun = "Images"

    def planes(self, raw: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b h w 3"]:
        return raw.to(self.mean.dtype) / 255.0 - 0.5

    def raw(self, planes: Float[Tensor, "b h w 3"]) -> UInt8[Tensor, "b h w 3"]:
        return ((planes + 0.5) * 255.0).round().clamp(0, 255).to(torch.uint8)
