"""DiMR, the released velocity network: stages of rising resolution, each given all features of the stage below.

Every stage embeds the whole x_t in patches of its own size and predicts the velocity at its own resolution. The first
is a transformer, later ones are ConvNeXts. There is no time embedding: the parameters of every norm depend on time
(``time_dependent``). Attributes are named as in the authors' files, so ``stages.`` there is ``backbone.stages.`` here.

The authors' code, and so this module, differs from the paper in one point: the two learned parameters of the indicator
are scalars, broadcast over the channels of a token prepended to the sequence.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from crossflow.errors import CrossFlowError
from crossflow.networks.blocks import at_least_float32, attend, check_sizes, self_attend
from crossflow.networks.time_dependent import Time, TimeDependent, TimeLayerNorm, TimeRMSNorm, recompute


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One resolution: a token per ``patch`` x ``patch`` latent cells; ``depth`` blocks with MLPs of width ``hidden``.

    ``heads`` applies to transformers only, ``kernel`` (the side of the depthwise convolution) to ConvNeXts only.
    """

    block: Literal["transformer", "convnext"]
    width: int
    hidden: int
    depth: int
    patch: int
    heads: int = 1
    kernel: int = 7

    def __post_init__(self) -> None:
        check_sizes(width=self.width, hidden=self.hidden, depth=self.depth, patch=self.patch)
        check_sizes(heads=self.heads, kernel=self.kernel)
        if self.block not in ("transformer", "convnext"):
            raise CrossFlowError(f"block is {self.block!r}; it must be 'transformer' or 'convnext'.")
        if self.width % self.heads:
            raise CrossFlowError(f"width {self.width} does not divide into {self.heads} heads.")
        if self.depth % 2 == 0 or self.kernel % 2 == 0:
            raise CrossFlowError(f"depth is {self.depth} and kernel {self.kernel}; both must be odd.")


@dataclass(frozen=True, kw_only=True)
class DiMRConfig:
    """The stages, from low to high resolution; the last has patches of one latent cell."""

    stages: tuple[Stage, ...]
    kind: Literal["dimr"] = "dimr"

    def __post_init__(self) -> None:
        if not any(stage.block == "transformer" for stage in self.stages):
            raise CrossFlowError("No stage is a transformer, and only these see the indicator: make the first one.")
        patches = [stage.patch for stage in self.stages]
        rising = all(low > high and low % high == 0 for low, high in pairwise(patches))
        if not rising or patches[-1] != 1:
            raise CrossFlowError(f"The stages' patches are {patches}; each must be a multiple of the next, down to 1.")

    @property
    def resolutions(self) -> int:
        """The number of stages, each of which predicts the velocity."""
        return len(self.stages)

    def build(self, shape: tuple[int, int, int]) -> "DiMR":
        """The network for latents of ``shape`` (c, h, w)."""
        return DiMR(self, shape)

    def beside(self, shape: tuple[int, int, int], channels: int) -> "DiMR":
        """CrossFlowError: this network has no such form."""
        raise CrossFlowError("A DiMR has no form with a condition in channels: let the condition be attention.")

    def attending(
        self, shape: tuple[int, int, int], token_width: int, image: tuple[int, int, int] | None
    ) -> "AttendingDiMR":
        """The baseline's network, with cross-attention to tokens; CrossFlowError for an ``image``."""
        if image is not None:
            raise CrossFlowError("A DiMR attends to the tokens of texts alone: choose the plain transformer.")
        return AttendingDiMR(self, shape, token_width)


