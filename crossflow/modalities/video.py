"""Films as principal components of patches that each hold the same place in every frame.

A token so sees whatever happens in its cell from the first frame to the last; an object that moves by half a cell is
in two of them.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.modalities.components import ComponentsConfig, PatchComponents


@dataclass(frozen=True, kw_only=True)
class VideoConfig(ComponentsConfig):
    """Principal components of patches of 8 RGB frames."""

    components: int = 64
    name: Literal["video"] = "video"
    kind: Literal["video-pca"] = "video-pca"
    frames: ClassVar[int] = 8
    channels: ClassVar[int] = 3 * frames

    def build(self, shape: tuple[int, int, int]) -> "PatchVideo":
        """The modality for latents of ``shape``; CrossFlowError if the channels are not the components."""
        self.check(shape)
        return PatchVideo(self)


class PatchVideo(PatchComponents):
    """Films uint8 [b 8 h w 3] to latents [b c h/8 w/8] and back, rounded and clipped to [0, 255]."""

    noun = "Films"

    def planes(self, raw: UInt8[Tensor, "b f h w 3"]) -> Float[Tensor, "b h w k"]:
        if raw.shape[1] != VideoConfig.frames:
            raise CrossFlowError(f"A film has {raw.shape[1]} frames, and this codec is of {VideoConfig.frames}.")
        return raw.movedim(1, 3).flatten(3).to(self.mean.dtype) / 255.0 - 0.5

    def raw(self, planes: Float[Tensor, "b h w k"]) -> UInt8[Tensor, "b f h w 3"]:
        values = ((planes + 0.5) * 255.0).round().clamp(0, 255).to(torch.uint8)
        return values.unflatten(3, (VideoConfig.frames, 3)).movedim(3, 1).contiguous()
