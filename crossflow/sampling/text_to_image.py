"""The text-to-image pipeline: text embedder, flow and autoencoder. Each image has its own seed."""

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from operator import index
from pathlib import Path
from typing import SupportsIndex, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crossflow.errors import CrossFlowError, named
from crossflow.files.devices import usable_device
from crossflow.files.folders import cache_folder
from crossflow.files.hashes import content_sha256, file_sha256
from crossflow.files.seeds import check_seed
from crossflow.flow.solver import ANCESTRAL
from crossflow.modalities.kl_autoencoder import KLConfig
from crossflow.modalities.modality import Autoencoder, TextEmbedder
from crossflow.modalities.text_embedders import weights_of
from crossflow.modalities.tokens import TokensConfig
from crossflow.model.checkpoint import load_model, weaker_of
from crossflow.model.config import FlowModel
from crossflow.model.crossflow import CrossFlow
from crossflow.model.settings import OWN, Override, Sampling
from crossflow.networks.blocks import check_sizes
from crossflow.networks.dimr import DiMR
from crossflow.networks.dit import DiT
from crossflow.sampling.sampler import ADAPTIVE, Sampler

BATCH = 50
"""Batch size for models of the embedded world."""
RELEASED_BATCH = {"cpu": 1, "cuda": 16}
"""Batch size for released models by device; on a GPU one prompt takes as long as a batch."""
LARGE = 10_000_000
"""Parameters from which on a model has not the size of the embedded world's, of which none has two million."""
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
AUTOENCODER = "autoencoder_kl.pth"
"""The default file of the Stable Diffusion autoencoder, in the cache folder."""