class DiMR(nn.Module):
    """Velocity of latents of ``shape`` (c, h, w). Time is t in [0, 1] or, after ``tabulate``, a step index.

    With ``checkpointing`` activations inside blocks are recomputed in the backward pass instead of stored.
    """

    checkpointing: bool = False
    tabulates = True

    def __init__(self, config: DiMRConfig, shape: tuple[int, int, int], context_width: int | None = None) -> None:
        super().__init__()
        below = (None, *config.stages)
        self.stages = nn.ModuleList(
            StageNetwork(stage, shape, low, context_width) for stage, low in zip(config.stages, below, strict=False)
        )
        self.apply(_initialise)

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Time, conditional: Bool[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """The velocity at full resolution."""
        return self.velocities(x, t, conditional)[-1]

    def velocities(
        self, x: Float[Tensor, "b c h w"], t: Time, conditional: Bool[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b c _ _"], ...]:
        """One velocity per stage, [b c h/patch w/patch], from low to high resolution."""
        return self.given(x, t, conditional)

    def given(self, x: Tensor, t: Time, conditional: Tensor, *context: Tensor) -> tuple[Tensor, ...]:
        """``velocities`` with an optional ``context`` for cross-attention: tokens and their mask."""
        x = x.to(next(self.parameters()).dtype)
        features, velocities = [], []
        for stage in self.stages:
            features, velocity = stage(x, t, conditional, features, self.checkpointing, *context)
            velocities.append(velocity)
        return tuple(velocities)

    @torch.no_grad()
    def tabulate(self, times: Float[Tensor, " s"]) -> None:
        """Precompute everything that depends on time alone at a solver's s times; then t may be step indices."""
        for module in self.modules():
            if isinstance(module, TimeDependent):
                module.tabulate(times)


class AttendingDiMR(nn.Module):
    """The baseline's DiMR: every self-attention is followed by cross-attention to the tokens of a text.

    The paper describes it in one sentence, without details. Ours: keys and values from the token embeddings without a
    norm, queries after a time-dependent norm, and the learned token ``empty`` for unconditional items.
    """

    tabulates = False

    def __init__(self, config: DiMRConfig, shape: tuple[int, int, int], token_width: int) -> None:
        super().__init__()
        self.dimr = DiMR(config, shape, token_width)
        self.empty = nn.Parameter(torch.randn(1, 1, token_width) * 0.02)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Time,
        conditional: Bool[Tensor, " b"],
        source: Float[Tensor, "b n d"],
        mask: Bool[Tensor, "b n"] | None,
    ) -> Float[Tensor, "b c h w"]:
        """The velocity at full resolution, given token embeddings and their mask."""
        return self.velocities(x, t, conditional, source, mask)[-1]

    def velocities(
        self,
        x: Float[Tensor, "b c h w"],
        t: Time,
        conditional: Bool[Tensor, " b"],
        source: Float[Tensor, "b n d"],
        mask: Bool[Tensor, "b n"] | None,
    ) -> tuple[Float[Tensor, "b c _ _"], ...]:
        """One velocity per stage, given token embeddings and their mask."""
        real = conditional.new_ones(source.shape[:2]) if mask is None else mask
        context = torch.cat([self.empty.expand(len(source), -1, -1), source.to(self.empty.dtype)], dim=1)
        seen = torch.cat([~conditional[:, None], real & conditional[:, None]], dim=1)
        return self.dimr.given(x, t, conditional, context, seen)


class StageNetwork(nn.Module):
    """One stage: blocks with U-shaped long skip connections, from the first half to the second."""

    def __init__(
        self, stage: Stage, shape: tuple[int, int, int], below: Stage | None, context_width: int | None = None
    ) -> None:
        super().__init__()
        channels, rows, columns = shape
        width, patch = stage.width, stage.patch
        if rows % patch or columns % patch:
            raise CrossFlowError(f"Latents of {rows} x {columns} do not divide into patches of side {patch}.")
        self.input_layer = nn.Sequential(
            nn.Identity(),
            nn.Conv2d(channels, width, patch, patch),
            ToPlaces(),
            Positions(rows // patch, columns // patch, width),
        )
        self.upsample = None
        if below is not None:
            self.upsample = Upsample((below.depth + 1) * below.width, width, below.patch // patch)
        self.indicated = stage.block == "transformer"
        if self.indicated:
            self.tensor_true = nn.Parameter(torch.full((1,), -1.0))  # unconditional
            self.tensor_false = nn.Parameter(torch.full((1,), 1.0))  # conditional
        self.blocks = nn.ModuleList(Block(stage, context_width) for _ in range(stage.depth))
        self.skip_denses = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(stage.depth // 2))
        self.output_layer = Output(width, channels)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Time,
        conditional: Bool[Tensor, " b"],
        below: list[Tensor],
        checkpointing: bool,
        *context: Tensor,
    ) -> tuple[list[Tensor], Float[Tensor, "b c _ _"]]:
        """The features, each [b h/patch w/patch width], and the velocity, given the features of the stage ``below``."""
        places = self.input_layer(x)
        if self.upsample is not None:
            places = places + recompute(checkpointing, self.upsample, t, *below)
        features = self._features(self._sequence(places, conditional), t, checkpointing, *context)
        if self.indicated:
            features = [feature[:, 1:].unflatten(1, places.shape[1:3]) for feature in features]
        return features, self.output_layer(features[-1], t)

    def _sequence(self, places: Float[Tensor, "b h w d"], conditional: Bool[Tensor, " b"]) -> Tensor:
        """For a transformer, flatten the positions and prepend the indicator token."""
        if not self.indicated:
            return places
        indicator = torch.where(conditional, self.tensor_false, self.tensor_true)[:, None, None]
        return torch.cat([indicator.expand(-1, 1, places.shape[-1]), places.flatten(1, 2)], dim=1)

    def _features(self, x: Tensor, t: Time, checkpointing: bool, *context: Tensor) -> list[Tensor]:
        """The residual stream before the first block and after every block."""
        features, half = [x], len(self.skip_denses)
        for i, block in enumerate(self.blocks):
            if i > half:
                x = self.skip_denses[i - half - 1](torch.cat([x, features[2 * half + 1 - i]], dim=-1))
            x = recompute(checkpointing, block, x, t, *context)
            features.append(x)
        return features


class Block(nn.Module):
    """x + mixing(x), by self-attention or a depthwise convolution, then x + MLP(x).

    With ``context_width`` a transformer block has cross-attention after self-attention.
    """

    def __init__(self, stage: Stage, context_width: int | None = None) -> None:
        super().__init__()
        width, kernel = stage.width, stage.kernel
        self.attends = stage.block == "transformer"
        self.block1 = (
            Attention(width, stage.heads)
            if self.attends
            else nn.Sequential(ToMaps(), nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width), ToPlaces())
        )
        attends = self.attends and context_width is not None
        self.cross = CrossAttention(width, stage.heads, context_width or 0) if attends else None
        self.block2 = GatedMLP(width, stage.hidden)

    def forward(self, x: Float[Tensor, "b *places d"], t: Time, *context: Tensor) -> Float[Tensor, "b *places d"]:
        """x is [b n d] in a transformer, [b h w d] in a ConvNeXt."""
        x = x + (self.block1(x, t) if self.attends else self.block1(x))
        if self.cross is not None:
            x = x + self.cross(x, t, *context)
        return x + self.block2(x, t)


class Attention(nn.Module):
    """Pre-norm self-attention, without the residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = TimeRMSNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.dense = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n d"], t: Time) -> Float[Tensor, "b n d"]:
        return self.dense(self_attend(self.query_key_value(self.norm(x, t)), self.heads))


class CrossAttention(nn.Module):
    """Pre-norm cross-attention, without the residual; keys where ``seen`` is False are ignored."""

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = TimeRMSNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(context_width, 2 * width, bias=False)
        self.dense = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "b n d"], t: Time, context: Float[Tensor, "b m e"], seen: Bool[Tensor, "b m"]
    ) -> Float[Tensor, "b n d"]:
        query = self.query(self.norm(x, t)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.dense(attend(query, key, value, seen[:, None, None, :]).transpose(1, 2).flatten(2))


class GatedMLP(nn.Module):
    """Pre-norm gated MLP, w2 (GELU(w0 x) * w1 x), without the residual."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = TimeRMSNorm(width)
        self.w0 = nn.Linear(width, hidden)
        self.w1 = nn.Linear(width, hidden)
        self.w2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "b *places d"], t: Time) -> Float[Tensor, "b *places d"]:
        x = self.norm(x, t)
        return self.w2(F.gelu(self.w0(x)) * self.w1(x))


class Upsample(nn.ModuleList):
    """All features of the stage below, concatenated, brought to this stage's resolution and width."""

    def __init__(self, inputs: int, width: int, ratio: int) -> None:
        super().__init__([TimeLayerNorm(inputs), PixelShuffle(inputs, width, ratio), TimeLayerNorm(width)])

    def forward(self, t: Time, *below: Float[Tensor, "b h w _"]) -> Float[Tensor, "b high wide d"]:
        norm_below, shuffle, norm = self
        return norm(shuffle(norm_below(torch.cat(below, dim=-1), t)), t)


class Output(nn.ModuleList):
    """Velocity from the last features, in at least float32: norm, then a 3 x 3 convolution."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__([TimeLayerNorm(width), ToMaps(), nn.Conv2d(width, channels, 3, padding=1)])

    def forward(self, x: Float[Tensor, "b h w d"], t: Time) -> Float[Tensor, "b c h w"]:
        norm, to_maps, convolution = self
        return at_least_float32(convolution(to_maps(norm(x, t))))


class Positions(nn.Module):
    """Adds learned position embeddings, row by row."""

    def __init__(self, rows: int, columns: int, width: int) -> None:
        super().__init__()
        self.sides = (rows, columns)
        self.position_embeddings = nn.Embedding(rows * columns, width)

    def forward(self, x: Float[Tensor, "b h w d"]) -> Float[Tensor, "b h w d"]:
        return x + self.position_embeddings.weight.unflatten(0, self.sides)


class PixelShuffle(nn.Module):
    """One linear map from each position to the ``ratio`` x ``ratio`` positions that replace it."""

    def __init__(self, inputs: int, width: int, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.kernel = nn.Linear(inputs, ratio * ratio * width)

    def forward(self, x: Float[Tensor, "b h w e"]) -> Float[Tensor, "b high wide d"]:
        """The outputs of the linear map are ordered (row, column, channel)."""
        x = self.kernel(x).unflatten(-1, (self.ratio, self.ratio, -1))
        return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class ToPlaces(nn.Module):
    """[b d h w] -> [b h w d]."""

    def forward(self, maps: Float[Tensor, "b d h w"]) -> Float[Tensor, "b h w d"]:
        """Contiguous, because the layers that follow work along channels."""
        return maps.permute(0, 2, 3, 1).contiguous()


class ToMaps(nn.Module):
    """[b h w d] -> [b d h w]."""

    def forward(self, places: Float[Tensor, "b h w d"]) -> Float[Tensor, "b d h w"]:
        """A view in memory format channels_last."""
        return places.permute(0, 3, 1, 2)


def _initialise(module: nn.Module) -> None:
    """Linear layers and positions truncated-normal with sd 0.02, biases zero; convolutions keep PyTorch's default."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
