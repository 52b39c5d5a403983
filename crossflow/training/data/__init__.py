"""Training pairs: drawn from scenes, or read from folders and shards. All of them open by ``open_data``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from crossflow.errors import CrossFlowError
from crossflow.model.standard import FlowModel
from crossflow.recipes.recipe import TrainConfig
from crossflow.training.data.folders import SourcePairs, open_pairs
from crossflow.training.data.pairs import Pairs
from crossflow.training.data.scenes import image_pairs, text_pairs

Say = Callable[[str], None]


@runtime_checkable
class Data(Protocol):
    """Training data, found and checked. ``fingerprint`` tells data from outside apart; None where none are read."""

    @property
    def fingerprint(self) -> str | None:
        """A sha256, or None."""
        ...

    def pairs(self, model: FlowModel, cache: Path, say: Say) -> Pairs:
        """What training reads, for ``model`` with its modality fitted; what has to be made is kept in ``cache``."""
        ...


def open_data(recipe: TrainConfig, folder: Path | None, seed: int) -> Data:
    """The training data of ``recipe``: those in ``folder``, or those that it draws itself.

    CrossFlowError where a folder is missing, is given to a recipe that reads none, or is not what the recipe reads.
    """
    return _OPEN[recipe.data.kind](recipe, folder, seed)


@dataclass(frozen=True)
class _Scenes:
    """Data of the embedded world."""

    recipe: TrainConfig
    fingerprint: str | None = None

    def pairs(self, model: FlowModel, cache: Path, say: Say) -> Pairs:
        """Drawn, or read from the cache."""
        return _OF_SCENES[self.recipe.model.reads.kind](self.recipe, model, cache, say)


@dataclass(frozen=True)
class _Folder:
    """Data in a folder."""

    read: SourcePairs
    fingerprint: str | None

    def pairs(self, model: FlowModel, cache: Path, say: Say) -> Pairs:
        """Read as they are asked for."""
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
"""By the kind of a recipe's data."""
_OF_SCENES: Mapping[str, Callable[..., Pairs]] = {"tokens": text_pairs, "image": image_pairs}
"""By the kind of what a model reads."""
