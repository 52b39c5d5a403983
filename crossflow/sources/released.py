"""The Text Variational Encoder of the authors' code, with its convolutional head at 512 pixels.

Post-norm transformer layers without positions, then ``reductions`` layers that each halve the width. All tokens,
padding included, are flattened and mapped to the mean and log-variance of every latent cell. Attributes are named as
in the authors' files, so ``context_encoder.`` there is ``encoder.`` here. T5 embeddings are expected times 10, as the
authors scale them.

The paper has transformer blocks and one linear projection. The authors' code, and so this module, adds the halving
layers and the convolutional head.
"""

import copy
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from crossflow.errors import CrossFlowError
from crossflow.flow.gaussian import Gaussian
from crossflow.networks.adaptor import Adaptor
from crossflow.networks.blocks import at_least_float32, attend, check_sizes


@dataclass(frozen=True, kw_only=True)
class ReleasedEncoderConfig:
    """Sizes of the released text encoder.

    ``depth`` layers of ``width`` channels precede the ``reductions``; every MLP has the width ``hidden``. With
    ``compress`` a small MLP first projects the tokens to ``width``; else they must have that width. ``adaptor`` is the
    hidden width and the two channel counts of an ``Adaptor`` as the head; None is a linear head.
    """

    width: int
    depth: int
    hidden: int
    heads: int = 8
    reductions: int = 3
    compress: bool = False
    adaptor: tuple[int, int, int] | None = None
    dropout: float = 0.1
    kind: Literal["released"] = "released"
    accepts: ClassVar[str] = "tokens"
    variance: ClassVar[str] = "learned"

    def __post_init__(self) -> None:
        check_sizes(width=self.width, depth=self.depth, hidden=self.hidden, heads=self.heads)
        check_sizes(reductions=1 + self.reductions)
        if self.adaptor is not None:
            check_sizes(**dict(zip(("adaptor_hidden", "adaptor_first", "adaptor_second"), self.adaptor, strict=True)))
        if self.width % 2**self.reductions or any(width % self.heads for width in (self.width, *self.widths[:-1])):
            raise CrossFlowError(
                f"width {self.width} does not halve {self.reductions} times into widths for {self.heads} heads."
            )
        if not 0 <= self.dropout < 1:
            raise CrossFlowError(f"dropout is {self.dropout}; it must be at least 0 and below 1.")

    def build(self, reads: tuple[int, ...], shape: tuple[int, int, int]) -> "ReleasedEncoder":
        """The encoder from tokens of shape ``reads`` (n, d) to latents of ``shape`` (c, h, w)."""
        count, width = reads
        return ReleasedEncoder(self, shape, count, width)

    @property
    def widths(self) -> list[int]:
        """The width before each reduction and after the last."""
        return [self.width >> i for i in range(self.reductions + 1)]


class ReleasedEncoder(nn.Module):
    """Text tokens [b n d] with their mask [b n] -> Gaussian over latents of ``shape`` (c, h, w).

    n is always ``token_count``, and d is ``token_width``. Dropout, in training, draws from PyTorch's global generator.
    """

    def __init__(
        self, config: ReleasedEncoderConfig, shape: tuple[int, int, int], token_count: int, token_width: int
    ) -> None:
        super().__init__()
        self.shape, self.reads = shape, (token_count, token_width)
        if not config.compress and token_width != config.width:
            raise CrossFlowError(
                f"Tokens are {token_width} wide and the encoder {config.width}: make these equal, or set compress."
            )
        *widths, last = config.widths
        inputs, moments = token_count * last, 2 * math.prod(shape)
        self.compressor = Compressor(token_width, config.width) if config.compress else nn.Identity()
        template = Layer(config.width, config)
        self.layers = nn.ModuleList(copy.deepcopy(template) for _ in range(config.depth))
        self.reduction_layers = nn.ModuleList(ReductionLayer(width, config) for width in widths)
        self.linear = nn.Identity() if config.adaptor else nn.Linear(inputs, moments)
        self.adaptor = nn.Identity()
        if config.adaptor:
            channels, rows, columns = shape
            if rows != columns:
                raise CrossFlowError(f"Latents are {rows} x {columns}, and an adaptor makes squares: set it to None.")
            hidden, first, second = config.adaptor
            self.adaptor = Adaptor(inputs, 2 * channels, rows, hidden, (first, second))

    def forward(self, tokens: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Gaussian:
        """Padding is never attended to, but its outputs are part of the head's input.

        Every text has at least one token that is not padding. CrossFlowError for tokens of another count or width.
        """
        if tokens.shape[1:] != self.reads:
            raise CrossFlowError(
                f"A text came as {' x '.join(map(str, tokens.shape[1:]))} numbers, but this model reads"
                f" {' x '.join(map(str, self.reads))}: give the language model that it was trained with."
            )
        x = self.compressor(tokens.to(next(self.parameters()).dtype))
        for layer in (*self.layers, *self.reduction_layers):
            x = layer(x, mask)
        moments = at_least_float32(self.adaptor(self.linear(x.flatten(1))))
        mean, log_var = moments.reshape(-1, 2, *self.shape).unbind(1)
        return Gaussian(mean, log_var)


class Compressor(nn.Module):
    """Linear, norm, ReLU, linear: projects wide token embeddings to the width of the encoder."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, width)
        self.ln_fc1 = nn.LayerNorm(width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "b n e"]) -> Float[Tensor, "b n d"]:
        return self.fc2(F.relu(self.ln_fc1(self.fc1(tokens))))


class Layer(nn.Module):
    """A post-norm transformer layer: norm(x + attention(x)), then norm(x + MLP(x))."""

    def __init__(self, width: int, config: ReleasedEncoderConfig) -> None:
        super().__init__()
        self.attn = Attention(width, config.heads, config.dropout)
        self.feed_forward = FeedForward(width, config.hidden, config.dropout)
        self.norm1 = Norm(width)
        self.norm2 = Norm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n e"]:
        x = self.norm1(x + self.dropout(self.attn(x, mask)))
        return self.norm2(x + self.dropout(self.feed_forward(x)))


class ReductionLayer(Layer):
    """A layer followed by a projection to half the width."""

    def __init__(self, width: int, config: ReleasedEncoderConfig) -> None:
        super().__init__(width, config)
        self.reduction = nn.Linear(width, width // 2)

    def forward(self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n e"]:
        return self.reduction(super().forward(x, mask))


class Attention(nn.Module):
    """Multi-head self-attention with attention dropout; keys where ``mask`` is False are ignored."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.W_Q = nn.Linear(width, width)
        self.W_K = nn.Linear(width, width)
        self.W_V = nn.Linear(width, width)
        self.W_O = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.W_Q, self.W_K, self.W_V)
        )
        dropout = self.dropout if self.training else 0.0
        attended = attend(query, key, value, mask[:, None, None, :], dropout)
        return self.W_O(attended.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers around ReLU and dropout."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.ffn_1 = nn.Linear(width, hidden)
        self.ffn_2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.ffn_2(self.dropout(F.relu(self.ffn_1(x))))


class Norm(nn.Module):
    """g (x - mean) / (sd + 1e-5) + b, with the unbiased sd; unlike LayerNorm, 1e-5 is outside the root."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(width))
        self.b = nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Computed in at least float32; the output has the dtype of the weights."""
        x = at_least_float32(x)
        sd, mean = torch.std_mean(x, dim=-1, keepdim=True)
        return (self.g * (x - mean) / (sd + 1e-5) + self.b).to(self.g.dtype)
