"""Principal components of patches: the codec of whatever can be laid out as planes of numbers [h w k].

A kind of data says in a class of its own how it becomes planes and comes of them; all else is here. The codec is
linear, exact up to the components left out, and fitted in seconds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.modalities.modality import Modality
from crossflow.networks.blocks import check_sizes


@dataclass(frozen=True, kw_only=True)
class ComponentsConfig:
    """``components`` principal components for every ``patch`` x ``patch`` patch of ``channels`` planes.

    ``power`` 0 keeps the ratios of the components' variances, ``power`` 1 whitens them. ``sd`` is the standard
    deviation of the latents; a small one moves the times at which the flow decides on content towards the middle of
    the path.
    """

    patch: int = 8
    components: int
    power: float = 0.5
    sd: float = 1.0
    channels: ClassVar[int]
    drawn: ClassVar[bool] = False
    external: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_sizes(patch=self.patch, components=self.components)
        if not 0 < self.sd < math.inf:
            raise CrossFlowError(f"sd is {self.sd}; it must be a finite number above 0.")
        if self.components > self.width:
            raise CrossFlowError(
                f"components is {self.components}, but a patch of side {self.patch} has only {self.width}."
            )

    @property
    def width(self) -> int:
        """Numbers in a patch."""
        return self.channels * self.patch**2

    def check(self, shape: tuple[int, int, int]) -> None:
        """CrossFlowError if the channels of latents of ``shape`` (c, h, w) are not the components."""
        if shape[0] != self.components:
            raise CrossFlowError(f"There are {self.components} components, and the latents {list(shape)} have others.")


class PatchComponents(Modality):
    """PCA of patches. The fitted mean, basis and scale are buffers, so they are saved in a model's checkpoint.

    A subclass gives ``planes`` and ``raw``, each other's inverse up to rounding, and ``noun``, its data in the plural.
    """

    fits = True
    noun: ClassVar[str]
    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, config: ComponentsConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(config.width))
        self.register_buffer("basis", torch.zeros(config.width, config.components))
        self.register_buffer("scale", torch.ones(config.components))

    def planes(self, raw: Tensor) -> Float[Tensor, "b h w k"]:
        """Raw data as planes of numbers around 0, of the dtype of the mean."""
        raise NotImplementedError

    def raw(self, planes: Float[Tensor, "b h w k"]) -> Tensor:
        """The raw data that are nearest to planes."""
        raise NotImplementedError

    def fit(self, raw: Tensor) -> None:
        """Fit mean, basis and scale to raw data, in float64."""
        patches = self._patches(raw).double().reshape(-1, len(self.mean))
        mean = patches.mean(0)
        centred = patches - mean
        variance, basis = torch.linalg.eigh(centred.T @ centred / (len(patches) - 1))
        variance = variance.flip(0)[: self.config.components].clamp(min=1e-12)
        basis = basis.flip(1)[:, : self.config.components]
        basis = basis * _signs(basis)
        scale = variance.pow(self.config.power / 2)
        scale = scale * (variance / scale.square()).mean().sqrt() / self.config.sd
        self.mean.copy_(mean)
        self.basis.copy_(basis)
        self.scale.copy_(scale)

    def prepare(self, raw: Sequence[np.ndarray]) -> Float[Tensor, "b c i j"]:
        return self.encode(torch.from_numpy(np.stack(raw)))

    def encode(self, raw: Tensor) -> Float[Tensor, "b c i j"]:
        """One cell per patch; the standard deviation is ``sd`` on average over the data it was fitted to."""
        patches = self._patches(raw).to(self.mean)
        return ((patches - self.mean) @ self.basis / self.scale).permute(0, 3, 1, 2).contiguous()

    def decode(self, latents: Float[Tensor, "b c i j"]) -> Tensor:
        """Raw data."""
        patches = (latents.permute(0, 2, 3, 1) * self.scale) @ self.basis.T + self.mean
        b, rows, columns, _ = patches.shape
        side = self.config.patch
        planes = patches.reshape(b, rows, columns, side, side, self.config.channels).transpose(2, 3)
        return self.raw(planes.reshape(b, rows * side, columns * side, self.config.channels))

    def _patches(self, raw: Tensor) -> Tensor:
        planes = self.planes(raw)
        b, height, width, k = planes.shape
        side = self.config.patch
        if height % side or width % side:
            raise CrossFlowError(f"{self.noun} of {height} x {width} do not divide into patches of side {side}.")
        planes = planes.reshape(b, height // side, side, width // side, side, k).transpose(2, 3)
        return planes.reshape(b, height // side, width // side, -1)


def _signs(basis: Tensor) -> Tensor:
    """Signs that make the largest entry of each column positive, so that a fit is the same on every machine."""
    return basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()
