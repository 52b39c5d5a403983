"""Training pairs, rendered from scenes or read from folders; ``open_data`` opens either kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from crossflow.errors import CrossFlowError
from crossflow.files.progress import Stage
from crossflow.model.config import FlowModel
from crossflow.recipes.recipe import TrainConfig
from crossflow.training.data.folders import SourcePairs, open_pairs
from crossflow.training.data.pairs import Pairs
from crossflow.training.data.scenes import image_pairs, text_pairs


@runtime_checkable
class Data(Protocol):
    """Training data, located and checked. ``fingerprint`` identifies data in a folder; None if none is read."""

    @property
    def fingerprint(self) -> str | None: ...

    def pairs(self, model: FlowModel, cache: Path, stage: Stage) -> Pairs:
        """The training pairs for ``model``, whose autoencoder is fitted; what is computed is stored in ``cache``."""
        ...


def open_data(recipe: TrainConfig, folder: Path | None, seed: int) -> Data:
    """The training data of ``recipe``: those in ``folder``, or scenes.

    CrossFlowError if a folder is missing, given to a recipe that reads none, or not what the recipe reads.
    """
    return _OPEN[recipe.data.kind](recipe, folder, seed)


@dataclass(frozen=True)
class _Scenes:
    """Pairs of the embedded world."""

    recipe: TrainConfig
    fingerprint: str | None = None

    def pairs(self, model: FlowModel, cache: Path, stage: Stage) -> Pairs:
        return _OF_SCENES[self.recipe.model.reads.kind](self.recipe, model, cache, stage)


@dataclass(frozen=True)
class _Folder:
    """Pairs in a folder."""

    read: SourcePairs
    fingerprint: str | None

    def pairs(self, model: FlowModel, cache: Path, stage: Stage) -> Pairs:
        """Items are read on demand, so there is nothing to prepare."""
        return self.read


def _scenes(recipe: TrainConfig, folder: Path | None, seed: int) -> Data:
    if folder is not None:
        raise CrossFlowError(f"This recipe draws its own data and does not read {folder}: leave --data out.")
    if recipe.model.reads.kind not in _OF_SCENES:
        raise CrossFlowError(f"Scenes have no {recipe.model.reads.kind}: choose another recipe.")
    return _Scenes(recipe)


def _folder(recipe: TrainConfig, folder: Path | None, seed: int) -> Data:
    if folder is None:
        raise CrossFlowError("This recipe reads image-text pairs from a folder: give it as --data.")
    read = SourcePairs(open_pairs(folder, recipe), recipe, seed)
    return _Folder(read, read.source.fingerprint)


_OPEN: Mapping[str, Callable[[TrainConfig, Path | None, int], Data]] = {"scenes": _scenes, "folder": _folder}
"""How training data are opened, by the kind of a recipe's data."""
_OF_SCENES: Mapping[str, Callable[..., Pairs]] = {"tokens": text_pairs, "image": image_pairs}
"""How pairs of scenes are made, by the kind of what a model reads."""
