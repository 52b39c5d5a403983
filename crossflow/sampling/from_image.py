"""From images to captions, depth maps and larger images: a flow with its target's autoencoder, each output by its seed.

The counterpart of ``TextToImage`` for models whose sources are images. What comes out depends on the model alone.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.files.devices import usable_device
from crossflow.files.hashes import file_sha256
from crossflow.modalities.pixels import Pixels
from crossflow.model.checkpoint import load_model
from crossflow.model.config import OWN, Override, Sampling
from crossflow.model.standard import FlowModel
from crossflow.networks.blocks import check_sizes
from crossflow.sampling.text_to_image import BATCH, dtype_named, seeded_noise

GRAIN = 1024
"""Depth comes in steps of 1 / GRAIN metres: far above what batch sizes change, so that outputs are the same bits."""


class Decoder(Protocol):
    """What turns target latents into outputs."""

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Tensor | list[str]:
        """Captions, depth maps [b h w], or images uint8 [b h w 3]."""
        ...


class FromImage:
    """A model whose sources are images, ready to answer. ``ends`` names what it reads and what it gives.

    ``precision`` is float64 (auto) or float32. In float64 an output depends on its own image and seed alone: rounding
    differences between batch sizes stay far below what shows. In float32 that is so but for rounding.

    ``identity`` is all of this that can change an output, as plain JSON.
    """

    def __init__(
        self, model: FlowModel, weights_sha256: str = "", precision: str = "auto", batch_size: int | None = None
    ) -> None:
        reads = model.config.reads
        if reads.kind != "image":
            raise CrossFlowError(f"This model reads {reads.name} and not images: load it with TextToImage.")
        self.ends = (reads.name, model.config.target.name)
        self.device = next(model.parameters()).device
        self.dtype = dtype_named(precision, model, self.device)
        self.model = copy.deepcopy(model).to(self.dtype).eval()
        self.size = reads.shape[1:]
        self.weights_sha256 = weights_sha256
        self.batch_size = BATCH if batch_size is None else batch_size
        check_sizes(batch_size=self.batch_size)
        self.identity: dict[str, str] = {
            "weights_sha256": weights_sha256,
            "precision": str(self.dtype).removeprefix("torch."),
        }
        self.defaults: Sampling = model.config.sampling

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, device: str = "cpu", precision: str = "auto", batch_size: int | None = None
    ) -> "FromImage":
        """Load a checkpoint onto auto, cpu, cuda or cuda:N; CrossFlowError where it or the device cannot be used."""
        return cls(load_model(path, usable_device(device)), file_sha256(path), precision, batch_size)

    @torch.no_grad()
    def generate(
        self,
        images: Sequence[np.ndarray],
        seeds: Sequence[int],
        override: Override = OWN,
    ) -> list[str] | list[np.ndarray]:
        """One output an image, which is uint8 RGB [h w 3] of the size that the model was trained on.

        A caption is a str, a depth map float32 [h w] in metres, a larger image uint8 RGB [h w 3].
        """
        check_images(images, seeds, self.size)
        sampling = self.defaults.but(override)
        outputs = []
        for start in range(0, len(images), self.batch_size):
            part = slice(start, start + self.batch_size)
            outputs += self._answer(images[part], seeds[part], sampling)
        return outputs

    def _answer(
        self, images: Sequence[np.ndarray], seeds: Sequence[int], sampling: Sampling
    ) -> list[str] | list[np.ndarray]:
        """One batch."""
        source = Pixels().encode(torch.from_numpy(np.stack(images))).to(self.device, self.dtype)
        noise = torch.stack([seeded_noise(seed, self.model.config.shape) for seed in seeds])
        latents = self.model.generate(source, None, noise.to(source), sampling)
        outputs = cast(Decoder, self.model.autoencoder).decode(latents)
        if isinstance(outputs, list):
            return outputs
        if outputs.is_floating_point():
            outputs = ((outputs * GRAIN).round() / GRAIN).float()
        return list(outputs.cpu().numpy())


def check_images(images: Sequence[np.ndarray], seeds: Sequence[int], size: tuple[int, ...]) -> None:
    """Raise CrossFlowError unless there is a seed an image, and every image is uint8 RGB of ``size`` (h, w)."""
    if len(images) != len(seeds):
        raise CrossFlowError(f"There are {len(images)} images but {len(seeds)} seeds; give one seed an image.")
    for image in images:
        if image.shape != (*size, 3) or image.dtype != np.uint8:
            wanted = " x ".join(map(str, size))
            raise CrossFlowError(
                f"An image is {image.dtype} {list(image.shape)}, and this model reads RGB images of {wanted} "
                "pixels: resize it first."
            )
