"""Depth maps as latents: the logarithm of metres, as it is or by patches, or depth relative to its own range.

A depth map may have NaN where nothing was measured; its latents have it there, too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.files.depth_maps import METRES
from crossflow.modalities.components import ComponentsConfig, PatchComponents
from crossflow.modalities.modality import Modality


@dataclass(frozen=True, kw_only=True)
class DepthConfig:
    """Latents are the logarithm of depth: ``nearest`` metres is -1, ``farthest`` (and all beyond, as the sky) is 1."""

    nearest: float = 1.5
    farthest: float = 80.0
    name: Literal["depth"] = "depth"
    kind: Literal["depth"] = "depth"
    drawn: ClassVar[bool] = False
    external: ClassVar[bool] = False

    def build(self, shape: tuple[int, int, int]) -> "LogDepth":
        """The modality for latents of ``shape`` (1, h, w); CrossFlowError for more channels."""
        if shape[0] != 1:
            raise CrossFlowError(f"The latent of a depth map has one channel, and the shape is {list(shape)}.")
        return LogDepth(self)

    def __post_init__(self) -> None:
        if not 0 < self.nearest < self.farthest < math.inf:
            raise CrossFlowError(
                f"nearest and farthest are {self.nearest} and {self.farthest} metres; give 0 < nearest < farthest."
            )


class LogDepth(Modality):
    """Depth maps [b h w] in metres to latents [b 1 h w] and back."""

    unit = METRES

    def __init__(self, config: DepthConfig) -> None:
        super().__init__()
        self.nearest, self.farthest = config.nearest, config.farthest

    def prepare(self, raw: Sequence[np.ndarray]) -> Float[Tensor, "b 1 h w"]:
        return self.encode(torch.from_numpy(np.stack(raw)))

    def encode(self, depth: Float[Tensor, "b h w"]) -> Float[Tensor, "b 1 h w"]:
        """2 log(d / nearest) / log(farthest / nearest) - 1, with d clipped to that range; inf becomes the farthest."""
        relative = (depth.clamp(self.nearest, self.farthest) / self.nearest).log()
        return (2 * relative / math.log(self.farthest / self.nearest) - 1)[:, None]

    def decode(self, latents: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b h w"]:
        """Depth in metres, within the range."""
        relative = (latents[:, 0].clamp(-1, 1) + 1) / 2 * math.log(self.farthest / self.nearest)
        return self.nearest * relative.exp()


SKY = 0.95
"""The latent of ``LogDepth`` from which on a decoded pixel is the sky; that of the sky itself is 1."""


@dataclass(frozen=True, kw_only=True)
class PatchDepthConfig(ComponentsConfig):
    """Principal components of patches of the logarithm of depth, which is that of ``DepthConfig()``."""

    components: int = 24
    name: Literal["depth"] = "depth"
    kind: Literal["depth-pca"] = "depth-pca"
    channels: ClassVar[int] = 1

    def build(self, shape: tuple[int, int, int]) -> "PatchDepth":
        """The modality for latents of ``shape``; CrossFlowError if the channels are not the components."""
        self.check(shape)
        return PatchDepth(self)


class PatchDepth(PatchComponents):
    """Depth maps [b h w] in metres, inf in the sky, to latents [b c h/8 w/8] and back."""

    noun = "Depth maps"
    unit = METRES

    def __init__(self, config: PatchDepthConfig) -> None:
        super().__init__(config)
        self._logarithm = LogDepth(DepthConfig())

    def planes(self, raw: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w 1"]:
        return self._logarithm.encode(raw.to(self.mean.dtype)).movedim(1, 3)

    def raw(self, planes: Float[Tensor, "b h w 1"]) -> Float[Tensor, "b h w"]:
        depth = self._logarithm.decode(planes.movedim(3, 1))
        return depth.where(planes[..., 0] < SKY, math.inf).float()


@dataclass(frozen=True, kw_only=True)
class RelativeDepthConfig:
    """Latents are depth up to scale and shift, as in Marigold (Ke et al. 2024).

    The quantile ``tail`` of the measured depths of an image is -1, the quantile 1 - ``tail`` is 1, linearly, and what
    lies beyond is clipped.
    """

    tail: float = 0.02
    name: Literal["depth"] = "depth"
    kind: Literal["relative-depth"] = "relative-depth"
    drawn: ClassVar[bool] = False
    external: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.tail < 0.5:
            raise CrossFlowError(f"tail is {self.tail}; it is a share of the depths, from 0 to below a half.")

    def build(self, shape: tuple[int, int, int]) -> "RelativeDepth":
        """The modality for latents of ``shape`` (1, h, w); CrossFlowError for more channels."""
        if shape[0] != 1:
            raise CrossFlowError(f"The latent of a depth map has one channel, and the shape is {list(shape)}.")
        return RelativeDepth(self)


class RelativeDepth(Modality):
    """Depth maps [b h w] to latents [b 1 h w], and back to relative depth: 0 is nearest, 100 is farthest."""

    unit = "relative: 0 is nearest, 100 is farthest"

    def __init__(self, config: RelativeDepthConfig) -> None:
        super().__init__()
        self.tail = config.tail

    def prepare(self, raw: Sequence[np.ndarray]) -> Float[Tensor, "b 1 h w"]:
        return torch.stack([self._normalised(torch.from_numpy(depth)) for depth in raw])

    def _normalised(self, depth: Float[Tensor, "h w"]) -> Float[Tensor, "1 h w"]:
        """2 (d - near) / (far - near) - 1, clipped; a map of one depth is 0."""
        near, far = np.nanquantile(depth.numpy().astype(np.float64), (self.tail, 1 - self.tail)).tolist()
        if far == near:
            return torch.where(depth.isnan(), depth, 0.0)[None]
        return (2 * (depth - near) / (far - near) - 1).clamp(-1, 1)[None]

    def decode(self, latents: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b h w"]:
        """Relative depth, from 0 to 100."""
        return 50 * (latents[:, 0].clamp(-1, 1) + 1)


def grey(depth: np.ndarray, nearest: float = 1.5, farthest: float = 80.0) -> np.ndarray:
    """A depth map [h w] in metres as a grey image, uint8 [h w 3]: lighter is nearer, on a logarithmic scale."""
    share = np.log(np.clip(depth, nearest, farthest) / nearest) / np.log(farthest / nearest)
    return np.repeat(np.rint(255 * (1 - share)).astype(np.uint8)[..., None], 3, axis=2)
