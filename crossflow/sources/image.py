"""The Image Variational Encoder: from the pixels of an image to a Gaussian over source latents.

The paper says only that its output has the shape of the target and that it has a reconstruction loss. Ours is a plain
vision transformer; each patch token is projected to the mean and log-variance of its own part of the latent.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossflow.errors import CrossFlowError
from crossflow.flow.gaussian import Gaussian
from crossflow.networks.blocks import Block, PatchTokens, at_least_float32, check_sizes, initialise, unpatched


@dataclass(frozen=True, kw_only=True)
class ImageEncoderConfig:
    """Sizes of an image encoder; a token per ``patch`` x ``patch`` pixels."""

    width: int
    depth: int
    heads: int
    patch: int
    kind: Literal["image"] = "image"
    accepts: ClassVar[str] = "image"
    variance: ClassVar[str] = "learned"

    def __post_init__(self) -> None:
        check_sizes(width=self.width, depth=self.depth, heads=self.heads, patch=self.patch)

    def build(self, reads: tuple[int, ...], shape: tuple[int, int, int]) -> "ImageEncoder":
        """The encoder from images of shape ``reads`` (k, i, j) to latents of ``shape`` (c, h, w)."""
        channels, height, width = reads
        return ImageEncoder(self, shape, (channels, height, width))


class ImageEncoder(nn.Module):
    """Images of shape ``source`` (k, i, j) -> Gaussian over latents of ``shape`` (c, h, w)."""

    def __init__(self, config: ImageEncoderConfig, shape: tuple[int, int, int], source: tuple[int, int, int]) -> None:
        super().__init__()
        rows, columns = (side // config.patch for side in source[1:])
        self.shape, self.part = shape, shape[1] // max(rows, 1)
        if (rows * self.part, columns * self.part) != shape[1:]:
            raise CrossFlowError(
                f"{rows} x {columns} patches of an image do not divide latents of {shape[1]} x {shape[2]} evenly."
            )
        self.patches = PatchTokens(source, config.patch, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, 2 * shape[0] * self.part**2)
        self.apply(initialise)
        with torch.no_grad():
            self.head.weight.mul_(0.3)

    def forward(self, source: Float[Tensor, "b k i j"], mask: None = None) -> Gaussian:
        """Images have no padding, so ``mask`` is None."""
        x = self.patches(source)
        for block in self.blocks:
            x = block(x)
        moments = at_least_float32(self.head(self.norm(x)))
        mean, log_var = (unpatched(half, self.shape, self.part) for half in moments.chunk(2, dim=-1))
        return Gaussian(mean, log_var)
