"""Images as principal components of their patches: the image latents of the embedded world."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.modalities.modality import Modality
from crossflow.networks.blocks import check_sizes


@dataclass(frozen=True, kw_only=True)
class PatchPCAConfig:
    """``components`` principal components for every ``patch`` x ``patch`` RGB patch.

    ``power`` 0 keeps the ratios of the components' variances, ``power`` 1 whitens them. ``sd`` is the standard
    deviation of the latents; a small one moves the times at which the flow decides on content towards the middle of
    the path.
    """

    patch: int = 8
    components: int = 48
    power: float = 0.5
    sd: float = 1.0
    name: Literal["image"] = "image"
    kind: Literal["patch-pca"] = "patch-pca"
    drawn: ClassVar[bool] = False
    external: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_sizes(patch=self.patch, components=self.components)
        if not 0 < self.sd < math.inf:
            raise CrossFlowError(f"sd is {self.sd}; it must be a finite number above 0.")
        if self.components > 3 * self.patch**2:
            raise CrossFlowError(
                f"components is {self.components}, but a patch of side {self.patch} has only {3 * self.patch**2}."
            )

    def build(self, shape: tuple[int, int, int]) -> "PatchPCA":
        """The modality for latents of ``shape``; CrossFlowError if the channels are not the components."""
        if shape[0] != self.components:
            raise CrossFlowError(f"There are {self.components} components, and the latents {list(shape)} have others.")
        return PatchPCA(self)


class PatchPCA(Modality):
    """PCA of image patches: linear, exact up to the components left out, fitted in seconds.

    The fitted mean, basis and scale are buffers, so they are saved in the checkpoint of the model.
    """

    fits = True
    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, config: PatchPCAConfig) -> None:
        super().__init__()
        self.config = config
        width = 3 * config.patch**2
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("basis", torch.zeros(width, config.components))
        self.register_buffer("scale", torch.ones(config.components))

    def fit(self, images: UInt8[Tensor, "b h w 3"]) -> None:
        """Fit mean, basis and scale to images, in float64."""
        patches = self._patches(images).double().reshape(-1, len(self.mean))
        mean = patches.mean(0)
        variance, basis = torch.linalg.eigh((patches - mean).T @ (patches - mean) / (len(patches) - 1))
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

    def encode(self, images: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b c i j"]:
        """One cell per patch; the standard deviation is ``sd`` on average over the images it was fitted to."""
        patches = self._patches(images).to(self.mean)
        return ((patches - self.mean) @ self.basis / self.scale).permute(0, 3, 1, 2).contiguous()

    def decode(self, latents: Float[Tensor, "b c i j"]) -> UInt8[Tensor, "b h w 3"]:
        """Images, rounded and clipped to [0, 255]."""
        patches = (latents.permute(0, 2, 3, 1) * self.scale) @ self.basis.T + self.mean
        b, rows, columns, _ = patches.shape
        side = self.config.patch
        pixels = patches.reshape(b, rows, columns, side, side, 3).transpose(2, 3)
        pixels = pixels.reshape(b, rows * side, columns * side, 3)
        return ((pixels + 0.5) * 255.0).round().clamp(0, 255).to(torch.uint8)

    def _patches(self, images: Tensor) -> Tensor:
        b, height, width, _ = images.shape
        side = self.config.patch
        if height % side or width % side:
            raise CrossFlowError(f"Images of {height} x {width} do not divide into patches of side {side}.")
        pixels = images.to(self.mean.dtype) / 255.0 - 0.5
        pixels = pixels.reshape(b, height // side, side, width // side, side, 3).transpose(2, 3)
        return pixels.reshape(b, height // side, width // side, -1)


def _signs(basis: Tensor) -> Tensor:
    """Signs that make the largest entry of each column positive, so that a fit is the same on every machine."""
    return basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()
