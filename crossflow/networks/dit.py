"""The released DiT (Peebles & Xie 2023, adaLN-Zero), the other velocity network of the authors' program.

Attributes are named as in the authors' files, so every key there is ``backbone.`` plus itself here. Differences from
the paper: it has no DiT; its indicator, a token there, is added to the embedding of time here. Difference from DiT: the
embedding takes t in [0, 1] as it is, not times 1000.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from crossflow.errors import CrossFlowError
from crossflow.networks.blocks import at_least_float32, check_sizes, initialise, self_attend
from crossflow.networks.time_dependent import Time, look_up, recompute

FREQUENCIES = 128
"""Sinusoids of time, each as cosine and sine, from 1 radian a unit of t down to almost 1 / 10,000."""


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Sizes of a DiT; ``patch`` latent cells a side make one token, and MLPs are four times as wide as the stream."""

    width: int
    depth: int
    heads: int
    patch: int
    kind: Literal["dit"] = "dit"

    def __post_init__(self) -> None:
        check_sizes(width=self.width, depth=self.depth, heads=self.heads, patch=self.patch)
        if self.width % self.heads or self.width % 4:
            raise CrossFlowError(f"width {self.width} must divide into {self.heads} heads, and by 4 for the positions.")

    @property
    def resolutions(self) -> int:
        """How many velocities it gives."""
        return 1

    def build(self, shape: tuple[int, int, int]) -> "DiT":
        """The network for latents of ``shape`` (c, h, w)."""
        return DiT(self, shape)

    def beside(self, shape: tuple[int, int, int], channels: int) -> "DiT":
        """Not there: CrossFlowError."""
        raise CrossFlowError("A DiT has no form for the baseline: choose the plain transformer, or a DiMR.")

    def attending(self, shape: tuple[int, int, int], token_width: int, image: tuple[int, int, int] | None) -> "DiT":
        """Not there: CrossFlowError."""
        raise CrossFlowError("A DiT has no form for the baseline: choose the plain transformer, or a DiMR.")


