"""From tokens to the mean and log-variance of latents: the network of the variational and text-autoencoder encoders.

Differences from the paper: blocks are pre-norm, and besides the paper's ``flat`` readout (flatten all tokens, one
linear layer to the whole latent) there is ``grid``: one learned query token per latent position joins the sequence and
is projected to the mean and log-variance of that position. The head of ``grid`` does not grow with the latent, and each
position can attend to the words that it needs.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from crossflow.errors import CrossFlowError
from crossflow.networks.blocks import Block, at_least_float32, check_sizes, initialise
from crossflow.networks.whitening import embedding


@dataclass(frozen=True, kw_only=True)
class TokenEncoderConfig:
    """Sizes of a text encoder, and the readout from its tokens to latents.

    ``whitened`` is whether tokens are before all else (see ``Whitening``).
    """

    width: int
    depth: int
    heads: int
    readout: Literal["grid", "flat"] = "grid"
    whitened: bool = False

    def __post_init__(self) -> None:
        check_sizes(width=self.width, depth=self.depth, heads=self.heads)
        if self.readout not in ("grid", "flat"):
            raise CrossFlowError(f"readout is {self.readout!r}; it must be 'grid' or 'flat'.")


class TokenEncoder(nn.Module):
    """Tokens [b n d] with their mask [b n] -> mean and log-variance of latents of ``shape`` (c, h, w).

    n is ``token_count``, the padded length, and d is ``token_width``.
    """

    def __init__(
        self, config: TokenEncoderConfig, shape: tuple[int, int, int], token_count: int, token_width: int
    ) -> None:
        super().__init__()
        self.shape = shape
        self.readout = config.readout
        channels, height, width = shape
        self.embed = embedding(token_width, config.width, config.whitened)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        if config.readout == "grid":
            self.places = nn.Parameter(torch.randn(1, height * width, config.width) * 0.5)
            self.head = nn.Linear(config.width, 2 * channels)
        else:
            self.head = nn.Linear(token_count * config.width, 2 * channels * height * width)
        self.apply(initialise)
        with torch.no_grad():
            self.head.weight.mul_(0.3)  # starts near N(0, 1): mean and log-variance have sd about 0.3

    def moments(
        self, tokens: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """Mean and log-variance. Padding is never attended to, and the ``flat`` readout sets it to zero."""
        x = self.embed(tokens)
        b, (channels, height, width) = x.shape[0], self.shape
        if self.readout == "grid":
            places = self.places.expand(b, -1, -1)
            x = torch.cat([places, x], dim=1)
            mask = torch.cat([mask.new_ones(b, places.shape[1]), mask], dim=1)
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        if self.readout == "grid":
            moments = self.head(x[:, : height * width]).transpose(1, 2)
        else:
            moments = self.head((x * mask[..., None]).flatten(1))
        mean, log_var = at_least_float32(moments).reshape(b, 2, channels, height, width).unbind(1)
        return mean, log_var
