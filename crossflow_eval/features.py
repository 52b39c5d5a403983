"""Features of outputs: extracted in chunks of one size, and kept beside the run under the hashes of what made them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from crossflow_eval.types import SetupError

CHUNK = 64
"""Every forward pass sees this many images, the last one padded, so that a feature does not depend on how many
outputs came with its own: the kernels that a library picks, and with them the last bits, depend on the shape."""


@runtime_checkable
class FeatureExtractor(Protocol):
    """A frozen network, in float32 and evaluation mode. ``weights_sha256`` names its weights."""

    name: str
    weights_sha256: str
    dim: int

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return the features, float32 [n dim], of n images, uint8 [h w 3]. Each depends on its own image only."""
        ...


def extract(extractor: FeatureExtractor, images: Sequence[np.ndarray]) -> np.ndarray:
    """The features, float32 [n dim], of any number of images, in padded chunks of ``CHUNK``.

    Raises ValueError where the extractor answers in another shape or with a number that is not finite.
    """
    return in_chunks(extractor, images, extractor.dim, extractor.name)


def in_chunks(embed: Callable[[Sequence[Any]], np.ndarray], items: Sequence[Any], dim: int, name: str) -> np.ndarray:
    """``embed`` (items to float32 [n dim]) over all ``items``, called with exactly ``CHUNK`` of them each time."""
    chunks = [np.zeros((0, dim), dtype=np.float32)]
    for start in range(0, len(items), CHUNK):
        chunk = items[start : start + CHUNK]
        vectors = np.asarray(embed([*chunk, *[chunk[-1]] * (CHUNK - len(chunk))]), dtype=np.float32)
        if vectors.shape != (CHUNK, dim):
            raise ValueError(f"{name} gave features {vectors.shape}, expected {(CHUNK, dim)}")
        if not np.isfinite(vectors).all():
            raise ValueError(f"{name} gave features that are not finite")
        chunks.append(vectors[: len(chunk)])
    return np.concatenate(chunks)


def content_sha256(image: np.ndarray) -> str:
    """The sha256 of an image's shape, type and pixels."""
    head = f"{image.dtype.str} {image.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(image).tobytes()).hexdigest()


class FeatureCache:
    """Features on disk, in ``folder/<extractor>.safetensors``, found again by the content of their images.

    A file of other weights, and one that cannot be read, is as good as none: it is computed anew and replaced.
    """

    def __init__(self, extractor: FeatureExtractor, folder: Path) -> None:
        self.path = folder / f"{extractor.name}.safetensors"
        self._extractor = extractor
        self._known = self._read()
        self._saved = set(self._known)

    def extract(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """As :func:`extract`, computing only what is not known."""
        names = [content_sha256(image) for image in images]
        new = {name: image for name, image in zip(names, images, strict=True) if name not in self._known}
        self._known.update(zip(new, extract(self._extractor, list(new.values())), strict=True))
        return np.stack([self._known[name] for name in names]) if names else extract(self._extractor, [])

    def save(self) -> None:
        """Write what is known, whole or not at all; nothing where nothing is new. Raises SetupError."""
        if self._saved == self._known.keys():
            return
        names = sorted(self._known)
        hashes = np.frombuffer(bytes.fromhex("".join(names)), dtype=np.uint8).reshape(len(names), 32)
        features = np.stack([self._known[name] for name in names])
        content = save({"sha256": hashes, "features": features}, self._header())
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content)
            temporary.replace(self.path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise SetupError(
                f"Cannot write the features {self.path}: {error.strerror}; make room and rerun."
            ) from error
        self._saved = set(names)

    def _header(self) -> dict[str, str]:
        return {"extractor": f"{self._extractor.name} {self._extractor.weights_sha256}"}

    def _read(self) -> dict[str, np.ndarray]:
        try:
            with safe_open(self.path, framework="numpy") as file:
                if file.metadata() != self._header():
                    return {}
                hashes, features = file.get_tensor("sha256"), file.get_tensor("features")
        except (OSError, SafetensorError):
            return {}
        fitting = hashes.shape == (len(features), 32) and features.shape == (len(features), self._extractor.dim)
        if not fitting or features.dtype != np.float32 or not np.isfinite(features).all():
            return {}
        return {row.tobytes().hex(): feature for row, feature in zip(hashes, features, strict=True)}
