"""Training pairs, rendered from scenes, read from folders or made of data sets; ``open_data`` opens any kind."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow.files.progress import Stage
from crossflow.model.config import TrainedModel
from crossflow.networks.whitening import Whitening
from crossflow.recipes.recipe import EventData, SceneData, SetData, TrainConfig
from crossflow.training.data.events import event_pairs, fit_to_events
from crossflow.training.data.folders import SourcePairs, open_pairs
from crossflow.training.data.pairs import Pairs
from crossflow.training.data.scenes import answered_scenes, fit_to_scenes, image_pairs, text_pairs
from crossflow.training.data.set_pairs import SetPairs, first_ends, fit_to_sets
from crossflow.training.data.sets import open_sets
from crossflow.training.data.sets.items import Items

SHOWN = 8
"""Images of a preview."""
ROWS = 6
"""Prompts of a preview."""


@runtime_checkable
class Data(Protocol):
    """Training data, located and checked: ``count`` items. ``fingerprint`` identifies data in a folder, else None."""

    @property
    def fingerprint(self) -> str | None: ...

    @property
    def count(self) -> int: ...

    def fit(self, model: TrainedModel) -> None:
        """Fit what a model has that is fitted to data before training; CrossFlowError where these data do not serve."""
        ...

    def pairs(self, model: TrainedModel, cache: Path, stage: Stage) -> Pairs:
        """The training pairs for ``model``, whose autoencoder is fitted; what is computed is stored in ``cache``."""
        ...

    def examples(self) -> tuple[list[np.ndarray], list[Any]] | None:
        """Images for previews of a model that reads them, and what it is to make of each; None for other models."""
        ...

    def prompts(self) -> Sequence[str]:
        """Prompts for previews of a model that reads texts; none where it is given others."""
        ...


def open_data(recipe: TrainConfig, folder: Path | None, seed: int) -> Data:
    """The training data of ``recipe``: those in ``folder``, or scenes; ``seed`` is that of the training.

    CrossFlowError if a folder is missing, given to a recipe that reads none, or not what the recipe reads.
    """
    return _OPEN[recipe.data.kind](recipe, folder, seed)


@dataclass(frozen=True)
class _Scenes:
    """Pairs of the embedded world."""

    recipe: TrainConfig
    fingerprint: str | None = None

    @property
    def count(self) -> int:
        return cast(SceneData, self.recipe.data).count

    def fit(self, model: TrainedModel) -> None:
        fit_to_scenes(self.recipe, model)

    def pairs(self, model: TrainedModel, cache: Path, stage: Stage) -> Pairs:
        return _OF_SCENES[self.recipe.model.reads.kind](self.recipe, model, cache, stage)

    def examples(self) -> tuple[list[np.ndarray], list[Any]] | None:
        """The first scenes of the validation split."""
        return None if self.recipe.model.reads.name == "text" else answered_scenes(self.recipe, SHOWN)

    def prompts(self) -> Sequence[str]:
        return ()


@dataclass(frozen=True)
class _Folder:
    """Pairs in a folder."""

    read: SourcePairs
    fingerprint: str | None

    @property
    def count(self) -> int:
        return len(self.read.source)

    def fit(self, model: TrainedModel) -> None:
        _refuse_whitening(model)

    def pairs(self, model: TrainedModel, cache: Path, stage: Stage) -> Pairs:
        """Items are read on demand, so there is nothing to prepare."""
        return self.read

    def examples(self) -> None:
        return None

    def prompts(self) -> Sequence[str]:
        return ()


@dataclass(frozen=True)
class _Sets:
    """Pairs made of data sets in their own layouts."""

    recipe: TrainConfig
    items: Items
    seed: int

    @property
    def fingerprint(self) -> str:
        return self.items.fingerprint

    @property
    def count(self) -> int:
        return len(self.items)

    def fit(self, model: TrainedModel) -> None:
        _refuse_whitening(model)
        fit_to_sets(self.items, self.recipe, model, self.seed)

    def pairs(self, model: TrainedModel, cache: Path, stage: Stage) -> Pairs:
        """Items are read on demand, and no frozen network is run on images: there is nothing to cache."""
        return SetPairs(self.items, self.recipe, model, self.seed)

    def examples(self) -> tuple[list[np.ndarray], list[Any]] | None:
        """The first items that can be used: what a model makes of what it was trained on."""
        return None if self.recipe.model.reads.name == "text" else first_ends(self.items, self.recipe, SHOWN)

    def prompts(self) -> Sequence[str]:
        """Captions of the first items that can be used."""
        return first_ends(self.items, self.recipe, ROWS)[0] if self.recipe.model.reads.name == "text" else ()


def _refuse_whitening(model: TrainedModel) -> None:
    if any(isinstance(part, Whitening) for part in model.modules()):
        raise CrossFlowError("Tokens are whitened by prompts of scenes: let whitened be False for other data.")


def _draws_its_own(folder: Path) -> CrossFlowError:
    return CrossFlowError(
        f"This recipe draws its own data and does not read {folder}: leave --data out, or choose one that reads data; "
        "captioned images of your own are read by own-t2i as they are, and by t2i-* and paper-70m to paper-1b once "
        "`crossflow cache` encoded them."
    )


def _scenes(recipe: TrainConfig, folder: Path | None, seed: int) -> Data:
    if folder is not None:
        raise _draws_its_own(folder)
    if recipe.model.reads.kind not in _OF_SCENES:
        raise CrossFlowError(f"Scenes have no {recipe.model.reads.kind}: choose another recipe.")
    return _Scenes(recipe)


def _folder(recipe: TrainConfig, folder: Path | None, seed: int) -> Data:
    if folder is None:
        raise CrossFlowError("This recipe reads image-text pairs from a folder: give it as --data.")
    read = SourcePairs(open_pairs(folder, recipe), recipe, seed)
    return _Folder(read, read.source.fingerprint)


def _sets(recipe: TrainConfig, folder: Path | None, seed: int) -> Data:
    layouts = cast(SetData, recipe.data).layouts
    if folder is None:
        raise CrossFlowError(f"This recipe reads the data set {' and '.join(layouts)}: give its folder as --data.")
    items = open_sets(layouts, folder)
    if (part := _PARTS.get("text" if recipe.model.reads.name == "text" else recipe.model.target.name)) is not None:
        items = items.having(part)
    return _Sets(recipe, items, seed)


_PARTS: Mapping[str, str] = {"text": "captions", "depth": "depth"}
"""The part of an item that a recipe needs beside the image, by the end of the flow that is none."""


@dataclass(frozen=True)
class _Events:
    """Pairs of modalities of events."""

    recipe: TrainConfig
    fingerprint: str | None = None

    @property
    def count(self) -> int:
        return cast(EventData, self.recipe.data).count

    def fit(self, model: Any) -> None:
        fit_to_events(self.recipe, model)

    def pairs(self, model: Any, cache: Path, stage: Stage) -> Pairs:
        return event_pairs(self.recipe, model, cache, stage)

    def examples(self) -> tuple[list[np.ndarray], list[Any]]:
        """None: what a stage has learnt shows in what is generated later."""
        return [], []

    def prompts(self) -> Sequence[str]:
        return ()


def _events(recipe: TrainConfig, folder: Path | None, seed: int) -> Data:
    if folder is not None:
        raise _draws_its_own(folder)
    return _Events(recipe)


_OPEN: Mapping[str, Callable[[TrainConfig, Path | None, int], Data]] = {
    "scenes": _scenes,
    "folder": _folder,
    "sets": _sets,
    "events": _events,
}
"""How training data are opened, by the kind of a recipe's data."""
_OF_SCENES: Mapping[str, Callable[..., Pairs]] = {"tokens": text_pairs, "image": image_pairs}
"""How pairs of scenes are made, by the kind of what a model reads."""
