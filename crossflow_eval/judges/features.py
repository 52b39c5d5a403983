"""Features of outputs: extracted in chunks of one size, and kept beside the run under the hashes of what made them."""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow.files.recordings import Recording
from crossflow_eval.environment import code_sha256, numbers_sha256
from crossflow_eval.types import Example, Output, Row

CHUNK = 64
"""Every forward pass sees this many images, the last one padded, so that a feature does not depend on how many
outputs came with its own: the kernels that a library picks, and with them the last bits, depend on the shape."""


@runtime_checkable
class FeatureExtractor(Protocol):
    """A frozen network, in float32 and evaluation mode. ``weights_sha256`` names its weights."""

    name: str
    weights_sha256: str
    dim: int

    def __call__(self, images: Sequence[Any], /) -> np.ndarray:
        """Return the features, float32 [n dim], of n images, uint8 [h w 3], or outputs of the kind that it reads.

        Each depends on its own output only.
        """
        ...


def extract(extractor: FeatureExtractor, images: Sequence[Any]) -> np.ndarray:
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


def of_distinct(forward: Callable[[Sequence[Any]], np.ndarray], images: Sequence[Any], size: int) -> np.ndarray:
    """``forward`` (at most ``size`` images to float32 [m dim]) of all ``images``; one given several times comes once.

    Chunks are padded by repeating their last image (``extract``), which costs no passes of the network so.
    """
    distinct = {id(image): image for image in images}
    pictures = list(distinct.values())
    parts = [forward(pictures[start : start + size]) for start in range(0, len(pictures), size)]
    rows = dict(zip(distinct, np.concatenate(parts), strict=True))
    return np.stack([rows[id(image)] for image in images])


class FeatureCache:
    """Features on disk, found again by the content of their images; memory holds their places alone.

    Each rank appends to a file of its own, ``folder/<extractor>-<digest>-<rank>.features``, and reads those of all. A
    file is one line of text and then records: sha256 of the image, features, checksum. A record that was cut short or
    damaged, or has a number that is not finite, is as good as none: it is computed anew. So is the whole file where its
    line says that other code, other versions of what that stands on, or a machine with another GPU made it.
    """

    def __init__(self, extractor: FeatureExtractor, folder: Path, rank: int = 0) -> None:
        self._extractor = extractor
        network = f"{extractor.name} {extractor.weights_sha256} {extractor.dim}"
        made_by = hashlib.sha256(f"{numbers_sha256()} {code_sha256(type(extractor))}".encode()).hexdigest()
        self._head = f"{network} {made_by}\n".encode()
        self._record = np.dtype([("image", "S64"), ("features", "<f4", (extractor.dim,)), ("check", "<u4")])
        digest = hashlib.sha256(f"{network}\n".encode()).hexdigest()[:8]
        stem = re.sub(r"[^\w.-]+", "_", extractor.name) + f"-{digest}"
        self.path = folder / f"{stem}-{rank}.features"
        self._files = f"{stem}-*.features"
        self._known: dict[Path, int] = {}
        self._places: dict[bytes, tuple[np.ndarray, int]] = {}
        self._look()

    def extract(self, images: Sequence[Any]) -> np.ndarray:
        """As :func:`extract`, computing and keeping only what is not there. Raises CrossFlowError where it cannot."""
        names = [_content_sha256(image) for image in images]
        if any(name not in self._places for name in names):
            self._look()
        new = {name: image for name, image in zip(names, images, strict=True) if name not in self._places}
        if new:
            self._append(list(new), extract(self._extractor, list(new.values())))
        found = [records["features"][place] for records, place in (self._places[name] for name in names)]
        return np.stack(found) if found else extract(self._extractor, [])

    def _look(self) -> None:
        """Learn where the whole records are that came since the last look, of whichever rank."""
        for path in sorted(self.path.parent.glob(self._files)):
            if not path.is_file():
                raise CrossFlowError(f"{path} is no file of features: move it away, and they are computed anew.")
            first = self._known.get(path, 0)
            count = self._whole(path) - first
            if count < 1:
                continue
            start = len(self._head) + first * self._record.itemsize
            records = np.memmap(path, self._record, "r", start, count)
            self._known[path] = first + count
            for place, record in enumerate(records):
                features = record["features"]
                if zlib.crc32(features.tobytes()) == record["check"] and np.isfinite(features).all():
                    self._places[bytes(record["image"])] = records, place

    def _whole(self, path: Path) -> int:
        """How many whole records a file holds; none where it begins with another line."""
        with path.open("rb") as file:
            if file.read(len(self._head)) != self._head:
                return 0
            return (os.fstat(file.fileno()).st_size - len(self._head)) // self._record.itemsize

    def _append(self, names: Sequence[bytes], features: np.ndarray) -> None:
        records = np.zeros(len(names), self._record)
        records["image"], records["features"] = names, features
        records["check"] = [zlib.crc32(each.tobytes()) for each in records["features"]]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            there = self.path.exists()
            whole = self._whole(self.path) if there else 0
            with self.path.open("r+b" if there else "wb") as file:
                file.write(self._head)
                file.seek(len(self._head) + whole * self._record.itemsize)
                file.truncate()
                file.write(records.tobytes())
        except OSError as error:
            raise CrossFlowError(
                f"Cannot write the features {self.path}: {error.strerror}; make room and rerun."
            ) from error
        self._look()


class OnFeatures:
    """What metrics on features of the outputs share: a run keeps the features, on whichever rank they are made."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        self.extractor = extractor

    @property
    def itself(self) -> Any:
        """The metric whose values these are: this one, unless it only stands around another."""
        return self

    def update(
        self, examples: Sequence[Example], outputs: Sequence[Output], features: np.ndarray | None = None
    ) -> list[Row] | None:
        """As ``Metric.update``; a run that has the outputs' ``features``, float32 [n dim], gives them."""
        raise NotImplementedError

    def update_from(self, cache: FeatureCache, examples: Sequence[Example], outputs: Sequence[Any]) -> list[Row] | None:
        """As ``update``, with the features of the outputs out of a run's ``cache``."""
        return self.update(examples, outputs, cache.extract(outputs))

    def features_of(self, images: Sequence[Any], features: np.ndarray | None = None) -> np.ndarray:
        """The features, float32 [n dim], of images, or outputs of another kind: those given, or else extracted."""
        return extract(self.extractor, images) if features is None else features


def keep_features(metrics: Mapping[str, object], folder: Path, rank: int) -> dict[str, FeatureCache]:
    """Where the ``metrics`` that are ``OnFeatures`` find them in ``folder``, by name: one cache for each extractor."""
    caches: dict[Path, FeatureCache] = {}
    found: dict[str, FeatureCache] = {}
    for name, metric in metrics.items():
        if isinstance(metric, OnFeatures):
            cache = FeatureCache(metric.extractor, folder, rank)
            found[name] = caches.setdefault(cache.path, cache)
    return found


def _content_sha256(output: np.ndarray | Recording) -> bytes:
    """The sha256 of an image's shape, type and pixels, in hexadecimal; of a sound's samples, with their rate."""
    content, rate = (output.samples, f"{output.rate} ") if isinstance(output, Recording) else (output, "")
    head = f"{rate}{content.dtype.str} {content.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(content).tobytes()).hexdigest().encode()
