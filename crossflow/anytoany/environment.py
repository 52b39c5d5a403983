"""What is being generated, told to the other modalities: environment encoders V and the connections that read them.

CoDi's latent alignment (arXiv 2305.11846, section 3.3). V sees the noised latents and the time, never the prompt.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from crossflow.anytoany.diffuser import DiffuserConfig, unit_variance
from crossflow.errors import CrossFlowError
from crossflow.networks.blocks import (
    Block,
    PatchTokens,
    Positions,
    TimeEmbedding,
    at_least_float32,
    check_sizes,
    initialise,
)


@dataclass(frozen=True, kw_only=True)
class EnvironmentConfig:
    """Sizes of an environment encoder: a transformer that ends in ``tokens`` unit vectors of ``vector`` numbers.

    CoDi's is one vector, which cannot say when something happens; several can. With ``local`` there is one of each
    position of the latents in their place. ``positions`` is how those of the latents start; where they start at the
    scale of the content (``unit``), connections have positions of their own too.
    """

    width: int = 64
    depth: int = 2
    heads: int = 4
    tokens: int = 1
    vector: int = 64
    local: bool = False
    positions: Positions = "small"

    def __post_init__(self) -> None:
        check_sizes(width=self.width, depth=self.depth, heads=self.heads, tokens=self.tokens, vector=self.vector)
        if self.local and self.tokens != 1:
            raise CrossFlowError(f"local is a vector a position, and tokens is {self.tokens}: let one of them be.")

    def build(self, shape: tuple[int, int, int]) -> "Environment":
        """The encoder for latents of ``shape`` (c, h, w)."""
        return Environment(self, shape)

    def reconstruction(self, shape: tuple[int, int, int]) -> "Reconstruction":
        """What the vectors tell of the latents of ``shape`` (c, h, w) that they are of."""
        return Reconstruction(self, shape)

    def connections(self, diffuser: DiffuserConfig) -> "Connections":
        """The connections of a diffuser to these vectors."""
        return Connections(diffuser, self.vector, self.positions == "unit")


class Environment(nn.Module):
    """V: noised latents of ``shape`` (c, h, w) and their times to unit vectors [b tokens vector].

    Learned tokens attend to those of the latents, and each becomes a vector; or those of the latents do.
    """

    def __init__(self, config: EnvironmentConfig, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.latents = PatchTokens(shape, 1, config.width, config.positions)
        self.time = TimeEmbedding(config.width)
        self.readers = None if config.local else nn.Parameter(torch.randn(1, config.tokens, config.width) * 0.5)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, config.vector)
        self.apply(initialise)

    def forward(self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]) -> Float[Tensor, "b tokens vector"]:
        tokens = self.latents(x)
        if self.readers is not None:
            tokens = torch.cat([self.readers.expand(len(x), -1, -1), tokens], dim=1)
        tokens = tokens + self.time(t)[:, None]
        for block in self.blocks:
            tokens = block(tokens)
        kept = tokens if self.readers is None else tokens[:, : self.readers.shape[1]]
        return F.normalize(at_least_float32(self.out(self.norm(kept))), dim=-1)


class Reconstruction(nn.Module):
    """Environment vectors to the latents of ``shape`` (c, h, w) that they are of, by one linear map.

    A vector a position tells the latents there, other vectors all latents together. Only training has it.
    """

    def __init__(self, config: EnvironmentConfig, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.local = config.local
        told, numbers = (config.vector, shape[0]) if config.local else (config.tokens * config.vector, prod(shape))
        self.out = nn.Linear(told, numbers)
        self.apply(initialise)

    def forward(self, vectors: Float[Tensor, "b k e"]) -> Float[Tensor, "b c h w"]:
        told = unit_variance(vectors)
        latents = self.out(told).transpose(1, 2) if self.local else self.out(told.flatten(1))
        return latents.reshape(-1, *self.shape)


class Connection(nn.Module):
    """A transformer block with cross-attention to environment vectors; its change of the tokens starts at zero.

    ``places`` is how many of the last tokens have positions of its own: those of a diffuser may be too faint to ask by.
    """

    def __init__(self, width: int, heads: int, vector: int, places: int = 0) -> None:
        super().__init__()
        self.block = Block(width, heads, expansion=1, context_width=vector)
        self.out = nn.Linear(width, width)
        self.position = nn.Parameter(torch.randn(1, places, width)) if places else None
        self.apply(initialise)
        nn.init.zeros_(self.out.weight)

    def forward(
        self, tokens: Float[Tensor, "b n d"], vectors: Float[Tensor, "b k e"], mask: Bool[Tensor, "b k"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """``mask`` is False at vectors that an item does not see."""
        placed = tokens
        if self.position is not None:
            lead = tokens.shape[1] - self.position.shape[1]
            placed = torch.cat([tokens[:, :lead], tokens[:, lead:] + self.position], dim=1)
        changed = self.block(placed, context=unit_variance(vectors), context_mask=mask)
        return tokens + self.out(changed - placed)


class Connections(nn.ModuleList):
    """The connections of one diffuser, one behind each of its blocks."""

    def __init__(self, diffuser: DiffuserConfig, vector: int, placed: bool = False) -> None:
        backbone = diffuser.backbone
        places = prod(diffuser.shape[1:]) // backbone.patch**2 if placed else 0
        super().__init__(Connection(backbone.width, backbone.heads, vector, places) for _ in range(backbone.depth))

    def given(
        self, vectors: Float[Tensor, "b k e"], mask: Bool[Tensor, "b k"] | None = None
    ) -> list[Callable[[Tensor], Tensor]]:
        """The connections as maps of the tokens alone, ``Through`` of the diffuser."""
        return [partial(connection, vectors=vectors, mask=mask) for connection in self]
