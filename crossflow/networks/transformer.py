"""The plain transformer of the paper's claim: latents in, velocities out, no cross-attention.

Difference from the paper's DiMR: one resolution and one stage. The guidance indicator is, as there, a learned token
before the sequence: one embedding for "conditional", one for "unconditional". Time is a second token, and is added to
every place as well.
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
    """Sizes of a vanilla transformer; ``patch`` latent cells a side make one token.

    ``summaries`` tokens before the sequence are each one linear map of the whole latent: whatever the encoder wrote
    across it, every place can look up there from the first block on.
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
        """How many velocities it gives."""
        return 1

    def build(self, shape: tuple[int, int, int]) -> "Transformer":
        """The network for latents of ``shape`` (c, h, w)."""
        return Transformer(self, shape)

    def beside(self, shape: tuple[int, int, int], channels: int) -> "Transformer":
        """The network that also reads ``channels`` beside the latents, for the baseline."""
        return Transformer(self, shape, channels)

    def attending(
        self, shape: tuple[int, int, int], token_width: int, image: tuple[int, int, int] | None
    ) -> "CrossAttentionTransformer":
        """The network with cross-attention to tokens, or to the patches of an ``image`` (k, i, j), for the baseline."""
        from crossflow.networks.cross_attention import CrossAttentionTransformer

        return CrossAttentionTransformer(self, shape, token_width, image)


class Transformer(nn.Module):
    """Velocity of latents of ``shape`` (c, h, w); ``beside`` more channels of x may hold what it is conditioned on."""

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
        """The only resolution there is."""
        return (self(x, t, conditional),)

    def forward(
        self, x: Float[Tensor, "b k h w"], t: Float[Tensor, " b"], conditional: Bool[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """Indicator row 0 is conditional and row 1 unconditional, as in the authors' DiT."""
        time = self.time(t)[:, None]
        lead = torch.cat([self.indicator((~conditional).long())[:, None], time], dim=1)
        if self.summaries is not None:
            lead = torch.cat([lead, self.summaries(x.flatten(1)).unflatten(1, (-1, lead.shape[2]))], dim=1)
        tokens = torch.cat([lead, self.patches.tokens(x) + time], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.patches.maps(tokens[:, lead.shape[1] :])
