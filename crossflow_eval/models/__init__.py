"""What is measured: our own checkpoints, outputs made elsewhere, a pipeline, or any object of another package.

Only this room, and the suites of the embedded world, run ``crossflow``'s models. Torch is imported when one is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path

from crossflow.errors import unknown
from crossflow_eval.models import other
from crossflow_eval.models.any_to_any import CrossFlowAny
from crossflow_eval.models.arithmetic import CrossFlowArithmetic
from crossflow_eval.models.compression import CrossFlowCompression
from crossflow_eval.models.crossflow import CrossFlowModel
from crossflow_eval.models.depth_folder import DepthFolderModel
from crossflow_eval.models.folder import FolderModel
from crossflow_eval.models.image_model import ENDS, CrossFlowImageModel, captioner
from crossflow_eval.models.media_folder import films, recordings
from crossflow_eval.models.predictions import PredictedCaptions
from crossflow_eval.types import MadeElsewhere, Model

ENTRY_POINTS = "crossflow_eval.models"
BUILT_IN = ("crossflow", "folder")
FORMS = ("diffusers:PATH_OR_ID", "package.module:factory")
"""What a model can be named by besides: a pipeline, and an object of any module."""

OURS: Mapping[str, Callable[..., Model]] = {
    "t2i": CrossFlowModel,
    "caption": captioner,
    **{task: partial(CrossFlowImageModel, task) for task in ("depth", "sr")},
    "arithmetic": CrossFlowArithmetic,
    "compression": CrossFlowCompression,
    "any": CrossFlowAny,
}
"""What a checkpoint of ours is built as, by the task of the suite."""

ANY_SIZE = tuple(ENDS)
"""The tasks whose models read images, of any size where a suite's have not one."""

READERS: Mapping[str, tuple[str, Callable[[Path], MadeElsewhere]]] = {
    "png": ("the folder that holds the outputs", FolderModel),
    "npy": ("the folder that holds the outputs", DepthFolderModel),
    "txt": ("the file of captions", PredictedCaptions),
    "wav": ("the folder that holds the outputs", recordings),
    "webp": ("the folder that holds the outputs", films),
}
"""What reads outputs made elsewhere, and what it reads in words, by the kind of output; a suite may have its own."""


def other_models() -> dict[str, metadata.EntryPoint]:
    """The models that installed packages offer under the entry point group ``crossflow_eval.models``."""
    return {entry.name: entry for entry in metadata.entry_points(group=ENTRY_POINTS)}


def pipeline_folder(source: str, holds: str) -> Path:
    """The folder ``source``, or that of the pipeline ``source`` in the local hub cache. Raises CrossFlowError."""
    from crossflow.files.pretrained import local_folder

    return local_folder(source, holds)


def load_model(name: str) -> Model:
    """Build a model given as ``package.module:factory`` or by the name of an entry point; called without arguments.

    Raises:
        CrossFlowError: an unknown name, a module or factory that is not there, an object that is no model.
    """
    if ":" in name:
        return other.build(name, other.find(name))
    if name in other_models():
        return other.build(name, other.loaded(name, other_models()[name]))
    raise unknown("model", name, [*BUILT_IN, *other_models(), *FORMS])
