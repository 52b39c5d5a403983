"""Training pairs from a folder, in epochs: the authors' feature files or our shards."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, cast

import torch
from jaxtyping import Int
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.flow.batch import Batch, Item
from crossflow.flow.losses import Draws
from crossflow.losses.towers import IMAGE_FEATURES, PIXELS, SIGLIP_WIDTH
from crossflow.modalities.kl_autoencoder import KLConfig, sample_moments
from crossflow.modalities.tokens import TokensConfig
from crossflow.recipes.recipe import PairData, TrainConfig
from crossflow.training.data.authors_layout import PAIRS, OfficialFeatures
from crossflow.training.data.pairs import Epochs, seed_of
from crossflow.training.data.shards import INDEX, KeptPair, PairSource, Shards, shard_name

OFFICIAL: Mapping[str, Literal["clip", "t5"]] = {"clip-vit-l14": "clip", "t5-v1.1-xxl": "t5"}
"""Text encoders of the authors' layout: our name -> theirs."""


def open_pairs(folder: Path, config: TrainConfig) -> PairSource:
    """The pairs in ``folder``, in either layout; CrossFlowError if they are not what the recipe reads."""
    reads = cast(TokensConfig, config.model.reads)
    if any((folder / name).exists() for name in (INDEX, shard_name(0))):
        source = Shards(folder)
        made = source.recipe.get("text", reads.model)
        if made != reads.model:
            raise CrossFlowError(
                f"The shards in {folder} hold embeddings of {made}, and this recipe reads those of "
                f"{reads.model}: make them with that text encoder, or choose another recipe."
            )
    elif (folder / PAIRS).exists():
        source = _official(folder, config)
    else:
        raise CrossFlowError(
            f"{folder} holds neither {INDEX} (our shards) nor {PAIRS} (the authors' layout): "
            "make it with crossflow cache, or give another folder."
        )
    if not len(source):
        raise CrossFlowError(f"{folder} holds no pairs: give a folder with some.")
    return source


def _official(folder: Path, config: TrainConfig) -> OfficialFeatures:
    reads = cast(TokensConfig, config.model.reads)
    size, text = cast(PairData, config.data).size, OFFICIAL.get(reads.model)
    if size not in (256, 512) or text is None:
        raise CrossFlowError(
            f"{folder} is of the authors' layout, for 256 or 512 pixels and CLIP or T5, and this recipe reads "
            f"{size} pixels and {reads.model}: make shards with crossflow cache, or choose another recipe."
        )
    return OfficialFeatures(folder, size, text, images="image" in parts_read(config))


OF_BATCH: Mapping[str, str] = {PIXELS: "image", IMAGE_FEATURES: "image_features"}
"""Entries of a batch that loss terms read -> the field of ``KeptPair`` that holds them."""


def parts_read(config: TrainConfig) -> dict[str, tuple[int, ...]]:
    """The fields of ``KeptPair`` that a recipe reads, with their shapes. CrossFlowError if there is no such field."""
    model = config.model
    channels, height, width = model.shape
    tokens = model.reads.shape
    known = {
        "image": (cast(PairData, config.data).size, cast(PairData, config.data).size, 3),
        "image_features": (SIGLIP_WIDTH,),
    }
    further = [OF_BATCH[name] for name in model.beside if name in OF_BATCH]
    if unknown := [name for name in model.beside if name not in OF_BATCH]:
        raise CrossFlowError(f"This recipe reads {unknown[0]}, which folders of pairs do not hold: choose another one.")
    shapes = {"moments": (2 * channels, height, width), "tokens": tokens, "mask": tokens[:1]}
    return shapes | {name: known[name] for name in further}


class SourcePairs:
    """The pairs of a source as training batches.

    They come in ``Epochs``. Targets are sampled from the autoencoder's posterior, scale * (mean + sd * noise), with the
    noise of the item that the target belongs to. Items with equal captions share an id. Items are read in several
    threads and checked: CrossFlowError if one is damaged, or its shapes are not the recipe's.
    """

    def __init__(self, source: PairSource, config: TrainConfig, seed: int) -> None:
        self.source = source
        self.scale = cast(KLConfig, config.model.target).scale
        self._model, self._shapes = config.model, parts_read(config)
        self._epochs = Epochs(len(source), seed)
        self._readers = ThreadPoolExecutor()
        self._item(0)

    def pick(self, step: int, count: int, generator: torch.Generator) -> Int[Tensor, "b 1"]:
        """The indices of a step's items, which depend on seed and step alone."""
        return self._epochs.rows(step, count)[:, None]

    def load(self, picks: Int[Tensor, "b 1"], draws: Draws, start: int, stop: int) -> Batch:
        """The items from ``start`` to ``stop``, with the targets of their donors; no other items are read."""
        donors = draws.donor[start:stop].tolist()
        rows = sorted({*range(start, stop), *donors})
        items = dict(zip(rows, self._readers.map(self._item, picks[rows, 0].tolist()), strict=True))
        moments = torch.stack([items[row].moments for row in rows]).float()
        targets = sample_moments(moments, cast(Tensor, draws.target_noise)[rows], self.scale)
        target_of = dict(zip(rows, targets, strict=True))
        own = [items[row] for row in range(start, stop)]
        parts = {name: torch.stack([getattr(item, name) for item in own]) for name in self._shapes if name != "moments"}
        reads, target = self._model.reads.name, self._model.target.name
        held = {
            reads: Item(parts["tokens"].float(), parts["mask"]),
            target: Item(torch.stack([target_of[row] for row in range(start, stop)])),
        }
        if "image" in parts:
            held[PIXELS] = Item(parts["image"])
        if "image_features" in parts:
            held[IMAGE_FEATURES] = Item(parts["image_features"].float())
        same = torch.tensor([seed_of(item.caption) for item in own])
        return Batch(held, same, torch.stack([target_of[row] for row in donors]))

    def _item(self, index: int) -> KeptPair:
        item = self.source.item(index)
        for name, shape in self._shapes.items():
            found = getattr(item, name)
            if found is None or tuple(found.shape) != shape:
                what = f"no {name}" if found is None else f"{name} of {list(found.shape)}"
                raise CrossFlowError(
                    f"Pair {index} of the training data has {what}, and this recipe reads {name} of {list(shape)}: "
                    "make the data for this recipe, or choose another one."
                )
        return item