class TextToImage:
    """A model with its text embedder and autoencoder.

    ``precision`` is that of the velocity network, and ``auto`` is what ``dtype_named`` makes of it. Only released
    networks support bfloat16.

    An image depends on its own prompt and seed, not on the rest of its batch. In float64 this holds because rounding
    differences between batch sizes are far below one grey level. Otherwise batches are ``filled``: each has
    ``batch_size`` images, the last one padded with repeats. On the CPUs tried the position in a batch then changes no
    bit, which is not guaranteed elsewhere.

    ``compiled`` puts the blocks of released networks through torch.compile; the first batch takes a minute longer.

    Without an ``embedder`` it carries latents and images alone, as ``to_source`` does.

    ``identity`` is everything here that can change an image, as plain JSON; ``parts`` are further entries for it, such
    as hashes of weights.
    """

    def __init__(
        self,
        model: FlowModel,
        embedder: TextEmbedder | None,
        weights_sha256: str = "",
        autoencoder: Autoencoder | None = None,
        precision: str = "auto",
        parts: Mapping[str, str] | None = None,
        batch_size: int | None = None,
        compiled: bool = False,
    ) -> None:
        self.device = next(model.parameters()).device
        self.dtype = dtype_named(precision, model, self.device)
        exact = self.dtype == torch.float64
        self.model = copy.deepcopy(model).to(torch.float64 if exact else torch.float32).eval()
        reads, target = model.config.reads, model.config.target
        if reads.kind != "tokens":
            raise CrossFlowError(
                f"This model makes {target.name} of {reads.name}: load it with FromImage, as crossflow from-image does."
            )
        if target.name != "image":
            raise CrossFlowError(
                f"This model makes {target.name} of {reads.name}, which no pipeline draws: call its own generate, and "
                "decode by its autoencoder."
            )
        if autoencoder is None and target.external:
            raise CrossFlowError("This model has no autoencoder of its own: give the one it was trained with.")
        self.autoencoder = cast(Autoencoder, autoencoder or self.model.autoencoder)
        self._embedder = embedder
        self.weights_sha256 = weights_sha256
        self.batch_size = _batch_size(model, self.device) if batch_size is None else batch_size
        check_sizes(batch_size=self.batch_size)
        self.filled = not exact
        self.compiled = compiled
        self.identity: dict[str, str] = {
            "weights_sha256": weights_sha256,
            "precision": str(self.dtype).removeprefix("torch."),
            **({"batch_size": str(self.batch_size)} if self.filled else {}),
            **({"compiled": "blocks"} if compiled else {}),
            **(parts or {}),
        }
        self.defaults: Sampling = model.config.sampling
        self._ready: tuple[tuple[Sampling, bool], Sampler] | None = None

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str = "cpu",
        text_encoder: str | Path | None = None,
        autoencoder: str | Path | None = None,
        precision: str = "auto",
        batch_size: int | None = None,
        compiled: bool = False,
        weaker: str | Path | None = None,
        prompts: bool = True,
    ) -> "TextToImage":
        """Load a checkpoint onto auto, cpu, cuda or cuda:N; CrossFlowError if it or the device cannot be used.

        ``weaker`` is a weaker version of the model that guides it, at a guidance scale above 1, in place of the
        guidance that it was trained with (see ``load_model``).

        Released models need further weights. ``text_encoder`` is a folder; None is the local hub cache.
        ``autoencoder`` is the authors' autoencoder_kl.pth or a diffusers folder; None is that file in the folder
        ``CROSSFLOW_CACHE``. Without ``prompts`` no text encoder is looked for.
        """
        device, weaker = usable_device(device), None if weaker is None else Path(weaker)
        model = load_model(path, device, weaker)
        config = model.config
        if config.reads.kind != "tokens":
            raise CrossFlowError(
                f"This model reads {config.reads.name}, and no texts: load it with FromImage, as crossflow from-image "
                "does."
            )
        embedder = cast(TokensConfig, config.reads).embedder(text_encoder, device) if prompts else None
        vae, parts = None, {} if embedder is None else weights_of(embedder)
        if config.target.external:
            source = autoencoder or _own_autoencoder()
            vae = cast(KLConfig, config.target).load(source, device)
            parts["autoencoder_sha256"] = content_sha256(source)
        if (guiding := weaker or weaker_of(Path(path), config)) is not None:
            parts["autoguidance_sha256"] = file_sha256(guiding)
        return cls(model, embedder, file_sha256(path), vae, precision, parts, batch_size, compiled)

    @property
    def embedder(self) -> TextEmbedder:
        """The text encoder; CrossFlowError where the pipeline was loaded without."""
        if self._embedder is None:
            raise CrossFlowError("This pipeline was loaded without its text encoder: load it with, to give it prompts.")
        return self._embedder

    def settings(self, override: Override, weaker: Path | None = None) -> Sampling:
        """The checkpoint's sampling settings, replaced where ``override`` is not None.

        CrossFlowError for a ``weaker`` model that was given and is not used, since nobody gave a guidance scale.
        """
        sampling = self.defaults.but(override)
        if weaker is not None and override.guidance_scale is None and sampling.guidance_scale == 1:
            raise CrossFlowError(f"This model's own guidance_scale is 1, at which {weaker} is not used: give another.")
        return sampling

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], override: Override = OWN) -> list[np.ndarray]:
        """One image per prompt, uint8 RGB [h w 3]. ``override`` replaces the checkpoint's sampling settings."""
        if isinstance(prompts, str):
            raise CrossFlowError("The prompts are one text, and a list of texts is expected: give a list of one.")
        if len(prompts) != len(seeds):
            raise CrossFlowError(f"There are {len(prompts)} prompts but {len(seeds)} seeds; give one seed a prompt.")
        sampling = self.defaults.but(override)
        images: list[np.ndarray] = []
        for items in self._batches(len(prompts)):
            images += self._draw([prompts[i] for i in items], [seeds[i] for i in items], sampling)
        return images[: len(prompts)]

    @torch.no_grad()
    def source(self, prompts: Sequence[str], seeds: Sequence[int], noise: float = 1.0) -> Float[Tensor, "b c h w"]:
        """Source latents of prompts, one sample of the posterior each; ``noise`` is that of ``Sampling``."""
        flow, parts = self._flow(), []
        for items in self._batches(len(prompts)):
            tokens, mask, drawn = self._inputs([prompts[i] for i in items], [seeds[i] for i in items])
            parts.append(flow.source(tokens, mask, noise * next(drawn)))
        return torch.cat(parts)[: len(prompts)]

    @torch.no_grad()
    def from_source(self, source: Float[Tensor, "b c h w"], sampling: Sampling) -> list[np.ndarray]:
        """Images, uint8 RGB [h w 3], from source latents.

        Of these alone it is not known what is noise, so nothing is drawn anew: ``euler_ancestral`` is Euler's method.
        """
        images: list[np.ndarray] = []
        for items in self._batches(len(source)):
            images += self._decoded(self._carried(source[items], sampling))
        return images[: len(source)]

    @torch.no_grad()
    def to_source(self, images: Sequence[np.ndarray], sampling: Sampling) -> Float[Tensor, "b c h w"]:
        """Source latents of images, uint8 RGB [h w 3] of the model's size, by the flow from t = 1 to t = 0.

        With guidance_scale 1 and enough steps it inverts ``from_source``, up to the loss of the autoencoder.
        """
        parts = []
        for items in self._batches(len(images)):
            batch = torch.from_numpy(np.stack([images[i] for i in items])).to(self.device)
            latents = self.autoencoder.encode(batch).to(self._own.dtype)
            parts.append(self._carried(latents, sampling, backward=True))
        return torch.cat(parts)[: len(images)]

    @torch.no_grad()
    def _draw(self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling) -> list[np.ndarray]:
        """The images of one batch."""
        tokens, mask, drawn = self._inputs(prompts, seeds)
        ancestral = sampling.solver == ANCESTRAL
        if ancestral and (self.compiled or self.dtype == torch.bfloat16):
            raise CrossFlowError(
                f"{ANCESTRAL} samples in float32 or float64 and is not compiled: give the precision, or another solver."
            )
        if isinstance(self.model, CrossFlow) and not ancestral:
            source = self.model.source(tokens, mask, sampling.noise * next(drawn))
            return self._decoded(self._carried(source, sampling))
        return self._decoded(self.model.generate(tokens, mask, next(drawn), sampling, drawn))

    def _batches(self, count: int) -> Iterator[list[int]]:
        """The item indices of each batch; a filled batch repeats the last item."""
        for start in range(0, count, self.batch_size):
            items = list(range(start, min(start + self.batch_size, count)))
            yield items + items[-1:] * (self.batch_size - len(items) if self.filled else 0)

    def _carried(
        self, latents: Float[Tensor, "b c h w"], sampling: Sampling, backward: bool = False
    ) -> Float[Tensor, "b c h w"]:
        """Integrate latents to the other end of the flow, by the fast sampler where network and solver allow it."""
        flow = self._flow()
        adaptive = sampling.solver in ADAPTIVE and self.dtype != torch.bfloat16
        if not flow.tabulates or adaptive or self.dtype == torch.float64:
            return flow.sample(latents, sampling.solver, sampling.steps, sampling.guidance_scale, backward)
        if self._ready is None or self._ready[0] != (sampling, backward):
            self._ready = None
            weaker = None if flow.weaker is None else cast(DiMR | DiT, flow.weaker.backbone)
            sampler = Sampler(
                cast(DiMR | DiT, flow.backbone),
                sampling,
                flow.config.guidance,
                weaker,
                backward=backward,
                dtype=self.dtype,
                compiled=self.compiled,
            )
            self._ready = (sampling, backward), sampler
        return self._ready[1](latents)

    def _flow(self) -> CrossFlow:
        if not isinstance(self.model, CrossFlow):
            raise CrossFlowError("The standard flow-matching baseline starts from noise: it has no source of a prompt.")
        return self.model

    @property
    def _own(self) -> Tensor:
        """Any parameter: latents between steps have its dtype."""
        return next(self.model.parameters())

    def _inputs(self, prompts: Sequence[str], seeds: Sequence[int]) -> tuple[Tensor, Tensor, Iterator[Tensor]]:
        """Tokens and their mask, and as many draws of noise as are asked for."""
        tokens, mask = self.embedder.embed(prompts, self.model.config.reads.shape[0])
        drawn = (noise.to(self._own) for noise in seeded_noises(seeds, self.model.config.shape))
        return tokens.to(self._own), mask.to(self.device), drawn

    def _decoded(self, latents: Float[Tensor, "b c h w"]) -> list[np.ndarray]:
        return list(self.autoencoder.decode(finite(latents, "image")).cpu().numpy())


