"""The pipeline from images to captions, depth maps or larger images, whichever the model generates.

The counterpart of ``TextToImage`` for models that read images. Each output has its own seed.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.files.devices import usable_device
from crossflow.files.hashes import file_sha256
from crossflow.files.resizing import covering
from crossflow.files.tensors import read_header
from crossflow.modalities.pixels import Pixels
from crossflow.model.checkpoint import load_model, weaker_of
from crossflow.model.config import FlowModel
from crossflow.model.settings import OWN, Override, Sampling
from crossflow.networks.blocks import check_sizes
from crossflow.sampling.sizes import RULES, tiled
from crossflow.sampling.text_to_image import BATCH, dtype_named, finite, seeded_noises

GRAIN = 1024
"""Depth is rounded to 1 / GRAIN metres, and other real numbers to 1 / GRAIN, far above rounding differences between
batch sizes: outputs agree bitwise."""


class Decoder(Protocol):
    """Anything that decodes target latents to outputs."""

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Tensor | list[str]:
        """Captions, depth maps [b h w], or images uint8 [b h w 3]."""
        ...


class FromImage:
    """A pipeline of a model that reads images. ``ends`` names the modalities that it reads and generates.

    ``unit`` is that of depth maps: metres, or for a model of relative depth what its numbers are; else it is empty.

    ``precision`` is float64 or float32; auto is float64, but for a large model on a GPU (see ``dtype_named``). In
    float64 an output depends on its own image and seed alone: rounding differences between batch sizes are far too
    small to show. In float32 this holds up to rounding.

    With ``any_size``, as where a checkpoint was trained on data sets, it takes images of any size by one of
    ``sizes.RULES``: depth maps and larger images are made in tiles (``sizes.tiled``), and a caption is of the middle of
    the image, resized to just cover what the model reads. Without it, an image has the size that the model reads.

    ``identity`` is everything here that can change an output, as plain JSON; ``parts`` are further entries for it.
    """

    def __init__(
        self,
        model: FlowModel,
        weights_sha256: str = "",
        precision: str = "auto",
        batch_size: int | None = None,
        parts: Mapping[str, str] | None = None,
        any_size: bool = False,
    ) -> None:
        reads = model.config.reads
        if reads.kind != "image":
            raise CrossFlowError(
                f"This model reads {reads.name}, not images: load it with TextToImage, as crossflow sample does, or "
                "run it backward by --reader."
            )
        self.ends = (reads.name, model.config.target.name)
        self.device = next(model.parameters()).device
        self.dtype = dtype_named(precision, model, self.device)
        self.model = copy.deepcopy(model).to(self.dtype).eval()
        self.size = reads.shape[1:]
        self.unit = self.model.autoencoder.unit
        self.weights_sha256 = weights_sha256
        self.batch_size = BATCH if batch_size is None else batch_size
        check_sizes(batch_size=self.batch_size)
        self.identity: dict[str, str] = {
            "weights_sha256": weights_sha256,
            "precision": str(self.dtype).removeprefix("torch."),
            **(parts or {}),
            **({"sizes": RULES[self.ends[1]]} if any_size else {}),
        }
        self.any_size = any_size
        self.defaults: Sampling = model.config.sampling

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str = "cpu",
        precision: str = "auto",
        batch_size: int | None = None,
        *,
        any_size: bool = False,
    ) -> "FromImage":
        """Load a checkpoint onto auto, cpu, cuda or cuda:N; CrossFlowError if it or the device cannot be used."""
        model = load_model(path, usable_device(device))
        weaker = weaker_of(Path(path), model.config)
        parts = {} if weaker is None else {"autoguidance_sha256": file_sha256(weaker)}
        any_size = any_size or (model.config.reads.kind == "image" and _of_data_sets(Path(path)))
        return cls(model, file_sha256(path), precision, batch_size, parts, any_size)

    @torch.no_grad()
    def generate(
        self,
        images: Sequence[np.ndarray],
        seeds: Sequence[int],
        override: Override = OWN,
    ) -> list[str] | list[np.ndarray]:
        """One output per image; images are uint8 RGB [h w 3], of the size that the model reads unless ``any_size``.

        A caption is a str, a depth map float32 [h w] in ``unit``, a larger image uint8 RGB [h w 3].
        """
        sampling = self.defaults.but(override)
        if not self.any_size:
            return self._of_own_size(images, seeds, sampling)
        size = (self.size[0], self.size[1])
        if self.ends[1] == "text":
            return self._of_own_size([covering(image, size) for image in images], seeds, sampling)

        def generate(parts: Sequence[np.ndarray], seeds: Sequence[int]) -> list[np.ndarray]:
            return cast(list[np.ndarray], self._of_own_size(parts, seeds, sampling))

        return tiled(generate, images, seeds, size, resize=self.ends[1] == "depth")

    def _of_own_size(
        self, images: Sequence[np.ndarray], seeds: Sequence[int], sampling: Sampling
    ) -> list[str] | list[np.ndarray]:
        check_images(images, seeds, self.size)
        outputs = []
        for start in range(0, len(images), self.batch_size):
            part = slice(start, start + self.batch_size)
            outputs += self._answer(images[part], seeds[part], sampling)
        return outputs

    def _answer(
        self, images: Sequence[np.ndarray], seeds: Sequence[int], sampling: Sampling
    ) -> list[str] | list[np.ndarray]:
        """The outputs of one batch."""
        source = Pixels().encode(torch.from_numpy(np.stack(images))).to(self.device, self.dtype)
        drawn = (noise.to(source) for noise in seeded_noises(seeds, self.model.config.shape))
        latents = self.model.generate(source, None, next(drawn), sampling, drawn)
        return raw_values(cast(Decoder, self.model.autoencoder).decode(finite(latents, self.ends[1])))


def raw_values(outputs: Tensor | list[str]) -> list[Any]:
    """Decoded outputs one by one; real numbers are rounded (``GRAIN``) to float32."""
    if isinstance(outputs, list):
        return outputs
    if outputs.is_floating_point():
        outputs = ((outputs * GRAIN).round() / GRAIN).float()
    return list(outputs.cpu().numpy())


def _of_data_sets(checkpoint: Path) -> bool:
    """Whether a checkpoint was trained on the images of data sets, whatever else its header may say."""
    match read_header(checkpoint):
        case {"training": {"data": {"kind": "sets"}}}:
            return True
    return False


def check_images(images: Sequence[np.ndarray], seeds: Sequence[int], size: tuple[int, ...]) -> None:
    """CrossFlowError unless there is one seed per image, and every image is uint8 RGB of ``size`` (h, w)."""
    if len(images) != len(seeds):
        raise CrossFlowError(f"There are {len(images)} images but {len(seeds)} seeds; give one seed an image.")
    for image in images:
        if image.shape != (*size, 3) or image.dtype != np.uint8:
            wanted = " x ".join(map(str, size))
            raise CrossFlowError(
                f"An image is {image.dtype} {list(image.shape)}, and this model reads RGB images of {wanted} "
                "pixels: resize it first."
            )
