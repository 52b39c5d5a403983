"""Building blocks of encoders, velocity networks and towers: a transformer block, time embedding, patches.

The block is pre-norm with a ReLU MLP: on a CPU a small model would spend half its time in GELU.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from crossflow.errors import CrossFlowError

LARGEST = 4096
"""Largest size that a config may have; a checkpoint that asks for more is damaged or hostile."""


def check_sizes(**sizes: int) -> None:
    """CrossFlowError for sizes outside 1 ... LARGEST, before anything is allocated."""
    for name, size in sizes.items():
        if not 1 <= size <= LARGEST:
            raise CrossFlowError(f"{name} is {size}; it must be from 1 to {LARGEST}.")


class Attention(nn.Module):
    """Multi-head attention from ``x`` to ``context``, or to itself; keys where ``mask`` is False are ignored."""

    def __init__(self, width: int, heads: int, context_width: int | None = None) -> None:
        super().__init__()
        if width % heads:
            raise CrossFlowError(f"width {width} does not divide into {heads} heads.")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(context_width or width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        context: Float[Tensor, "b m e"] | None = None,
        mask: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        b, n, d = x.shape
        joined = (self.query(x), *self.key_value(x if context is None else context).chunk(2, dim=-1))
        query, key, value = (part.view(b, -1, self.heads, d // self.heads).transpose(1, 2) for part in joined)
        attended = attend(query, key, value, None if mask is None else mask[:, None, None, :])
        return self.out(attended.transpose(1, 2).reshape(b, n, d))


def attend(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention; on a CPU in at least float32: its bfloat16 backward is ten times slower."""
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=dropout)
    dtype = torch.promote_types(query.dtype, torch.float32)
    parts = (query.to(dtype), key.to(dtype), value.to(dtype))
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(*parts, attn_mask=allowed, dropout_p=dropout).to(query.dtype)


def self_attend(joined: Float[Tensor, "b n three_d"], heads: int) -> Float[Tensor, "b n d"]:
    """Multi-head self-attention from concatenated queries, keys and values, [b n 3d] -> [b n d]."""
    query, key, value = joined.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return attend(query, key, value).transpose(1, 2).flatten(2)


class Block(nn.Module):
    """A pre-norm transformer block: self-attention, cross-attention if ``context_width`` is given, ReLU MLP."""

    def __init__(self, width: int, heads: int, expansion: int = 4, context_width: int | None = None) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_cross = None if context_width is None else nn.LayerNorm(width)
        self.cross = None if context_width is None else Attention(width, heads, context_width)
        self.norm_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, expansion * width)
        self.down = nn.Linear(expansion * width, width)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        mask: Bool[Tensor, "b n"] | None = None,
        context: Float[Tensor, "b m e"] | None = None,
        context_mask: Bool[Tensor, "b m"] | None = None,
        modulation: Float[Tensor, "b 1 six_d"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """``mask`` is False at tokens of x that are ignored as keys, ``context_mask`` at those of the context.

        ``modulation`` is of self-attention and of the MLP: the scale and the shift of what goes in and the scale of
        what comes out, as differences from 1, 0 and 1.
        """
        attention, mlp = (None, None) if modulation is None else modulation.chunk(2, dim=-1)
        x = x + _modulated(attention, self.norm_attention(x), lambda seen: self.attention(seen, mask=mask))
        if self.norm_cross is not None and self.cross is not None:
            x = x + self.cross(self.norm_cross(x), context, context_mask)
        return x + _modulated(mlp, self.norm_mlp(x), lambda seen: self.down(F.relu(self.up(seen))))


def _modulated(modulation: Tensor | None, x: Tensor, part: Callable[[Tensor], Tensor]) -> Tensor:
    if modulation is None:
        return part(x)
    scale, shift, gate = modulation.chunk(3, dim=-1)
    return (1 + gate) * part((1 + scale) * x + shift)


class Modulation(nn.Module):
    """What modulates the blocks of a network, from an embedding of time: PixArt's adaLN-single (arXiv 2310.00426).

    One linear map for all blocks, and a learned table with a row a block. It starts as the identity.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.shared = nn.Linear(width, 6 * width)
        self.own = nn.Parameter(torch.zeros(depth, 6 * width))

    def start(self) -> None:
        """Set the map to zero; call it after ``initialise``."""
        nn.init.zeros_(self.shared.weight)

    def forward(self, time: Float[Tensor, "b 1 d"]) -> list[Float[Tensor, "b 1 six_d"]]:
        """One modulation a block."""
        shared = self.shared(F.silu(time))
        return [shared + own for own in self.own]


class TimeEmbedding(nn.Module):
    """Sinusoidal embedding of 1000 t, t in [0, 1], through a two-layer MLP."""

    def __init__(self, width: int, frequencies: int = 64) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b width"]:
        steps = torch.arange(self.frequencies, device=t.device, dtype=t.dtype) / self.frequencies
        angles = 1000.0 * t[:, None] * torch.exp(-math.log(10_000.0) * steps)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


Positions = Literal["small", "unit"]
"""How learned position embeddings start: drawn with sd 0.02, or with that of the content beside them, about 1."""
SPREAD: dict[Positions, float] = {"small": 0.02, "unit": 1.0}
"""Standard deviation of position embeddings by how they start."""


class PatchTokens(nn.Module):
    """Patch embedding with learned positions: [b k h w] -> [b n d], one token per ``patch`` x ``patch`` cells.

    ``start`` is how the positions start.
    """

    def __init__(self, shape: tuple[int, int, int], patch: int, width: int, start: Positions = "small") -> None:
        super().__init__()
        channels, rows, columns = shape
        if rows % patch or columns % patch:
            raise CrossFlowError(f"Maps of {rows} x {columns} do not divide into patches of side {patch}.")
        self.patch = patch
        self.embed = nn.Linear(channels * patch * patch, width)
        self.position = nn.Parameter(torch.randn(1, rows * columns // patch**2, width) * SPREAD[start])

    def forward(self, x: Float[Tensor, "b k h w"]) -> Float[Tensor, "b n d"]:
        (b, channels, rows, columns), p = x.shape, self.patch
        x = x.reshape(b, channels, rows // p, p, columns // p, p)
        return self.embed(x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)) + self.position


class Patches(PatchTokens):
    """Patchify and unpatchify latents: [b c h w] <-> [b n d].

    The input has ``beside`` more channels than the output: a condition concatenated to the latents.
    """

    def __init__(
        self, shape: tuple[int, int, int], patch: int, width: int, beside: int = 0, start: Positions = "small"
    ) -> None:
        channels, rows, columns = shape
        super().__init__((channels + beside, rows, columns), patch, width, start)
        self.shape = shape
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, channels * patch * patch)

    def tokens(self, x: Float[Tensor, "b k h w"]) -> Float[Tensor, "b n d"]:
        return self(x)

    def maps(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b c h w"]:
        """Project tokens to patches and unpatchify."""
        return unpatched(at_least_float32(self.out(self.norm(tokens))), self.shape, self.patch)


def unpatched(tokens: Float[Tensor, "b n d"], shape: tuple[int, int, int], patch: int) -> Float[Tensor, "b c h w"]:
    """Unpatchify: tokens of width d = c patch^2 to maps of ``shape`` (c, h, w)."""
    channels, rows, columns = shape
    x = tokens.reshape(-1, rows // patch, columns // patch, channels, patch, patch)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, rows, columns)


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32 unless it is wider: under autocast outputs are bfloat16, too coarse for losses and solvers."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def initialise(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases, as in DiT; for ``module.apply``."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
