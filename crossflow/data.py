"""Cached latents and token embeddings, and the batches drawn from them.

Everything a training step reads is computed once and kept as one safetensors file: target latents, and a table of
distinct captions that items point into. A batch is a pure function of the generator it is drawn with.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from crossflow.checkpoint import read_tensors, write_tensors
from crossflow.configs import SceneData
from crossflow.errors import CrossFlowError
from crossflow.latents import PatchPCA, TextEmbedder
from crossflow.losses import Draws
from crossflow.model import Batch
from crossflow.scenes.render import render
from crossflow.scenes.spec import VERSION as WORLD
from crossflow.scenes.splits import example

CHUNK = 4096
"""Scenes or captions computed at once."""


@runtime_checkable
class Pairs(Protocol):
    """What training reads: the items of a step are picked for all processes at once, and each loads its own."""

    def pick(self, step: int, count: int, generator: torch.Generator) -> Int[Tensor, "b 2"]:
        """Pick the items of a whole step, as numbers that only ``load`` understands."""
        ...

    def load(self, picks: Int[Tensor, "b 2"], draws: Draws, start: int, stop: int) -> Batch:
        """The items from ``start`` to ``stop`` of a step's ``picks``, each with what the flow is to carry it to."""
        ...


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


def load_pairs(path: Path) -> CachedPairs:
    """Read a cache back; CrossFlowError where it is not whole."""
    try:
        return CachedPairs(**read_tensors(path)[1])
    except (CrossFlowError, TypeError) as error:
        raise CrossFlowError(f"The cache {path} cannot be read: remove it, and it is made again.") from error


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
    """The training pairs of the embedded world, from the cache in ``folder`` or made and put there.

    The file's name is a digest of all that decides its content, so a cache is never taken for another.
    """
    settings = {
        "world": WORLD,
        "data": dataclasses.asdict(data),
        "token_count": token_count,
        "autoencoder": dataclasses.asdict(autoencoder.config),
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    path = folder / f"pairs-{digest}.safetensors"
    if path.exists():
        return load_pairs(path)
    pairs = _computed(data, token_count, autoencoder, embedder, progress)
    write_tensors(path, vars(pairs), settings)
    return pairs


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