class DiT(nn.Module):
    """Velocity of latents of ``shape`` (c, h, w). Time is t in [0, 1], or a step number once ``tabulate`` was called.

    With ``checkpointing`` the activations inside blocks are computed again in the backward pass, and not kept.
    """

    checkpointing: bool = False
    tabulates = True

    def __init__(self, config: DiTConfig, shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, rows, columns = shape
        width, patch = config.width, config.patch
        if rows % patch or columns % patch:
            raise CrossFlowError(f"Latents of {rows} x {columns} do not divide into patches of side {patch}.")
        self.patch = patch
        self.x_embedder = PatchEmbedding(channels, width, patch)
        self.t_embedder = TimestepEmbedding(width)
        self.y_embedder = Indicator(width)
        self.pos_embed = nn.Parameter(positions(rows // patch, columns // patch, width), requires_grad=False)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.final_layer = FinalLayer(width, channels * patch * patch)
        self._initialise()

    def _initialise(self) -> None:
        """As in DiT: Xavier-uniform, embeddings normal of sd 0.02, zero modulations and output."""
        self.apply(initialise)
        weight, bias = self.x_embedder.proj.parameters()
        nn.init.xavier_uniform_(weight.flatten(1))
        nn.init.zeros_(bias)
        time_weights = (part for part in self.t_embedder.parameters() if part.ndim == 2)
        for weight in (self.y_embedder.embedding_table.weight, *time_weights):
            nn.init.normal_(weight, std=0.02)
        for layer in (*self._modulations(), self.final_layer.linear):
            nn.init.zeros_(layer.weight)

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Time, conditional: Bool[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """The velocity."""
        condition = self._condition(t, conditional)
        tokens = self.x_embedder(x.to(self.pos_embed.dtype)) + self.pos_embed
        for block in self.blocks:
            tokens = recompute(self.checkpointing, block, tokens, condition)
        patches = self.final_layer(tokens, condition)
        rows, columns = x.shape[2] // self.patch, x.shape[3] // self.patch
        maps = patches.reshape(-1, rows, columns, self.patch, self.patch, x.shape[1]).permute(0, 5, 1, 3, 2, 4)
        return at_least_float32(maps.reshape(x.shape))

    def velocities(
        self, x: Float[Tensor, "b c h w"], t: Time, conditional: Bool[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b c h w"]]:
        """The velocity, as the only one of a network with one resolution."""
        return (self(x, t, conditional),)

    @torch.no_grad()
    def tabulate(self, times: Float[Tensor, " s"]) -> None:
        """Compute every modulation at a solver's s times, conditional and not; from then on t may be step numbers."""
        flags = torch.tensor([True, False], device=times.device)
        condition = self._condition(times.repeat_interleave(2), flags.repeat(len(times)))
        for modulation in self._modulations():
            modulation.table = modulation(condition)

    def _modulations(self) -> list["Modulation"]:
        return [module for module in self.modules() if isinstance(module, Modulation)]

    def _condition(self, t: Time, conditional: Bool[Tensor, " b"]) -> Float[Tensor, "b d"] | Int[Tensor, " b"]:
        """Time's embedding plus the indicator's, then SiLU, at least float32; given step numbers, rows of the tables.

        The SiLU is the first layer of every modulation; here it is done once for all.
        """
        if not t.is_floating_point():
            return 2 * t + (~conditional).long()
        return F.silu(self.t_embedder(t) + self.y_embedder(conditional))


class PreciseLinear(nn.Linear):
    """A linear map in at least float32, whatever the autocast and the dtype of the weights."""

    def forward(self, input: Float[Tensor, "b d"]) -> Float[Tensor, "b e"]:
        """[b d] -> [b e]."""
        weight, bias = at_least_float32(self.weight), at_least_float32(self.bias)
        with torch.autocast(input.device.type, enabled=False):
            return F.linear(input.to(weight.dtype), weight, bias)


class TimestepEmbedding(nn.Module):
    """Sinusoids of t through a two-layer MLP, in at least float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(PreciseLinear(2 * FREQUENCIES, width), nn.SiLU(), PreciseLinear(width, width))

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """Embed times in [0, 1]."""
        t = at_least_float32(t)
        steps = torch.arange(FREQUENCIES, device=t.device, dtype=t.dtype) / FREQUENCIES
        angles = t[:, None] * torch.exp(-math.log(10_000.0) * steps)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


class Indicator(nn.Module):
    """One vector for conditional (row 0) and one for unconditional (row 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(2, width)

    def forward(self, conditional: Bool[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """[b] -> [b d]."""
        return self.embedding_table((~conditional).long())


class PatchEmbedding(nn.Module):
    """One linear map of every patch."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """Row by row."""
        return self.proj(x).flatten(2).transpose(1, 2).contiguous()


def positions(rows: int, columns: int, width: int) -> Float[Tensor, "1 n d"]:
    """Sinusoids of every token's column, then of its row: sines, then cosines, of ``width`` / 4 frequencies."""
    frequencies = 10_000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in (column, row)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1).float()[None]


class Modulation(PreciseLinear):
    """Shifts, scales and gates, from the embedding of time and indicator or, given rows, from ``table``."""

    table: Tensor | None

    def __init__(self, width: int, parts: int) -> None:
        super().__init__(width, parts * width)
        self.register_buffer("table", None, persistent=False)

    def forward(self, input: Float[Tensor, "b d"] | Int[Tensor, " b"]) -> Float[Tensor, "b e"]:
        """In the dtype of the weights."""
        if input.is_floating_point():
            return super().forward(input).to(self.weight.dtype)
        return look_up(self.table, input)


class Attention(nn.Module):
    """Self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """[b n d] -> [b n d]."""
        return self.proj(self_attend(self.qkv(x), self.heads))


class MLP(nn.Module):
    """Two layers around a GELU in its tanh form."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """[b n d] -> [b n d]."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """x + gate attention(norm x), then x + gate MLP(norm x); gates, and the norms' scales and shifts, are modulated."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.mlp = MLP(width)
        self.adaLN_modulation = nn.Sequential(nn.Identity(), Modulation(width, 6))

    def forward(
        self, x: Float[Tensor, "b n d"], condition: Float[Tensor, "b d"] | Int[Tensor, " b"]
    ) -> Float[Tensor, "b n d"]:
        """[b n d] -> [b n d]."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.adaLN_modulation(condition)[:, None].chunk(6, dim=-1)
        x = x + gate * self.attn(_modulated(x, shift, scale))
        return x + mlp_gate * self.mlp(_modulated(x, mlp_shift, mlp_scale))


class FinalLayer(nn.Module):
    """Modulated norm, then one linear map to the patches."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = nn.Sequential(nn.Identity(), Modulation(width, 2))

    def forward(
        self, x: Float[Tensor, "b n d"], condition: Float[Tensor, "b d"] | Int[Tensor, " b"]
    ) -> Float[Tensor, "b n e"]:
        """[b n d] -> [b n outputs]."""
        shift, scale = self.adaLN_modulation(condition)[:, None].chunk(2, dim=-1)
        return self.linear(_modulated(x, shift, scale))


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
