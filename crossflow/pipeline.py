"""From prompts to images: text embedder, flow, autoencoder, and the noise of every image from its own seed."""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crossflow.autoencoder import KLAutoencoder
from crossflow.checkpoint import content_sha256, file_sha256, load_model, usable_device
from crossflow.errors import CrossFlowError, named
from crossflow.latents import Autoencoder, KLConfig, MiniLM, TextEmbedder, cache_folder
from crossflow.model import CrossFlow, FlowModel, Sampling
from crossflow.text import LanguageModel, embedder_named

CHUNK = 50
"""Images computed at once. In float64 it changes the speed and nothing else."""
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
AUTOENCODER = "autoencoder_kl.pth"


class TextToImage:
    """A model with its text embedder and autoencoder, ready to draw.

    ``precision`` auto is float64 for models of the embedded world: an image then depends on its own prompt and seed to
    the last bit, whatever else is drawn beside it, because rounding differences between batch sizes stay far below one
    grey level. For models with the Stable Diffusion autoencoder it is bfloat16 on a GPU and float32 on a CPU.

    ``identity`` is all of this that can change an image, as plain JSON; ``parts`` adds what only the caller knows.
    """

    def __init__(
        self,
        model: FlowModel,
        embedder: TextEmbedder,
        weights_sha256: str = "",
        autoencoder: Autoencoder | None = None,
        precision: str = "auto",
        parts: Mapping[str, str] | None = None,
    ) -> None:
        self.device = next(model.parameters()).device
        self.dtype = _dtype(precision, model, self.device)
        self.model = copy.deepcopy(model).to(self.dtype).eval()
        found = autoencoder or self.model.autoencoder
        if found is None:
            raise CrossFlowError("This model has no autoencoder of its own: give the one it was trained with.")
        self.autoencoder: Autoencoder = found
        self.embedder = embedder
        self.weights_sha256 = weights_sha256
        self.identity: dict[str, str] = {
            "weights_sha256": weights_sha256,
            "precision": str(self.dtype).removeprefix("torch."),
            **(parts or {}),
        }
        self.defaults: Sampling = model.config.sampling

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str = "cpu",
        text_encoder: Path | None = None,
        autoencoder: Path | None = None,
        precision: str = "auto",
    ) -> "TextToImage":
        """Load a checkpoint onto auto, cpu, cuda or cuda:N; CrossFlowError where it or the device cannot be used.

        Released models need weights besides. ``text_encoder`` is a folder; None is the cache of the hub.
        ``autoencoder`` is the authors' autoencoder_kl.pth or a folder of diffusers; None is that file in the folder
        ``CROSSFLOW_CACHE``.
        """
        device = usable_device(device)
        model = load_model(path, device)
        config = model.config
        embedder = MiniLM() if config.text == "minilm" else embedder_named(config.text, text_encoder, device)
        vae, parts = None, {}
        if isinstance(embedder, LanguageModel):
            parts["text_encoder_sha256"] = content_sha256(embedder.folder)
        if isinstance(config.autoencoder, KLConfig):
            source = autoencoder or _own_autoencoder()
            vae = KLAutoencoder.from_path(source, config.autoencoder.scale, device)
            parts["autoencoder_sha256"] = content_sha256(source)
        return cls(model, embedder, file_sha256(path), vae, precision, parts)

    def sampling(
        self, solver: str | None = None, steps: int | None = None, guidance_scale: float | None = None
    ) -> Sampling:
        """The sampling settings, where those left out are the checkpoint's own."""
        return Sampling(
            solver=self.defaults.solver if solver is None else solver,
            steps=self.defaults.steps if steps is None else steps,
            guidance_scale=self.defaults.guidance_scale if guidance_scale is None else guidance_scale,
        )

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        solver: str | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
    ) -> list[np.ndarray]:
        """Draw one image a prompt: uint8 RGB [h w 3]. Settings left out are the checkpoint's own defaults."""
        if len(prompts) != len(seeds):
            raise CrossFlowError(f"There are {len(prompts)} prompts but {len(seeds)} seeds; give one seed a prompt.")
        sampling = self.sampling(solver, steps, guidance_scale)
        images: list[np.ndarray] = []
        for start in range(0, len(prompts), CHUNK):
            part = slice(start, start + CHUNK)
            images.extend(self._chunk(prompts[part], seeds[part], sampling))
        return images

    def _chunk(self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling) -> list[np.ndarray]:
        if isinstance(self.model, CrossFlow):
            return self.from_source(self.source(prompts, seeds), sampling)
        tokens, mask, noise = self._inputs(prompts, seeds)
        with torch.inference_mode():
            return self._decoded(self.model.generate(tokens, mask, noise, sampling))

    def source(self, prompts: Sequence[str], seeds: Sequence[int]) -> Float[Tensor, "b c h w"]:
        """The source latents of prompts, one sample each, of which the flow makes images."""
        flow, (tokens, mask, noise) = self._flow(), self._inputs(prompts, seeds)
        with torch.inference_mode():
            return flow.source(tokens, mask, noise)

    def from_source(self, source: Float[Tensor, "b c h w"], sampling: Sampling) -> list[np.ndarray]:
        """Source latents to images, uint8 RGB [h w 3]."""
        with torch.inference_mode():
            latents = self._flow().sample(source, sampling.solver, sampling.steps, sampling.guidance_scale)
            return self._decoded(latents)

    def to_source(self, images: Sequence[np.ndarray], sampling: Sampling) -> Float[Tensor, "b c h w"]:
        """Images, uint8 RGB [h w 3] of the model's size, back to source latents: the flow from t = 1 to t = 0.

        With guidance_scale 1 and enough steps it is the inverse of ``from_source``, up to what the autoencoder loses.
        """
        flow = self._flow()
        with torch.inference_mode():
            latents = self.autoencoder.encode(torch.from_numpy(np.stack(images)).to(self.device)).to(self.dtype)
            return flow.sample(latents, sampling.solver, sampling.steps, sampling.guidance_scale, backward=True)

    def _flow(self) -> CrossFlow:
        if not isinstance(self.model, CrossFlow):
            raise CrossFlowError("The standard flow-matching baseline starts from noise: it has no source of a prompt.")
        return self.model

    def _inputs(self, prompts: Sequence[str], seeds: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        tokens, mask = self.embedder.embed(prompts, self.model.config.token_count)
        noise = torch.stack([seeded_noise(seed, self.model.config.shape) for seed in seeds])
        return tokens.to(self.device, self.dtype), mask.to(self.device), noise.to(self.device, self.dtype)

    def _decoded(self, latents: Float[Tensor, "b c h w"]) -> list[np.ndarray]:
        return list(self.autoencoder.decode(latents).cpu().numpy())


def _dtype(precision: str, model: FlowModel, device: torch.device) -> torch.dtype:
    if precision != "auto":
        return named("precision", precision, DTYPES)
    if not isinstance(model.config.autoencoder, KLConfig):
        return torch.float64
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _own_autoencoder() -> Path:
    path = cache_folder() / AUTOENCODER
    if not path.exists():
        raise CrossFlowError(
            f"This model needs the Stable Diffusion autoencoder: put {AUTOENCODER} (of the authors' assets.tar) at "
            f"{path}, or give --autoencoder that file or a folder of diffusers' AutoencoderKL."
        )
    return path


def seeded_noise(seed: int, shape: tuple[int, int, int]) -> Float[Tensor, "c h w"]:
    """Standard normal noise of one image; always drawn on the CPU, so that devices agree."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def prompt_seed(seed: int, prompt: str, copy: int = 0) -> int:
    """A seed for the ``copy``-th image of ``prompt``: a hash, so that it does not depend on what else is drawn."""
    text = f"{seed}\n{copy}\n{prompt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
