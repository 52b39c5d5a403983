"""What the encoder, the backbones and the image tower are built from: one transformer block, time, patches.

Pre-norm attention and a ReLU MLP. ReLU rather than GELU because a small model on a CPU spends half its time in GELU.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from crossflow.errors import CrossFlowError

LARGEST = 4096
"""No size in a config is larger; a checkpoint that asks for more is damaged or hostile."""


def check_sizes(**sizes: int) -> None:
    """Refuse sizes outside 1 ... LARGEST, so that nothing absurd is ever built."""
    for name, size in sizes.items():
        if not 1 <= size <= LARGEST:
            raise CrossFlowError(f"{name} is {size}; it must be from 1 to {LARGEST}.")


class Attention(nn.Module):
    """Multi-head attention of ``x`` to ``context`` (itself unless given); keys outside ``mask`` are not seen."""

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
        """Return the attended values, [b n d]."""
        b, n, d = x.shape
        joined = (self.query(x), *self.key_value(x if context is None else context).chunk(2, dim=-1))
        query, key, value = (part.view(b, -1, self.heads, d // self.heads).transpose(1, 2) for part in joined)
        attended = attend(query, key, value, None if mask is None else mask[:, None, None, :])
        return self.out(attended.transpose(1, 2).reshape(b, n, d))


def attend(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention; on a CPU never in bfloat16, where its backward pass is ten times slower."""
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=dropout)
    dtype = torch.promote_types(query.dtype, torch.float32)
    parts = (query.to(dtype), key.to(dtype), value.to(dtype))
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(*parts, attn_mask=allowed, dropout_p=dropout).to(query.dtype)


def self_attend(joined: Float[Tensor, "b n three_d"], heads: int) -> Float[Tensor, "b n d"]:
    """Attention of tokens to each other, given their queries, keys and values side by side, [b n 3d] -> [b n d]."""
    query, key, value = joined.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return attend(query, key, value).transpose(1, 2).flatten(2)


class Block(nn.Module):
    """x + attention(norm x), then, given ``context_width``, cross-attention, then x + MLP(norm x)."""

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
    ) -> Float[Tensor, "b n d"]:
        """``mask`` marks the tokens of x that may be attended to, ``context_mask`` those of the context."""
        x = x + self.attention(self.norm_attention(x), mask=mask)
        if self.norm_cross is not None and self.cross is not None:
            x = x + self.cross(self.norm_cross(x), context, context_mask)
        return x + self.down(F.relu(self.up(self.norm_mlp(x))))


class TimeEmbedding(nn.Module):
    """Sinusoids of 1000 t through a two-layer MLP, [b] -> [b width]."""

    def __init__(self, width: int, frequencies: int = 64) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b width"]:
        """Embed times in [0, 1]."""
        steps = torch.arange(self.frequencies, device=t.device, dtype=t.dtype) / self.frequencies
        angles = 1000.0 * t[:, None] * torch.exp(-math.log(10_000.0) * steps)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


class PatchTokens(nn.Module):
    """Maps to tokens: [b k h w] -> [b n d], one for every ``patch`` x ``patch`` cells, with a learned position each."""

    def __init__(self, shape: tuple[int, int, int], patch: int, width: int) -> None:
        super().__init__()
        channels, rows, columns = shape
        if rows % patch or columns % patch:
            raise CrossFlowError(f"Maps of {rows} x {columns} do not divide into patches of side {patch}.")
        self.patch = patch
        self.embed = nn.Linear(channels * patch * patch, width)
        self.position = nn.Parameter(torch.randn(1, rows * columns // patch**2, width) * 0.02)

    def forward(self, x: Float[Tensor, "b k h w"]) -> Float[Tensor, "b n d"]:
        """Split into patches and embed."""
        (b, channels, rows, columns), p = x.shape, self.patch
        x = x.reshape(b, channels, rows // p, p, columns // p, p)
        return self.embed(x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)) + self.position


class Patches(PatchTokens):
    """Latent maps to tokens and back: [b c h w] <-> [b n d].

    ``beside`` channels more are read than written: those of a condition that was put beside the latents.
    """

    def __init__(self, shape: tuple[int, int, int], patch: int, width: int, beside: int = 0) -> None:
        channels, rows, columns = shape
        super().__init__((channels + beside, rows, columns), patch, width)
        self.shape = shape
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, channels * patch * patch)

    def tokens(self, x: Float[Tensor, "b k h w"]) -> Float[Tensor, "b n d"]:
        """Split into patches and embed."""
        return self(x)

    def maps(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b c h w"]:
        """Project tokens to patches and put them back in their places."""
        return unpatched(at_least_float32(self.out(self.norm(tokens))), self.shape, self.patch)


def unpatched(tokens: Float[Tensor, "b n d"], shape: tuple[int, int, int], patch: int) -> Float[Tensor, "b c h w"]:
    """Tokens that hold a patch each, d = c patch^2, as the map of ``shape`` (c, h, w) that they make up."""
    channels, rows, columns = shape
    x = tokens.reshape(-1, rows // patch, columns // patch, channels, patch, patch)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, rows, columns)


def at_least_float32(x: Tensor) -> Tensor:
    """Under bfloat16 autocast a network's answer is bfloat16; losses and solvers want more."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def initialise(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases, as in DiT; to be used with ``module.apply``."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
