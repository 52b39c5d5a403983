"""The upsampled image as the source: deterministic, without learned parameters."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from crossflow.errors import CrossFlowError
from crossflow.flow.gaussian import Gaussian
from crossflow.networks.blocks import check_sizes


@dataclass(frozen=True, kw_only=True)
class UpsampleConfig:
    """Bicubic upsampling of an image by ``factor``."""

    factor: int
    kind: Literal["upsample"] = "upsample"
    accepts: ClassVar[str] = "image"
    variance: ClassVar[str] = "none"

    def __post_init__(self) -> None:
        check_sizes(factor=self.factor)

    def build(self, reads: tuple[int, ...], shape: tuple[int, int, int]) -> "Upsample":
        """The source for images of shape ``reads`` (k, i, j); CrossFlowError if they do not upsample to ``shape``."""
        channels, height, width = reads
        if (channels, height * self.factor, width * self.factor) != shape:
            raise CrossFlowError(f"Images of {list(reads)} enlarged {self.factor} times are not latents {list(shape)}.")
        return Upsample(self)


class Upsample(nn.Module):
    """Images -> a Gaussian of zero variance at the upsampled images; bicubic as in Pillow (a = -0.5)."""

    def __init__(self, config: UpsampleConfig) -> None:
        super().__init__()
        self.factor = config.factor

    def forward(self, source: Float[Tensor, "b c i j"], mask: None = None) -> Gaussian:
        """Images have no padding, so ``mask`` is None."""
        mean = enlarged(source, (source.shape[-2] * self.factor, source.shape[-1] * self.factor))
        return Gaussian(mean, torch.full_like(mean, -torch.inf))


def enlarged(images: Float[Tensor, "b k i j"], size: tuple[int, int]) -> Float[Tensor, "b k h w"]:
    """Images resized to ``size`` (h, w), bicubic with antialiasing, with Pillow's kernel."""
    return F.interpolate(images, size=size, mode="bicubic", antialias=True)
