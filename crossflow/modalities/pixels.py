"""Images as latents with nothing learned: the pixels themselves, for flows in pixel space."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class PixelsConfig:
    """Latents are the pixels themselves, in [-1, 1]."""

    kind: Literal["pixels"] = "pixels"


class Pixels(nn.Module):
    """uint8 images [b h w 3] to latents [b 3 h w] and back."""

    def encode(self, images: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
        """Scale 0 ... 255 to -1 ... 1, float32."""
        return images.permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1

    def decode(self, latents: Float[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b h w 3"]:
        """Images, rounded and clipped."""
        return ((latents + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
