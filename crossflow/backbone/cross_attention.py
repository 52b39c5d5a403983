"""The paper's baseline: standard flow matching from noise, with text cross-attention after every self-attention.

The text is the same frozen token embedding that CrossFlow's encoder reads. "Unconditional" replaces the text by one
learned token, the usual dropping of text for classifier-free guidance.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from crossflow.backbone.transformer import TransformerConfig
from crossflow.blocks import Block, Patches, TimeEmbedding, initialise


class CrossAttentionTransformer(nn.Module):
    """Velocity of latents of ``shape`` (c, h, w), given text tokens of width ``token_width``."""

    def __init__(self, config: TransformerConfig, shape: tuple[int, int, int], token_width: int) -> None:
        super().__init__()
        self.patches = Patches(shape, config.patch, config.width)
        self.time = TimeEmbedding(config.width)
        self.embed = nn.Linear(token_width, config.width)
        self.empty = nn.Parameter(torch.randn(1, 1, config.width) * 0.5)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, context_width=config.width) for _ in range(config.depth)
        )
        self.apply(initialise)
        nn.init.zeros_(self.patches.out.weight)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        conditional: Bool[Tensor, " b"],
        tokens: Float[Tensor, "b n d"],
        mask: Bool[Tensor, "b n"],
    ) -> Float[Tensor, "b c h w"]:
        """Every place may look at the text where ``conditional``, at the empty token where not."""
        time = self.time(t)[:, None]
        text = torch.cat([self.empty.expand(x.shape[0], -1, -1), self.embed(tokens)], dim=1)
        seen = torch.cat([~conditional[:, None], mask & conditional[:, None]], dim=1)
        hidden = torch.cat([time, self.patches.tokens(x) + time], dim=1)
        for block in self.blocks:
            hidden = block(hidden, context=text, context_mask=seen)
        return self.patches.maps(hidden[:, 1:])
