"""The mean of an encoder as the source: deterministic, or with Gaussian noise of fixed standard deviation.

The paper's Table 3a compares these with the Variational Encoder: "Encoder" (FID 66.65) and "Encoder + noise" (59.91).
The noise is "in the manner of CFM" (arXiv 2312.07360), at a level that the paper does not state.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from crossflow.errors import CrossFlowError
from crossflow.flow.gaussian import Gaussian
from crossflow.sources.image import ImageEncoderConfig
from crossflow.sources.released import ReleasedEncoderConfig
from crossflow.sources.variational import VariationalConfig

EncoderConfig = Annotated[VariationalConfig | ReleasedEncoderConfig | ImageEncoderConfig, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True)
class DeterministicConfig:
    """The mean of the encoder ``mean_of``, without variance; the encoder's log-variance is unused."""

    mean_of: EncoderConfig
    kind: Literal["deterministic"] = "deterministic"
    variance: ClassVar[str] = "none"

    @property
    def accepts(self) -> str:
        return self.mean_of.accepts

    def build(self, reads: tuple[int, ...], shape: tuple[int, int, int]) -> "FixedVariance":
        """The source for data of shape ``reads`` and latents of ``shape`` (c, h, w)."""
        return FixedVariance(self.mean_of.build(reads, shape), sd=0.0)


@dataclass(frozen=True, kw_only=True)
class FixedNoiseConfig:
    """The mean of the encoder ``mean_of``, with Gaussian noise of standard deviation ``sd``."""

    mean_of: EncoderConfig
    sd: float
    kind: Literal["fixed-noise"] = "fixed-noise"
    variance: ClassVar[str] = "fixed"

    def __post_init__(self) -> None:
        if not 0 < self.sd < math.inf:
            raise CrossFlowError(f"sd is {self.sd}; it must be a finite number above 0 (none is kind deterministic).")

    @property
    def accepts(self) -> str:
        return self.mean_of.accepts

    def build(self, reads: tuple[int, ...], shape: tuple[int, int, int]) -> "FixedVariance":
        """The source for data of shape ``reads`` and latents of ``shape`` (c, h, w)."""
        return FixedVariance(self.mean_of.build(reads, shape), self.sd)


class FixedVariance(nn.Module):
    """The mean of an encoder, with the same standard deviation in every dimension of every item."""

    def __init__(self, encoder: nn.Module, sd: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.log_var = 2 * math.log(sd) if sd else -math.inf

    def forward(self, values: Float[Tensor, "b *dims"], mask: Bool[Tensor, "b n"] | None) -> Gaussian:
        mean = self.encoder(values, mask).mean
        return Gaussian(mean, torch.full_like(mean, self.log_var))
