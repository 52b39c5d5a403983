"""A plain transformer as velocity network: self-attention over latent patches, without cross-attention.

Unlike the paper's DiMR it has one resolution. As there, the guidance indicator is a learned token prepended to the
sequence, one embedding for conditional and one for unconditional. The time embedding is a second token, and is also
added to every latent token.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from crossflow.errors import CrossFlowError
from crossflow.networks.blocks import (
    Block,
    Modulation,
    Patches,
    PatchTokens,
    Positions,
    TimeEmbedding,
    check_sizes,
    initialise,
)
from crossflow.networks.time_dependent import recompute
from crossflow.networks.whitening import embedding


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes of a plain transformer; a token per ``patch`` x ``patch`` latent cells.

    ``summaries`` is the number of prepended tokens that are each one linear map of the whole latent, so that every
    position has global information from the first block on. ``positions`` is how position embeddings start.
    ``modulated`` is whether time also modulates every block (see ``Modulation``), as it does the norms of the paper's
    network, and ``pooled`` whether the mean of what the baseline attends to does too, as a class does in DiT.
    ``whitened`` is whether the tokens that the baseline attends to are (see ``Whitening``).
    """

    width: int
    depth: int
    heads: int
    patch: int = 1
    summaries: int = 0
    positions: Positions = "small"
    modulated: bool = False
    whitened: bool = False
    pooled: bool = False
    kind: Literal["transformer"] = "transformer"

    def __post_init__(self) -> None:
        check_sizes(width=self.width, depth=self.depth, heads=self.heads, patch=self.patch)
        check_sizes(summaries=1 + self.summaries)
        if self.pooled and not self.modulated:
            raise CrossFlowError("pooled is about what modulates the blocks: let modulated be true, or pooled false.")

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
        return CrossAttentionTransformer(self, shape, token_width, image)


class Transformer(nn.Module):
    """Velocity of latents of ``shape`` (c, h, w); x may have ``beside`` more channels, which hold a condition.

    With ``checkpointing`` activations inside blocks are recomputed in the backward pass instead of stored.
    """

    checkpointing: bool = False
    tabulates = False

    def __init__(self, config: TransformerConfig, shape: tuple[int, int, int], beside: int = 0) -> None:
        super().__init__()
        self.patches = Patches(shape, config.patch, config.width, beside, config.positions)
        self.time = TimeEmbedding(config.width)
        self.indicator = nn.Embedding(2, config.width)
        numbers = (shape[0] + beside) * math.prod(shape[1:])
        self.summaries = nn.Linear(numbers, config.summaries * config.width) if config.summaries else None
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.modulation = Modulation(config.width, config.depth) if config.modulated else None
        _initialise(self, self.patches, self.modulation)

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
        for block, modulation in zip(self.blocks, _modulations(self, time), strict=True):
            tokens = recompute(self.checkpointing, block, tokens, None, None, None, modulation)
        return self.patches.maps(tokens[:, lead.shape[1] :])


class CrossAttentionTransformer(nn.Module):
    """Velocity of latents of ``shape`` (c, h, w), given token embeddings of width ``token_width``, or images.

    ``source`` is the shape (k, i, j) of the images, which are cut into as many patches as the latents; for
    ``checkpointing`` see ``Transformer``.
    """

    checkpointing: bool = False
    tabulates = False

    def __init__(
        self,
        config: TransformerConfig,
        shape: tuple[int, int, int],
        token_width: int,
        source: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.patches = Patches(shape, config.patch, config.width, start=config.positions)
        self.time = TimeEmbedding(config.width)
        if source is None:
            self.embed = embedding(token_width, config.width, config.whitened)
        else:
            self.embed = PatchTokens(source, config.patch * source[1] // shape[1], config.width)
        self.empty = nn.Parameter(torch.randn(1, 1, config.width) * 0.5)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, context_width=config.width) for _ in range(config.depth)
        )
        self.modulation = Modulation(config.width, config.depth) if config.modulated else None
        self.pooled = config.pooled
        _initialise(self, self.patches, self.modulation)

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
        after: Sequence[Callable[[Tensor], Tensor]] = (),
    ) -> Float[Tensor, "b c h w"]:
        """Latent tokens attend to the source where ``conditional``, to the learned token elsewhere.

        ``after`` are maps of the tokens [b n d], one behind each block, or none.
        """
        time = self.time(t)[:, None]
        context = self.embed(source)
        mask = conditional.new_ones(context.shape[:2]) if mask is None else mask
        context = torch.cat([self.empty.expand(x.shape[0], -1, -1), context], dim=1)
        seen = torch.cat([~conditional[:, None], mask & conditional[:, None]], dim=1)
        hidden = torch.cat([time, self.patches.tokens(x) + time], dim=1)
        if self.pooled:
            time = time + (context * seen[..., None]).sum(1, keepdim=True) / seen.sum(1)[:, None, None]
        for i, (block, modulation) in enumerate(zip(self.blocks, _modulations(self, time), strict=True)):
            hidden = recompute(self.checkpointing, block, hidden, None, context, seen, modulation)
            hidden = after[i](hidden) if after else hidden
        return self.patches.maps(hidden[:, 1:])


def _initialise(network: nn.Module, patches: Patches, modulation: Modulation | None) -> None:
    """Weights as in DiT; the output and the modulation start at zero."""
    network.apply(initialise)
    nn.init.zeros_(patches.out.weight)
    if modulation is not None:
        modulation.start()


def _modulations(network: Transformer | CrossAttentionTransformer, time: Tensor) -> Sequence[Tensor | None]:
    """What modulates each block, None where nothing does."""
    return [None] * len(network.blocks) if network.modulation is None else network.modulation(time)