def dtype_named(precision: str, model: FlowModel, device: torch.device) -> torch.dtype:
    """The dtype that ``precision`` names for this model on this device; CrossFlowError if the model has no such form.

    ``auto`` is float64; for models with the Stable Diffusion autoencoder bfloat16 on a GPU and float32 on a CPU; and on
    a GPU float32 for other models that are ``LARGE``, for most GPUs have next to no float64.
    """
    if precision == "auto":
        on_gpu = device.type == "cuda"
        if model.config.target.external:
            return torch.bfloat16 if on_gpu else torch.float32
        large = sum(part.numel() for part in model.parameters()) >= LARGE
        return torch.float32 if on_gpu and large else torch.float64
    dtype = named("precision", precision, DTYPES)
    if dtype == torch.bfloat16 and not model.tabulates:
        raise CrossFlowError("This network gains nothing from bfloat16, and has no such form: use float32 or float64.")
    return dtype


def _batch_size(model: FlowModel, device: torch.device) -> int:
    return RELEASED_BATCH[device.type] if model.config.target.external else BATCH


def _own_autoencoder() -> Path:
    path = cache_folder() / AUTOENCODER
    if not path.exists():
        raise CrossFlowError(
            f"This model needs the Stable Diffusion autoencoder: put {AUTOENCODER} (of the authors' assets.tar) at "
            f"{path}, or give --autoencoder that file or a folder of diffusers' AutoencoderKL."
        )
    return path


def finite(latents: Float[Tensor, "b c h w"], name: str) -> Float[Tensor, "b c h w"]:
    """The ``latents`` of the modality ``name`` as they are; CrossFlowError where they are not finite.

    Decoded they would be a black image or some text, and a score of that.
    """
    if not latents.isfinite().all():
        raise CrossFlowError(f"The {name} ended in numbers that are not finite: sample with less guidance.")
    return latents


def seeded_noise(seed: SupportsIndex, shape: tuple[int, int, int]) -> Float[Tensor, "c h w"]:
    """Standard normal noise for one item, drawn on the CPU so that it is the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(index(seed)))


def seeded_noises(seeds: Sequence[SupportsIndex], shape: tuple[int, int, int]) -> Iterator[Float[Tensor, "b c h w"]]:
    """Draw after draw of noise for several items, each by a generator of its own; the first is ``seeded_noise``."""
    generators = [torch.Generator().manual_seed(index(seed)) for seed in seeds]
    while True:
        yield torch.stack([torch.randn(shape, generator=each) for each in generators])


def prompt_seed(seed: int, prompt: str, copy: int = 0) -> int:
    """A seed for the ``copy``-th image of ``prompt``: a hash of these and ``seed``, independent of other prompts."""
    try:
        text = f"{check_seed(seed)}\n{copy}\n{prompt}".encode()
    except UnicodeEncodeError as error:
        raise CrossFlowError(f"The prompt {prompt!a} is not valid text: write it in UTF-8.") from error
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
