"""The network of the paper's baseline: flow matching from noise, with cross-attention to the condition in every block.

The condition is what CrossFlow's encoder reads: token embeddings of a frozen language model, or an image in patches.
Unconditional items attend to one learned token instead, as usual in classifier-free guidance.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from crossflow.networks.blocks import Block, Patches, PatchTokens, TimeEmbedding, initialise
from crossflow.networks.transformer import TransformerConfig


class CrossAttentionTransformer(nn.Module):
    """Velocity of latents of ``shape`` (c, h, w), given token embeddings of width ``token_width``, or images.

    ``source`` is the shape (k, i, j) of the images, which are cut into as many patches as the latents.
    """

    tabulates = False

    def __init__(
        self,
        config: TransformerConfig,
        shape: tuple[int, int, int],
        token_width: int,
        source: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.patches = Patches(shape, config.patch, config.width)
        self.time = TimeEmbedding(config.width)
        if source is None:
            self.embed = nn.Linear(token_width, config.width)
        else:
            self.embed = PatchTokens(source, config.patch * source[1] // shape[1], config.width)
        self.empty = nn.Parameter(torch.randn(1, 1, config.width) * 0.5)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, context_width=config.width) for _ in range(config.depth)
        )
        self.apply(initialise)
        nn.init.zeros_(self.patches.out.weight)

    def velocities(
        self,
        x: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        conditional: Bool[Tensor, " b"],
        source: Float[Tensor, "b n d"] | Float[Tensor, "b k i j"],
        mask: Bool[Tensor, "b n"] | None,
    ) -> tuple[Float[Tensor, "b c h w"], ...]:
        return (self(x, t, conditional, source, mask),)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        conditional: Bool[Tensor, " b"],
        source: Float[Tensor, "b n d"] | Float[Tensor, "b k i j"],
        mask: Bool[Tensor, "b n"] | None,
    ) -> Float[Tensor, "b c h w"]:
        """Latent tokens attend to the source where ``conditional``, to the learned token elsewhere."""
        time = self.time(t)[:, None]
        context = self.embed(source)
        mask = conditional.new_ones(context.shape[:2]) if mask is None else mask
        context = torch.cat([self.empty.expand(x.shape[0], -1, -1), context], dim=1)
        seen = torch.cat([~conditional[:, None], mask & conditional[:, None]], dim=1)
        hidden = torch.cat([time, self.patches.tokens(x) + time], dim=1)
        for block in self.blocks:
            hidden = block(hidden, context=context, context_mask=seen)
        return self.patches.maps(hidden[:, 1:])
