"""From prompts to images: text embedder, flow, autoencoder, and the noise of every image from its own seed."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from crossflow.checkpoint import file_sha256, load_model
from crossflow.errors import CrossFlowError
from crossflow.latents import MiniLM, TextEmbedder
from crossflow.model import FlowModel, Sampling

CHUNK = 50
"""Images computed at once. It changes the speed and, by the float64 of the computation, nothing else."""


class TextToImage:
    """A model with its text embedder, ready to draw.

    On a CPU everything runs in float64: an image then depends on its own prompt and seed to the last bit, whatever
    else is drawn beside it, because rounding differences between batch sizes stay far below one grey level.
    """

    def __init__(self, model: FlowModel, embedder: TextEmbedder, weights_sha256: str = "") -> None:
        self.device = next(model.parameters()).device
        self.dtype = torch.float64 if self.device.type == "cpu" else torch.float32
        self.model = _copy(model, self.dtype)
        self.embedder = embedder
        self.weights_sha256 = weights_sha256
        self.defaults: Sampling = model.config.sampling

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str = "cpu") -> "TextToImage":
        """Load a checkpoint; CrossFlowError where it or the device cannot be used."""
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise CrossFlowError(f"Device {device} was asked for, but this machine has no usable CUDA device: use cpu.")
        model = load_model(path, device)
        return cls(model, MiniLM(), file_sha256(path))

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        solver: str | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        advance: Callable[[int], None] = lambda count: None,
    ) -> list[np.ndarray]:
        """Draw one image a prompt: uint8 RGB [h w 3]. Settings left out are the checkpoint's own defaults."""
        if len(prompts) != len(seeds):
            raise CrossFlowError(f"There are {len(prompts)} prompts but {len(seeds)} seeds; give one seed a prompt.")
        sampling = Sampling(
            solver=self.defaults.solver if solver is None else solver,
            steps=self.defaults.steps if steps is None else steps,
            guidance_scale=self.defaults.guidance_scale if guidance_scale is None else guidance_scale,
        )
        images: list[np.ndarray] = []
        for start in range(0, len(prompts), CHUNK):
            part = slice(start, start + CHUNK)
            images.extend(self._chunk(prompts[part], seeds[part], sampling))
            advance(len(prompts[part]))
        return images

    @torch.inference_mode()
    def _chunk(self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling) -> Iterator[np.ndarray]:
        tokens, mask = self.embedder.embed(prompts, self.model.config.token_count)
        noise = torch.stack([seeded_noise(seed, self.model.config.shape) for seed in seeds])
        latents = self.model.generate(
            tokens.to(self.device, self.dtype), mask.to(self.device), noise.to(self.device, self.dtype), sampling
        )
        return iter(self.model.autoencoder.decode(latents).cpu().numpy())


def seeded_noise(seed: int, shape: tuple[int, int, int]) -> Float[Tensor, "c h w"]:
    """Standard normal noise of one image; always drawn on the CPU, so that devices agree."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def prompt_seed(seed: int, prompt: str, copy: int = 0) -> int:
    """A seed for the ``copy``-th image of ``prompt``: a hash, so that it does not depend on what else is drawn."""
    text = f"{seed}\n{copy}\n{prompt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def grid(images: Sequence[np.ndarray], columns: int, scale: int = 3) -> Image.Image:
    """Tile images of one size row by row, each pixel enlarged ``scale`` times, on white."""
    height, width, _ = images[0].shape
    rows = -(-len(images) // columns)
    canvas = np.full((rows * (height + 2) - 2, columns * (width + 2) - 2, 3), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + 2), i % columns * (width + 2)
        canvas[top : top + height, left : left + width] = image
    return Image.fromarray(canvas).resize((canvas.shape[1] * scale, canvas.shape[0] * scale), Image.Resampling.NEAREST)


def _copy(model: FlowModel, dtype: torch.dtype) -> FlowModel:
    """The model's weights in ``dtype``, in eval mode; the model itself is left as it is."""
    twin = type(model)(model.config).to(next(model.parameters()).device, dtype)
    twin.load_state_dict(model.state_dict(), strict=False)
    return twin.eval()
