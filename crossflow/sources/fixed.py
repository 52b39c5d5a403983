"""An encoder's mean as the source: as it is, or with noise of a fixed deviation about it.

The paper's Table 3a compares these with the Variational Encoder: "Encoder" (FID 66.65) and "Encoder + noise" (59.91),
the noise "in the manner of CFM" (arXiv 2312.07360) at a level that it does not state.
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
    """The mean that the encoder ``mean_of`` gives, without any variance; its log-variance is not used."""

    mean_of: EncoderConfig
    kind: Literal["deterministic"] = "deterministic"
    variance: ClassVar[str] = "none"

    @property
    def accepts(self) -> str:
        """The kind of data that it reads."""
        return self.mean_of.accepts

    def build(self, reads: tuple[int, ...], shape: tuple[int, int, int]) -> "FixedVariance":
        """The source of data of the shape ``reads``, for latents of ``shape`` (c, h, w)."""
        return FixedVariance(self.mean_of.build(reads, shape), sd=0.0)


@dataclass(frozen=True, kw_only=True)
class FixedNoiseConfig:
    """The mean that the encoder ``mean_of`` gives, and noise of the standard deviation ``sd`` about it."""

    mean_of: EncoderConfig
    sd: float
    kind: Literal["fixed-noise"] = "fixed-noise"
    variance: ClassVar[str] = "fixed"

    def __post_init__(self) -> None:
        if not 0 < self.sd < math.inf:
            raise CrossFlowError(f"sd is {self.sd}; it must be a finite number above 0 (none is kind deterministic).")

    @property
    def accepts(self) -> str:
        """The kind of data that it reads."""
        return self.mean_of.accepts

    def build(self, reads: tuple[int, ...], shape: tuple[int, int, int]) -> "FixedVariance":
        """The source of data of the shape ``reads``, for latents of ``shape`` (c, h, w)."""
        return FixedVariance(self.mean_of.build(reads, shape), self.sd)


class FixedVariance(nn.Module):
    """The mean of an encoder, with one standard deviation for every number of every item."""

    def __init__(self, encoder: nn.Module, sd: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.log_var = 2 * math.log(sd) if sd else -math.inf

    def forward(self, values: Float[Tensor, "b *dims"], mask: Bool[Tensor, "b n"] | None) -> Gaussian:
        """What the encoder answers, its variance replaced."""
        mean = self.encoder(values, mask).mean
        return Gaussian(mean, torch.full_like(mean, self.log_var))
