"""Depth maps as latents: the logarithm of depth, with nothing learned."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from crossflow.errors import CrossFlowError


@dataclass(frozen=True, kw_only=True)
class DepthConfig:
    """Latents are the logarithm of depth: ``nearest`` metres is -1, ``farthest`` (and all beyond, as the sky) is 1."""

    nearest: float = 1.5
    farthest: float = 80.0
    kind: Literal["depth"] = "depth"

    def __post_init__(self) -> None:
        if not 0 < self.nearest < self.farthest < math.inf:
            raise CrossFlowError(
                f"nearest and farthest are {self.nearest} and {self.farthest} metres; give 0 < nearest < farthest."
            )


class LogDepth(nn.Module):
    """Depth maps [b h w] in metres to latents [b 1 h w] and back."""

    def __init__(self, config: DepthConfig) -> None:
        super().__init__()
        self.nearest, self.farthest = config.nearest, config.farthest

    def encode(self, depth: Float[Tensor, "b h w"]) -> Float[Tensor, "b 1 h w"]:
        """2 log(d / nearest) / log(farthest / nearest) - 1, of depths clipped to that range; inf is the farthest."""
        relative = (depth.clamp(self.nearest, self.farthest) / self.nearest).log()
        return (2 * relative / math.log(self.farthest / self.nearest) - 1)[:, None]

    def decode(self, latents: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b h w"]:
        """Metres, within the range."""
        relative = (latents[:, 0].clamp(-1, 1) + 1) / 2 * math.log(self.farthest / self.nearest)
        return self.nearest * relative.exp()


def grey(depth: np.ndarray, nearest: float = 1.5, farthest: float = 80.0) -> np.ndarray:
    """A depth map [h w] in metres as an image to look at, uint8 [h w 3]: the nearer the lighter, by the logarithm."""
    share = np.log(np.clip(depth, nearest, farthest) / nearest) / np.log(farthest / nearest)
    return np.repeat(np.rint(255 * (1 - share)).astype(np.uint8)[..., None], 3, axis=2)
