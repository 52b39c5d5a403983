"""Reconstruction of the source data from source latents: the paper's reconstruction losses."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from crossflow.errors import CrossFlowError
from crossflow.losses.term import Step
from crossflow.networks.blocks import Block, PatchTokens, at_least_float32, check_sizes, initialise, unpatched


@dataclass(frozen=True, kw_only=True)
class ImageReconstruction:
    """Mean squared error of the image decoded from its source latent, in patches of ``patch`` pixels a side."""

    weight: float
    patch: int
    kind: Literal["image-reconstruction"] = "image-reconstruction"
    name: ClassVar[str] = "reconstruction"
    reads: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_sizes(patch=self.patch)

    def check(self, accepts: str, variance: str, guided: bool, learns: bool) -> None:
        """CrossFlowError for a source that reads no image."""
        if accepts != "image":
            raise CrossFlowError(f"An image is reconstructed, and this source reads {accepts}.")

    def build(self, reads: tuple[int, ...], shape: tuple[int, int, int]) -> "ReconstructionTerm":
        """The term, with its decoder, for images of shape ``reads`` (k, i, j) and latents of ``shape``."""
        channels, height, width = reads
        return ReconstructionTerm(Reconstructor(shape, (channels, height, width), self.patch))


@dataclass(frozen=True, kw_only=True)
class TextReconstruction:
    """Mean squared error of the token embeddings decoded from the source latent: the paper's "T-T Recon".

    The paper gives no sizes of the decoder. Ours has ``depth`` transformer blocks of ``width`` over one learned query
    per token and the latent positions.
    """

    weight: float = 1.0
    width: int = 96
    depth: int = 1
    heads: int = 4
    kind: Literal["text-reconstruction"] = "text-reconstruction"
    name: ClassVar[str] = "reconstruction"
    reads: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_sizes(width=self.width, depth=self.depth, heads=self.heads)

    def check(self, accepts: str, variance: str, guided: bool, learns: bool) -> None:
        """CrossFlowError for a source that reads no text."""
        if accepts != "tokens":
            raise CrossFlowError(f"Token embeddings are reconstructed, and this source reads {accepts}.")

    def build(self, reads: tuple[int, ...], shape: tuple[int, int, int]) -> "ReconstructionTerm":
        """The term, with its decoder, for tokens of shape ``reads`` (n, d) and latents of ``shape``."""
        count, token_width = reads
        return ReconstructionTerm(TokenReconstructor(self, shape, count, token_width))


class ReconstructionTerm(nn.Module):
    """The mean squared error of a decoder, padding excluded."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, step: Step) -> Float[Tensor, ""]:
        """The loss, unweighted."""
        error = (self.decoder(step.x0) - step.source.values).square()
        if step.source.mask is None:
            return error.mean()
        real = step.source.mask[..., None].to(error.dtype)
        return (error * real).sum() / (real.sum() * error.shape[-1])


class Reconstructor(nn.Module):
    """Source latents to images: a two-layer MLP on each patch alone, so that latents stay spatially aligned."""

    def __init__(self, shape: tuple[int, int, int], image: tuple[int, int, int], patch: int) -> None:
        super().__init__()
        self.image, self.patch = image, patch
        width = image[0] * patch**2
        self.patches = PatchTokens(shape, shape[1] * patch // image[1], width)
        self.out = nn.Linear(width, width)
        self.apply(initialise)

    def forward(self, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k i j"]:
        return unpatched(at_least_float32(self.out(F.relu(self.patches(x0)))), self.image, self.patch)


class TokenReconstructor(nn.Module):
    """Source latents to token embeddings."""

    def __init__(self, config: TextReconstruction, shape: tuple[int, int, int], count: int, token_width: int) -> None:
        super().__init__()
        channels, rows, columns = shape
        self.embed = nn.Linear(channels, config.width)
        self.position = nn.Parameter(torch.randn(1, rows * columns, config.width) * 0.5)
        self.queries = nn.Parameter(torch.randn(1, count, config.width) * 0.5)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, token_width)
        self.apply(initialise)

    def forward(self, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        queries = self.queries.expand(len(x0), -1, -1)
        x = torch.cat([queries, self.embed(x0.flatten(2).transpose(1, 2)) + self.position], dim=1)
        for block in self.blocks:
            x = block(x)
        return at_least_float32(self.out(self.norm(x[:, : queries.shape[1]])))
