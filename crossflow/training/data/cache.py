"""Encoding a folder of captioned images into shards of latents and token embeddings, for ``crossflow cache``.

Pairs are ordered by image path, then by caption. Shard k holds the same pairs whichever process makes it, and all of it
is computed in batches of a fixed size, so that any number of processes, stopped and restarted at any time, produces
the same bytes.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from crossflow.errors import CrossFlowError, first_few
from crossflow.files.captions import Pair, read_pairs
from crossflow.files.images import read_image
from crossflow.files.locks import writing_in
from crossflow.files.progress import Stage, chunks, silent
from crossflow.files.tensors import read_header
from crossflow.modalities.kl_autoencoder import center_crop
from crossflow.modalities.modality import TextEmbedder
from crossflow.training.data.shards import INDEX, KeptPair, Shard, read_index, shard_name, write_index, write_shard

CHUNK = 16
"""Batch size for images and captions; the last batch of a shard is padded to it."""
T = TypeVar("T")


@runtime_checkable
class Moments(Protocol):
    """The part of an autoencoder that a cache needs."""

    def moments(self, images: UInt8[Tensor, "b s s 3"]) -> Float[Tensor, "b m i j"]:
        """Mean and log-variance of the latents, unscaled."""
        ...


@runtime_checkable
class ImageFeatures(Protocol):
    """A frozen image encoder for the contrastive loss of some recipes, such as ``FrozenSiglip``."""

    def features(self, images: UInt8[Tensor, "b s s 3"]) -> Float[Tensor, "b f"]:
        """Features of RGB images."""
        ...


def cache(
    images: Path,
    captions: Path | None,
    out: Path,
    embedder: TextEmbedder,
    autoencoder: Moments,
    *,
    recipe: Mapping[str, Any],
    size: int = 256,
    token_count: int = 77,
    per_shard: int = 1024,
    tokens_dtype: Literal["float32", "float16"] = "float32",
    keep_images: bool = False,
    image_tower: ImageFeatures | None = None,
    skip_bad: bool = False,
    process_index: int = 0,
    process_count: int = 1,
    progress: Callable[[str], None] = lambda line: None,
    stage: Stage = silent,
) -> Path:
    """Encode the captioned images below ``images`` (see ``read_pairs``) into shards in ``out``, and return ``out``.

    Images are centre-cropped to ``size`` pixels; ``keep_images`` also stores these, ``image_tower`` their features.
    ``recipe``, plain JSON values, should name embedder and autoencoder with the hashes of their weights; it is stored
    in the index, with the sizes. Process ``process_index`` makes every ``process_count``-th shard, and the process that
    finds all shards complete writes the index. Complete shards are kept, so the same call resumes. An image that cannot
    be read is an error or, with ``skip_bad``, is left out and listed in the index.

    CrossFlowError for captions or images that cannot be read, if ``out`` holds other shards or an index of something
    else, and if another launch writes there.
    """
    if per_shard < 1 or not 0 <= process_index < process_count:
        raise CrossFlowError(
            f"There cannot be {per_shard} pairs a shard, or a process {process_index} of {process_count}: "
            "give at least 1, and number the processes from 0."
        )
    pairs = read_pairs(images, captions, progress)
    settings = {"size": size, "token_count": token_count, "tokens_dtype": tokens_dtype, "keep_images": keep_images}
    recipe = dict(recipe) | settings | ({} if image_tower is None else {"image_features": True})
    plan = _plan(pairs, recipe, per_shard)
    total = -(-len(pairs) // per_shard)
    dtype = getattr(torch, tokens_dtype)
    maker = _Maker(images, embedder, autoencoder, image_tower, size, token_count, dtype, keep_images, skip_bad)
    with writing_in(out, "encoding") if process_index == 0 else nullcontext():
        left = _unfinished(out, plan, total)
        if (out / INDEX).exists():
            read_index(out / INDEX)
        own = range(process_index, total, process_count)
        todo = [number for number in own if number in left or not _is_whole(out / shard_name(number))]
        for place in chunks(stage, "encoding", "shards", len(todo), 1, there=len(own) - len(todo)):
            number = todo[place]
            path = out / shard_name(number)
            items, skipped = maker.items(pairs[number * per_shard : (number + 1) * per_shard])
            write_shard(path, items, {"plan": f"{plan} {number}", "recipe": recipe, "skipped": skipped})
            without = (
                f", without {len(skipped)} images that cannot be read ({first_few(skipped, 3)})" if skipped else ""
            )
            progress(f"shard {number + 1} of {total}: {len(items)} pairs{without}")
        if left := _unfinished(out, plan, total):
            progress(f"{len(left)} of {total} shards are left to other processes")
        else:
            write_index(out, total, recipe, str(process_index))
    return out


def _plan(pairs: Sequence[Pair], recipe: Mapping[str, Any], per_shard: int) -> str:
    """A digest of everything that determines the shards, except the content of the images."""
    digest = hashlib.sha256(json.dumps([recipe, per_shard], sort_keys=True).encode())
    for pair in pairs:
        digest.update(json.dumps(pair).encode())
    return digest.hexdigest()


def _unfinished(out: Path, plan: str, total: int) -> set[int]:
    """The shards that are missing or truncated; CrossFlowError for a shard of another plan."""
    left = set()
    for number in range(total):
        path = out / shard_name(number)
        try:
            header = read_header(path)
        except CrossFlowError:
            left.add(number)
            continue
        if header.get("plan") != f"{plan} {number}":
            raise CrossFlowError(f"{path} is of other images, captions or settings: choose another folder.")
    return left


def _is_whole(path: Path) -> bool:
    """Whether every item of a shard is intact."""
    try:
        shard = Shard(path)
        for row in range(shard.count):
            shard.item(row)
    except CrossFlowError:
        return False
    return True


@dataclass(frozen=True)
class _Maker:
    """Encodes pairs."""

    folder: Path
    embedder: TextEmbedder
    autoencoder: Moments
    image_tower: ImageFeatures | None
    size: int
    token_count: int
    tokens_dtype: torch.dtype
    keep_images: bool
    skip_bad: bool

    @torch.inference_mode()
    def items(self, pairs: Sequence[Pair]) -> tuple[list[KeptPair], list[str]]:
        """The items of one shard, and the images left out. An image with several captions is encoded once."""
        moments: dict[str, Tensor] = {}
        pixels: dict[str, Tensor] = {}
        features: dict[str, Tensor] = {}
        names = list(dict.fromkeys(pair.image for pair in pairs))
        with ThreadPoolExecutor() as pool:
            for part in _chunks(names):
                read = zip(part, pool.map(self._read, part), strict=True)
                good = {name: image for name, image in read if image is not None}
                moments |= zip(good, _by_chunk(self.autoencoder.moments, list(good.values())), strict=True)
                if self.image_tower is not None:
                    features |= zip(good, _by_chunk(self.image_tower.features, list(good.values())), strict=True)
                pixels |= good if self.keep_images else {}
        kept = [pair for pair in pairs if pair.image in moments]
        items = []
        for part in _chunks(kept):
            tokens, mask = self.embedder.embed([pair.caption for pair in _padded(part)], self.token_count)
            for i, (image, caption) in enumerate(part):
                row = tokens[i].to("cpu", self.tokens_dtype)
                if not (moments[image].isfinite().all() and row.isfinite().all()):
                    raise CrossFlowError(f"{image} or its caption '{caption}' gave numbers that are not finite.")
                seen = pixels.get(image), features.get(image)
                items.append(KeptPair(moments[image], row, mask[i].cpu(), caption, *seen))
        return items, [name for name in names if name not in moments]

    def _read(self, name: str) -> Tensor | None:
        try:
            return torch.from_numpy(np.array(center_crop(read_image(self.folder / name), self.size)))
        except CrossFlowError as error:
            if self.skip_bad:
                return None
            raise CrossFlowError(f"{str(error).rstrip('.')}, or leave out such images by --skip-bad.") from error


def _by_chunk(compute: Callable[[Tensor], Tensor], images: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of ``compute`` for at most CHUNK images, padded to CHUNK."""
    return list(compute(torch.stack(_padded(images))).float().cpu()[: len(images)]) if images else []


def _chunks(rows: Sequence[T]) -> list[Sequence[T]]:
    return [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]


def _padded(rows: Sequence[T]) -> list[T]:
    """``rows`` padded to CHUNK with copies of the last one."""
    return [*rows, *[rows[-1]] * (CHUNK - len(rows))]
