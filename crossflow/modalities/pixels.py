"""Images in pixel space, without learned parameters: as what a flow reads, and as latents."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from crossflow.modalities.modality import Modality
from crossflow.networks.blocks import check_sizes


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """Images of ``shape`` (channels, height, width), as what a flow reads.

    ``name`` is the key in a batch; a flow from image to image needs two different names.
    """

    shape: tuple[int, int, int]
    name: str = "image"
    kind: Literal["image"] = "image"

    def __post_init__(self) -> None:
        check_sizes(**dict(zip(("channels", "height", "width"), self.shape, strict=True)))

    def build(self) -> "Pixels":
        """The conversion between uint8 images and [-1, 1]."""
        return Pixels()


@dataclass(frozen=True, kw_only=True)
class PixelsConfig:
    """Latents are the pixels themselves, in [-1, 1]."""

    name: Literal["image"] = "image"
    kind: Literal["pixels"] = "pixels"
    drawn: ClassVar[bool] = False
    external: ClassVar[bool] = False

    def build(self, shape: tuple[int, int, int]) -> "Pixels":
        """The modality for latents of ``shape`` (c, h, w)."""
        return Pixels()


class Pixels(Modality):
    """uint8 images [b h w 3] to latents [b 3 h w] and back."""

    def prepare(self, raw: Sequence[np.ndarray]) -> UInt8[Tensor, "b h w 3"]:
        """Images are stored as uint8."""
        return torch.from_numpy(np.stack(raw))

    def values(self, kept: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
        return self.encode(kept)

    def encode(self, images: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
        """Scale 0 ... 255 to -1 ... 1, float32."""
        return images.permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1

    def decode(self, latents: Float[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b h w 3"]:
        """Images, rounded and clipped to [0, 255]."""
        return ((latents + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
