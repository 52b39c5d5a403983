"""Training pairs made of the items of data sets: cut, resized, mirrored and prepared by the modalities of a recipe.

Items are read when they are needed, in several threads. What is drawn for an item, its place, its mirroring and its
caption, is drawn with the items of the whole step, so a run that was stopped resumes to the same bits, and any number
of processes trains on the same batches.
"""

import contextlib
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import ndimage
from torch import Tensor

from crossflow.errors import CrossFlowError, Notice
from crossflow.files.processes import file_threads
from crossflow.files.resizing import BENCHMARK, benchmark_corner, covering, cut, shrunk_pair
from crossflow.flow.batch import Batch, Item
from crossflow.flow.losses import Draws
from crossflow.modalities.components import PatchComponents
from crossflow.modalities.modality import Modality
from crossflow.modalities.pixels import ImageConfig
from crossflow.modalities.tokens import TokensConfig
from crossflow.model.config import FlowModel, ModelConfig
from crossflow.recipes.recipe import SetData, TrainConfig
from crossflow.training.data.pairs import Epochs, seed_of
from crossflow.training.data.sets.items import Items, Raw, TooSmall

DRAWS = 1 << 30
"""What is drawn for an item are numbers below this."""
AS_IT_IS = (DRAWS // 2, DRAWS // 2, DRAWS, 0)
"""The draws of an item that is cut in the centre, not mirrored, and has its first caption."""
TRIES = 64
"""Other items that are tried in the place of one that cannot be used."""
FITTED = 1 << 22
"""Pixels of the images that an autoencoder is fitted to: a thousand of 64 pixels a side."""
FEW, MOST = 8, 0.1
"""More than FEW files that cannot be read, and more than this share of those that were, end a training."""


class Prepared(NamedTuple):
    """One item as it goes into a batch; ``measured`` says where its target is known, None is everywhere.

    ``source`` is an image, or a text.
    """

    source: np.ndarray | str
    target: Tensor
    measured: Tensor | None
    same: int


class SetPairs:
    """The items of data sets as training batches, in epochs.

    In the place of an item that cannot be used stands another, the same in every epoch and process: one whose file is
    missing or damaged is named once, in a Notice; one that is too small is left out as the paper does. CrossFlowError
    where this is so of more than a few files, and for items without what the recipe reads.
    """

    def __init__(self, items: Items, recipe: TrainConfig, model: FlowModel, seed: int) -> None:
        self.items, self.seed = items, seed
        self.data, self.model = cast(SetData, recipe.data), recipe.model
        self.target: Modality = model.autoencoder
        self._sources = sources_of(recipe.model)
        self._epochs = Epochs(len(items), seed)
        self._readers = ThreadPoolExecutor()
        self._lock = threading.Lock()
        self._used = 0
        self._broken: set[int] = set()

    def pick(self, step: int, count: int, generator: torch.Generator) -> Int[Tensor, "b 5"]:
        """A step's items, each with its draws: the row and column of what is cut of it, its mirroring, its caption."""
        rows = self._epochs.rows(step, count)
        return torch.cat([rows[:, None], torch.randint(DRAWS, (count, 4), generator=generator)], dim=1)

    def load(self, picks: Int[Tensor, "b 5"], draws: Draws, start: int, stop: int) -> Batch:
        """The items from ``start`` to ``stop``, with the targets of their donors; no other items are read."""
        donors = draws.donor[start:stop].tolist()
        rows = sorted({*range(start, stop), *donors})
        items = dict(zip(rows, self._readers.map(self._item, picks[rows].tolist()), strict=True))
        own = [items[row] for row in range(start, stop)]
        held = {
            self.model.reads.name: self._sources([item.source for item in own]),
            self.model.target.name: Item(self._targets(own)),
        }
        given = [items[row] for row in donors]
        parts = [item.measured for item in given]
        measured = torch.stack(cast(list[Tensor], parts)) if parts[0] is not None else None
        same = torch.tensor([item.same for item in own])
        return Batch(held, same, self._targets(given), measured)

    def _targets(self, items: Sequence[Prepared]) -> Tensor:
        return self.target.values(torch.stack([item.target for item in items]))

    def _item(self, pick: list[int]) -> Prepared:
        """An item, or the first of those that stand in its place that can be used."""
        index, *draws = pick
        why = ""
        for attempt in range(TRIES):
            place = seed_of(self.seed, "instead", index, attempt) % len(self.items) if attempt else index
            try:
                found = self._prepared(place, draws)
            except CrossFlowError as error:
                why = str(error).rstrip(".")
                if not isinstance(error, TooSmall):
                    self._leave_out(place, str(error))
                continue
            with self._lock:
                self._used += 1
            return found
        raise CrossFlowError(
            f"{TRIES} items in a row cannot be used, {self.items.names[index]} the first of them; of the last, {why}; "
            "mend them, or give another data set or a smaller recipe."
        )

    def _leave_out(self, place: int, why: str) -> None:
        with self._lock:
            new = place not in self._broken
            self._broken.add(place)
            broken, tried = len(self._broken), len(self._broken) + self._used
        if new:
            warnings.warn(Notice(f"{self.items.names[place]} is left out: {why}"), stacklevel=2)
        if broken > FEW and broken > MOST * tried:
            raise CrossFlowError(
                f"{broken} of {tried} items that were read cannot be used, the last one {self.items.names[place]}: "
                f"{why.rstrip('.')}; get these again, or take them away."
            )

    def _prepared(self, place: int, draws: Sequence[int]) -> Prepared:
        source, target = ends(self.items, place, self.data, self.model, draws)
        stored = self.target.prepare([target])[0]
        if self.model.target.name != "depth":
            text = next((end for end in (source, target) if isinstance(end, str)), None)
            return Prepared(source, stored, None, place if text is None else seed_of(text))
        return Prepared(source, *filled(stored), place)


def sources_of(model: ModelConfig) -> Callable[[Sequence[Any]], Item]:
    """What makes the entry of a batch of what a model reads: token embeddings of texts, or images."""
    reads = model.reads
    if isinstance(reads, TokensConfig):
        embedder = reads.embedder()
        return lambda texts: Item(*embedder.embed(texts, reads.count))
    pixels = cast(ImageConfig, reads).build()
    return lambda images: Item(pixels.values(torch.from_numpy(np.stack(images))))


def ends(
    items: Items,
    index: int,
    data: SetData,
    model: ModelConfig,
    draws: Sequence[int] = AS_IT_IS,
) -> tuple[np.ndarray | str, Any]:
    """What a model reads of an item, uint8 RGB [h w 3] or a caption, and what it is to make of it: raw data of its
    target.

    ``draws`` are those of ``SetPairs.pick``. Raises ``TooSmall`` for an image that is left out, and CrossFlowError for
    one without what the model gives.
    """
    raw, name = items.read(index), items.names[index]
    down, right, mirror, choice = draws
    place = (down / DRAWS, right / DRAWS) if data.crop == "random" else (0.5, 0.5)

    def taken(values: np.ndarray) -> np.ndarray:
        values = _window(values, data, place)
        return np.ascontiguousarray(values[:, ::-1]) if mirrored else values

    mirrored = mirror / DRAWS < data.flip
    if model.reads.kind == "tokens":
        return _caption(raw, name, choice), taken(raw.image)
    if model.target.name == "image":
        high, low = model.shape[1], model.reads.shape[1]
        if min(raw.image.shape[:2]) < high:
            raise TooSmall(f"{name} is smaller than {high} pixels.")
        return shrunk_pair(raw.image[:, ::-1] if mirrored else raw.image, high, low)
    if model.target.name == "text":
        return taken(raw.image), _caption(raw, name, choice)
    if raw.depth is None:
        raise CrossFlowError(f"{name} has no depth, and this recipe is of depth.")
    if raw.depth.shape != raw.image.shape[:2]:
        sides = [" x ".join(map(str, part.shape[:2])) for part in (raw.image, raw.depth)]
        raise CrossFlowError(f"{name} is {sides[0]} pixels and its depth {sides[1]}: resize one to the other.")
    depth = taken(raw.depth)
    if not np.isfinite(depth).any():
        raise CrossFlowError(f"{name} has no measured depth in what is cut of it.")
    return taken(raw.image), depth


def _caption(raw: Raw, name: str, choice: int) -> str:
    if not raw.captions:
        raise CrossFlowError(f"{name} has no captions, and this recipe is of captions.")
    return raw.captions[choice % len(raw.captions)]


def _window(values: np.ndarray, data: SetData, place: tuple[float, float]) -> np.ndarray:
    """The part of an image, or of its depth, that is trained on."""
    if data.benchmark and values.shape[1] > BENCHMARK[1] and values.shape[0] >= BENCHMARK[0]:
        top, left = benchmark_corner(*values.shape[:2])
        values = values[top : top + BENCHMARK[0], left : left + BENCHMARK[1]]
    make = covering if data.resize else cut
    return make(values, data.size, place)


def filled(latents: Float[Tensor, "c h w"]) -> tuple[Float[Tensor, "c h w"], Tensor]:
    """Latents of depth with their holes (NaN) filled, and where they were measured, bool [1 h w].

    The rule is ``nearest``: a hole has the value of the nearest measured cell, in pixels. The flow needs a whole target
    for the states along its path; its loss is taken where there was a measurement.
    """
    measured = latents.isfinite().all(0)
    if measured.all():
        return latents, measured[None]
    nearest: Any = ndimage.distance_transform_edt(~measured.numpy(), return_distances=False, return_indices=True)
    rows, columns = torch.from_numpy(nearest)
    return latents[:, rows, columns], measured[None]


def first_ends(items: Items, recipe: TrainConfig, count: int) -> tuple[list[Any], list[Any]]:
    """Both ``ends`` of the first ``count`` items that can be used; empty lists where none of the first few can."""
    found: list[tuple[Any, Any]] = []
    for index in range(min(TRIES, len(items))):
        if len(found) < count:
            with contextlib.suppress(CrossFlowError):
                found.append(ends(items, index, cast(SetData, recipe.data), recipe.model))
    return [source for source, _ in found], [target for _, target in found]


def fit_to_sets(items: Items, recipe: TrainConfig, model: FlowModel, seed: int) -> None:
    """Fit the autoencoder of ``model`` to images of the data sets, drawn by ``seed``, if it is fitted to any.

    CrossFlowError where none of those that were drawn can be used.
    """
    if not model.autoencoder.fits:
        return
    data = cast(SetData, recipe.data)
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed_of(seed, "fit"))).tolist()
    why = ""

    def target(index: int) -> Any:
        nonlocal why
        try:
            return ends(items, index, data, recipe.model)[1]
        except CrossFlowError as error:
            why = str(error)
            return None

    with file_threads() as pool:
        found = pool.map(target, order[: max(1, FITTED // (data.size[0] * data.size[1]))])
        raw = [torch.from_numpy(each) for each in found if each is not None]
    if not raw:
        raise CrossFlowError(f"No image can be used; of the last, {why.rstrip('.')}: give another data set.")
    cast(PatchComponents, model.autoencoder).fit(torch.stack(raw))
