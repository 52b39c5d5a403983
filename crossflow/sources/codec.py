"""Latents of another modality's codec as the source, with Gaussian noise of fixed standard deviation."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossflow.errors import CrossFlowError
from crossflow.flow.gaussian import Gaussian


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """The latents that are read, with Gaussian noise of standard deviation ``sd``; 0 is no noise."""

    sd: float = 0.0
    kind: Literal["codec"] = "codec"
    accepts: ClassVar[str] = "latents"

    def __post_init__(self) -> None:
        if not 0 <= self.sd < math.inf:
            raise CrossFlowError(f"sd is {self.sd}; it must be a finite number of at least 0.")

    @property
    def variance(self) -> str:
        return "fixed" if self.sd else "none"

    def build(self, reads: tuple[int, ...], shape: tuple[int, int, int]) -> "CodecSource":
        """The source; CrossFlowError if the latents that are read do not have the target's ``shape``."""
        if reads != shape:
            raise CrossFlowError(
                f"Latents {list(reads)} are read, and the target's are {list(shape)}: make them equal."
            )
        return CodecSource(self)


class CodecSource(nn.Module):
    """Latents [b c h w] -> a Gaussian with these as the mean."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.log_var = 2 * math.log(config.sd) if config.sd else -math.inf

    def forward(self, values: Float[Tensor, "b c h w"], mask: None = None) -> Gaussian:
        """Latents have no padding, so ``mask`` is None."""
        return Gaussian(values, torch.full_like(values, self.log_var))
