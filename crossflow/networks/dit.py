"""The released DiT (Peebles & Xie 2023, adaLN-Zero), the other velocity network of the authors' code.

Attributes are named as in the authors' files: a key there, prefixed with ``backbone.``, is the key here. The CrossFlow
paper describes no DiT; its indicator is a token, whereas here it is added to the time embedding. Difference from DiT:
the time embedding takes t in [0, 1], not 1000 t.
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
"""Frequencies of the time embedding, each as cosine and sine: from 1 down to almost 1 / 10,000 radians per unit t."""


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Sizes of a DiT: a token per ``patch`` x ``patch`` latent cells, and MLPs of four times the width."""

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
        return 1

    def build(self, shape: tuple[int, int, int]) -> "DiT":
        """The network for latents of ``shape`` (c, h, w)."""
        return DiT(self, shape)

    def beside(self, shape: tuple[int, int, int], channels: int) -> "DiT":
        """CrossFlowError: this network has no such form."""
        raise CrossFlowError("A DiT has no form for the baseline: choose the plain transformer, or a DiMR.")

    def attending(self, shape: tuple[int, int, int], token_width: int, image: tuple[int, int, int] | None) -> "DiT":
        """CrossFlowError: this network has no such form."""
        raise CrossFlowError("A DiT has no form for the baseline: choose the plain transformer, or a DiMR.")


class DiT(nn.Module):
    """Velocity of latents of ``shape`` (c, h, w). Time is t in [0, 1] or, after ``tabulate``, a step index.

    With ``checkpointing`` activations inside blocks are recomputed in the backward pass instead of stored.
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
        """As in DiT: Xavier-uniform weights, embeddings normal with sd 0.02, zero modulations and output."""
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
        return (self(x, t, conditional),)

    @torch.no_grad()
    def tabulate(self, times: Float[Tensor, " s"]) -> None:
        """Precompute every modulation at a solver's s times, for both flags; then t may be step indices."""
        flags = torch.tensor([True, False], device=times.device)
        condition = self._condition(times.repeat_interleave(2), flags.repeat(len(times)))
        for modulation in self._modulations():
            modulation.table = modulation(condition)

    def _modulations(self) -> list["Modulation"]:
        return [module for module in self.modules() if isinstance(module, Modulation)]

    def _condition(self, t: Time, conditional: Bool[Tensor, " b"]) -> Float[Tensor, "b d"] | Int[Tensor, " b"]:
        """SiLU(time embedding + indicator embedding), in at least float32; for step indices, rows of the tables.

        SiLU is the first layer of every modulation in DiT; here it is computed once for all of them.
        """
        if not t.is_floating_point():
            return 2 * t + (~conditional).long()
        return F.silu(self.t_embedder(t) + self.y_embedder(conditional))


class PreciseLinear(nn.Linear):
    """A linear layer computed in at least float32, whatever autocast and the dtype of the weights say."""

    def forward(self, input: Float[Tensor, "b d"]) -> Float[Tensor, "b e"]:
        weight, bias = at_least_float32(self.weight), at_least_float32(self.bias)
        with torch.autocast(input.device.type, enabled=False):
            return F.linear(input.to(weight.dtype), weight, bias)


class TimestepEmbedding(nn.Module):
    """Sinusoidal embedding of t in [0, 1] through a two-layer MLP, in at least float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(PreciseLinear(2 * FREQUENCIES, width), nn.SiLU(), PreciseLinear(width, width))

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        t = at_least_float32(t)
        steps = torch.arange(FREQUENCIES, device=t.device, dtype=t.dtype) / FREQUENCIES
        angles = t[:, None] * torch.exp(-math.log(10_000.0) * steps)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


class Indicator(nn.Module):
    """Embeddings of the flag: row 0 is conditional, row 1 unconditional."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(2, width)

    def forward(self, conditional: Bool[Tensor, " b"]) -> Float[Tensor, "b d"]:
        return self.embedding_table((~conditional).long())


class PatchEmbedding(nn.Module):
    """Linear patch embedding, row by row."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        return self.proj(x).flatten(2).transpose(1, 2).contiguous()


def positions(rows: int, columns: int, width: int) -> Float[Tensor, "1 n d"]:
    """2D sinusoidal position embeddings: column, then row, each as ``width`` / 4 sines, then cosines."""
    frequencies = 10_000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in (column, row)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1).float()[None]


class Modulation(PreciseLinear):
    """Shifts, scales and gates from the condition or, given row indices, looked up in ``table``."""

    table: Tensor | None

    def __init__(self, width: int, parts: int) -> None:
        super().__init__(width, parts * width)
        self.register_buffer("table", None, persistent=False)

    def forward(self, input: Float[Tensor, "b d"] | Int[Tensor, " b"]) -> Float[Tensor, "b e"]:
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
        return self.proj(self_attend(self.qkv(x), self.heads))


class MLP(nn.Module):
    """Two linear layers around a tanh-approximated GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """adaLN-Zero block: x + gate * attention(modulated norm of x), then x + gate * MLP(modulated norm of x)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.mlp = MLP(width)
        self.adaLN_modulation = nn.Sequential(nn.Identity(), Modulation(width, 6))

    def forward(
        self, x: Float[Tensor, "b n d"], condition: Float[Tensor, "b d"] | Int[Tensor, " b"]
    ) -> Float[Tensor, "b n d"]:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.adaLN_modulation(condition)[:, None].chunk(6, dim=-1)
        x = x + gate * self.attn(_modulated(x, shift, scale))
        return x + mlp_gate * self.mlp(_modulated(x, mlp_shift, mlp_scale))


class FinalLayer(nn.Module):
    """Modulated norm, then a linear layer to the patches."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = nn.Sequential(nn.Identity(), Modulation(width, 2))

    def forward(
        self, x: Float[Tensor, "b n d"], condition: Float[Tensor, "b d"] | Int[Tensor, " b"]
    ) -> Float[Tensor, "b n e"]:
        shift, scale = self.adaLN_modulation(condition)[:, None].chunk(2, dim=-1)
        return self.linear(_modulated(x, shift, scale))


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
