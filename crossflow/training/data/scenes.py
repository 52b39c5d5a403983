"""The text-image pairs of the embedded world.

They are computed once and kept as one safetensors file: target latents, and a table of distinct captions that items
point into.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from crossflow.flow.losses import Draws
from crossflow.modalities.patch_pca import PatchPCA
from crossflow.modalities.protocols import TextEmbedder
from crossflow.model.crossflow import Batch
from crossflow.recipes.recipe import SceneData
from crossflow.scenes.render import render
from crossflow.scenes.spec import VERSION as WORLD
from crossflow.scenes.splits import example
from crossflow.training.data.pairs import kept

CHUNK = 4096
"""Scenes or captions computed at once."""


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
