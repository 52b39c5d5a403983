"""What a training step reads, and the pairs of the embedded world.

All random numbers of a step come from one generator seeded by (seed, step), for the batch of all processes and all
accumulated parts; each then takes its share. So any number of processes or parts trains on the same batches.

The embedded world's pairs are computed once and kept as one safetensors file: target latents, and a table of distinct
captions that items point into.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.files.tensors import read_tensors, write_tensors
from crossflow.flow.losses import Draws, draw
from crossflow.modalities.patch_pca import PatchPCA
from crossflow.modalities.protocols import TextEmbedder
from crossflow.model.crossflow import Batch
from crossflow.recipes.recipe import SceneData, TrainConfig
from crossflow.scenes.render import render
from crossflow.scenes.spec import VERSION as WORLD
from crossflow.scenes.splits import example

CHUNK = 4096
"""Scenes or captions computed at once."""
T = TypeVar("T")


@runtime_checkable
class Pairs(Protocol):
    """What training reads: the items of a step are picked for all processes at once, and each loads its own."""

    def pick(self, step: int, count: int, generator: torch.Generator) -> Int[Tensor, "b k"]:
        """Pick the items of a whole step, as numbers that only ``load`` understands."""
        ...

    def load(self, picks: Int[Tensor, "b k"], draws: Draws, start: int, stop: int) -> Batch:
        """The items from ``start`` to ``stop`` of a step's ``picks``, each with what the flow is to carry it to."""
        ...


class Share(NamedTuple):
    """What one process computes at once of a step: items and their draws, the first of them the step's ``start``-th."""

    start: int
    batch: Batch
    draws: Draws


def shares(
    pairs: Pairs, config: TrainConfig, seed: int, first: int = 0, process: int = 0, processes: int = 1
) -> Iterator[Share]:
    """One process' shares of the steps from ``first`` to the end, ``config.accumulate`` of them a step."""
    size, model = config.batch_size // (config.accumulate * processes), config.model
    for step in range(first, config.steps):
        generator = torch.Generator().manual_seed(seed_of(seed, step))
        picks = pairs.pick(step, config.batch_size, generator)
        draws = draw(config.batch_size, model.shape, model.null_rate, generator, model.draws_targets, model.times)
        for part in range(config.accumulate):
            start = (part * processes + process) * size
            yield Share(start, pairs.load(picks, draws, start, start + size), draws.rows(start, start + size))


def read_ahead(values: Iterator[T]) -> Iterator[T]:
    """The same values, each made in the background while the one before it is used."""
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(next, values, None)
        while (value := ahead.result()) is not None:
            ahead = reader.submit(next, values, None)
            yield value


def seed_of(*parts: int | str) -> int:
    """A number of 63 bits, for instance to seed a generator with, that differs wherever the parts do."""
    text = ",".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class CachedPairs:
    """Targets, and for each item the rows of its captions in the tables ``tokens`` and ``mask``."""

    targets: Float[Tensor, "n c h w"]
    captions: Int[Tensor, "n k"]
    tokens: Float[Tensor, "v m d"]
    mask: Bool[Tensor, "v m"]

    def pick(self, step: int, count: int, generator: torch.Generator) -> Int[Tensor, "b 2"]:
        """Draw ``count`` items with replacement, and one of the captions of each: item and row of the caption."""
        rows = torch.randint(len(self.targets), (count,), generator=generator)
        choice = torch.randint(self.captions.shape[1], (count,), generator=generator)
        return torch.stack([rows, self.captions[rows, choice]], dim=1)

    def load(self, picks: Int[Tensor, "b 2"], draws: Draws, start: int, stop: int) -> Batch:
        """The items from ``start`` to ``stop`` of a step's ``picks``, each with what the flow is to carry it to."""
        rows, caption = picks[start:stop].unbind(1)
        goal = self.targets[picks[draws.donor[start:stop], 0]]
        return Batch(self.targets[rows], self.tokens[caption].float(), self.mask[caption], caption, goal)


def kept(folder: Path, settings: Mapping[str, Any], kind: Callable[..., T], make: Callable[[], T]) -> T:
    """The pairs of ``settings`` in the cache ``folder``, read as ``kind``, or made by ``make`` and put there.

    The file's name is a digest of the settings, which are all that decides its content, so that a cache is never taken
    for another. CrossFlowError where a file is not whole.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    path = folder / f"pairs-{digest}.safetensors"
    if path.exists():
        try:
            return kind(**read_tensors(path)[1])
        except (CrossFlowError, TypeError) as error:
            raise CrossFlowError(f"The cache {path} cannot be read: remove it, and it is made again.") from error
    pairs = make()
    write_tensors(path, vars(pairs), settings)
    return pairs


def scene_images(split: str, count: int, size: int) -> UInt8[Tensor, "n s s 3"]:
    """The first ``count`` renders of a split."""
    return torch.from_numpy(np.stack([render(example(split, i).scene, size) for i in range(count)]))


def scene_pairs(
    data: SceneData,
    token_count: int,
    autoencoder: PatchPCA,
    embedder: TextEmbedder,
    folder: Path,
    progress: Callable[[str], None],
) -> CachedPairs:
    """The training pairs of the embedded world, from the cache in ``folder`` or made and put there."""
    settings = {
        "world": WORLD,
        "data": dataclasses.asdict(data),
        "token_count": token_count,
        "autoencoder": dataclasses.asdict(autoencoder.config),
    }
    make = partial(_computed, data, token_count, autoencoder, embedder, progress)
    return kept(folder, settings, CachedPairs, make)


def _computed(
    data: SceneData,
    token_count: int,
    autoencoder: PatchPCA,
    embedder: TextEmbedder,
    progress: Callable[[str], None],
) -> CachedPairs:
    targets: list[Tensor] = []
    texts: list[list[str]] = []
    for start in range(0, data.count, CHUNK):
        examples = [example("train", i) for i in range(start, min(start + CHUNK, data.count))]
        images = np.stack([render(each.scene, data.size) for each in examples])
        targets.append(autoencoder.encode(torch.from_numpy(images)))
        texts.extend([each.captions[k] for k in data.captions] for each in examples)
        progress(f"drew {len(texts)} of {data.count} scenes")
    table = {text: row for row, text in enumerate(sorted({text for item in texts for text in item}))}
    captions, tokens, masks = list(table), [], []
    for start in range(0, len(captions), CHUNK):
        part, mask = embedder.embed(captions[start : start + CHUNK], token_count)
        tokens.append(part.half())
        masks.append(mask)
        progress(f"embedded {min(start + CHUNK, len(captions))} of {len(captions)} captions")
    rows = torch.tensor([[table[text] for text in item] for item in texts])
    return CachedPairs(torch.cat(targets), rows, torch.cat(tokens), torch.cat(masks))
