"""A plain transformer as velocity network: self-attention over latent patches, without cross-attention.

Unlike the paper's DiMR it has one resolution. As there, the guidance indicator is a learned token prepended to the
sequence, one embedding for conditional and one for unconditional. The time embedding is a second token, and is also
added to every latent token.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from crossflow.networks.blocks import Block, Patches, TimeEmbedding, check_sizes, initialise

if TYPE_CHECKING:
    from crossflow.networks.cross_attention import CrossAttentionTransformer


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes of a plain transformer; a token per ``patch`` x ``patch`` latent cells.

    ``summaries`` is the number of prepended tokens that are each one linear map of the whole latent, so that every
    position has global information from the first block on.
    """

    width: int
    depth: int
    heads: int
    patch: int = 1
    summaries: int = 0
    kind: Literal["transformer"] = "transformer"

    def __post_init__(self) -> None:
        check_sizes(width=self.width, depth=self.depth, heads=self.heads, patch=self.patch)
        check_sizes(summaries=1 + self.summaries)

    @property
    def resolutions(self) -> int:
        return 1

    def build(self, shape: tuple[int, int, int]) -> "Transformer":
        """The network for latents of ``shape`` (c, h, w)."""
        return Transformer(self, shape)

    def beside(self, shape: tuple[int, int, int], channels: int) -> "Transformer":
        """The baseline's network, conditioned on ``channels`` concatenated to the latents."""
        return Transformer(self, shape, channels)

    def attending(
        self, shape: tuple[int, int, int], token_width: int, image: tuple[int, int, int] | None
    ) -> "CrossAttentionTransformer":
        """The baseline's network, with cross-attention to tokens, or to the patches of an ``image`` (k, i, j)."""
        from crossflow.networks.cross_attention import CrossAttentionTransformer

        return CrossAttentionTransformer(self, shape, token_width, image)


class Transformer(nn.Module):
    """Velocity of latents of ``shape`` (c, h, w); x may have ``beside`` more channels, which hold a condition."""

    tabulates = False

    def __init__(self, config: TransformerConfig, shape: tuple[int, int, int], beside: int = 0) -> None:
        super().__init__()
        self.patches = Patches(shape, config.patch, config.width, beside)
        self.time = TimeEmbedding(config.width)
        self.indicator = nn.Embedding(2, config.width)
        numbers = (shape[0] + beside) * math.prod(shape[1:])
        self.summaries = nn.Linear(numbers, config.summaries * config.width) if config.summaries else None
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.apply(initialise)
        nn.init.zeros_(self.patches.out.weight)

    def velocities(
        self, x: Float[Tensor, "b k h w"], t: Float[Tensor, " b"], conditional: Bool[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b c h w"], ...]:
        return (self(x, t, conditional),)

    def forward(
        self, x: Float[Tensor, "b k h w"], t: Float[Tensor, " b"], conditional: Bool[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """Row 0 of the indicator is conditional and row 1 unconditional, as in the authors' DiT."""
        time = self.time(t)[:, None]
        lead = torch.cat([self.indicator((~conditional).long())[:, None], time], dim=1)
        if self.summaries is not None:
            lead = torch.cat([lead, self.summaries(x.flatten(1)).unflatten(1, (-1, lead.shape[2]))], dim=1)
        tokens = torch.cat([lead, self.patches.tokens(x) + time], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.patches.maps(tokens[:, lead.shape[1] :])
