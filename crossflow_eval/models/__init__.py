"""What is measured: our own checkpoints, a folder of outputs made elsewhere, or any object of another package.

Only this room, and the suites of the embedded world, run ``crossflow``'s models. Torch is imported when one is built.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from crossflow.errors import CrossFlowError, first_few, unknown
from crossflow.files.devices import own_device
from crossflow_eval.datasets.folder import ImageFolder, read_folder, read_image
from crossflow_eval.types import Example, Model, Output

ENTRY_POINTS = "crossflow_eval.models"
BUILT_IN = ("crossflow", "folder")
FORMS = ("diffusers:PATH_OR_ID", "package.module:factory")
"""What a model can be named by besides: a pipeline, and an object of any module."""


@runtime_checkable
class Lookup(Protocol):
    """What stands in for a model where outputs exist already: they are looked up by example, not made from sources."""

    name: str
    identity: Mapping[str, Any]

    def read(self, example_id: str, index: int) -> Output:
        """Return the ``index``-th output of an example."""
        ...


class CrossFlowModel:
    """A CrossFlow text-to-image checkpoint; without ``checkpoint`` the shipped one.

    ``solver``, ``steps`` and ``guidance_scale`` left None are the ones the checkpoint recommends.
    ``device``: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N". The others are those of
    ``crossflow.TextToImage.from_checkpoint``, which released checkpoints need.
    """

    def __init__(
        self,
        checkpoint: Path | None = None,
        *,
        solver: str | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        text_encoder: Path | None = None,
        autoencoder: Path | None = None,
        precision: str = "auto",
        device: str = "auto",
    ) -> None:
        check_sampling(solver, steps, guidance_scale)
        where = own_device(device)
        path = shipped_checkpoint() if checkpoint is None else checkpoint
        from crossflow.sampling.text_to_image import TextToImage

        self._pipeline = TextToImage.from_checkpoint(path, where, text_encoder, autoencoder, precision)
        defaults = self._pipeline.defaults
        self.name = path.stem
        self._solver = defaults.solver if solver is None else solver
        self._steps = defaults.steps if steps is None else steps
        self._guidance_scale = defaults.guidance_scale if guidance_scale is None else guidance_scale
        self.identity: Mapping[str, Any] = {
            **self._pipeline.identity,
            "solver": self._solver,
            "steps": self._steps,
            "guidance_scale": float(self._guidance_scale),
            "device": where.partition(":")[0],
        }

    def generate(self, sources: Sequence[str | Path], seeds: Sequence[int]) -> list[Output]:
        """Return one uint8 image [h w 3] a prompt."""
        prompts = [str(source) for source in sources]
        images = self._pipeline.generate(
            prompts, seeds, solver=self._solver, steps=self._steps, guidance_scale=self._guidance_scale
        )
        return list(images)


class FolderModel:
    """Outputs made elsewhere: the images of a folder, looked up by example id (``<id>.png`` or ``<id>-<k>.png``)."""

    name = "folder"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images: ImageFolder = read_folder(folder)
        self.identity: Mapping[str, Any] = {
            "images_sha256": self.images.sha256,
            "images": len(self.images.files),
            "formats": dict(sorted(Counter(self.images.formats.values()).items())),
        }

    def read(self, example_id: str, index: int) -> np.ndarray:
        """Return the ``index``-th image of an example as uint8 [h w 3]. Raises CrossFlowError where there is none."""
        key = self._key(example_id, index)
        if key is None:
            raise CrossFlowError(f"The folder {self.folder} holds no image for {example_id}.")
        return read_image(self.images.files[key])

    def check(self, needed: Sequence[Example], known: Sequence[Example], outputs_per_example: int) -> None:
        """Check that every needed output is there, and that every image belongs to one of the ``known`` examples.

        Raises:
            CrossFlowError: missing or foreign images; counted, the first ones named.
        """
        indices = range(outputs_per_example)
        missing = [f"{e.id}-{k}" for e in needed for k in indices if self._key(e.id, k) is None]
        if missing:
            raise CrossFlowError(
                f"{len(missing)} of {len(needed) * outputs_per_example} images are missing in {self.folder}: "
                f"{first_few(missing)}."
            )
        foreign = self.images.files.keys() - {self._key(e.id, k) for e in known for k in indices}
        if foreign:
            names = sorted(self.images.files[key].name for key in foreign)
            raise CrossFlowError(
                f"{len(foreign)} of {len(self.images.files)} images in {self.folder} belong to no example: "
                f"{first_few(names)}."
            )

    def _key(self, example_id: str, index: int) -> str | None:
        if f"{example_id}-{index}" in self.images.files:
            return f"{example_id}-{index}"
        return example_id if index == 0 and example_id in self.images.files else None


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a finished training was: optimiser steps, items a step, and the parameters that sampling needs."""

    steps: int
    batch_size: int
    precision: str
    backbone_parameters: int
    all_parameters: int


def finished_training(checkpoint: Path, recipe: str, seed: int, steps: int | None = None) -> Training | None:
    """What ``checkpoint`` was trained by; None where there is none yet, or one of an earlier step.

    ``steps`` replaces the recipe's own. CrossFlowError for an unknown recipe, a checkpoint of another recipe than
    this is today, of another seed or number of steps, and for a file that is no checkpoint.
    """
    from crossflow.files.tensors import read_header
    from crossflow.model.checkpoint import load_model, model_config
    from crossflow.recipes import CONFIGS
    from crossflow.scenes import VERSION as WORLD

    if recipe not in CONFIGS:
        raise unknown("recipe", recipe, CONFIGS)
    if not checkpoint.exists():
        return None
    config = CONFIGS[recipe] if steps is None else replace(CONFIGS[recipe], steps=steps)
    header = read_header(checkpoint)
    training = {name: value for name, value in asdict(config).items() if name != "model"} | {"world": WORLD}
    expected = {"seed": seed, "training": json.loads(json.dumps(training))}
    same_model = model_config(header, checkpoint) == config.model
    if not same_model or any(header.get(name) != value for name, value in expected.items()):
        raise CrossFlowError(
            f"{checkpoint} was not trained by the recipe {recipe} as it is now, {config.steps} steps and seed "
            f"{seed}; remove its folder or choose another --out."
        )
    if int(header["step"]) < config.steps:
        return None
    model = load_model(checkpoint)
    return Training(
        steps=config.steps,
        batch_size=config.batch_size,
        precision=str(header["precision"]),
        backbone_parameters=sum(parameter.numel() for parameter in model.backbone.parameters()),
        all_parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def check_sampling(solver: str | None, steps: int | None, guidance_scale: float | None) -> None:
    """Raise CrossFlowError for sampling that no checkpoint can do; None leaves a setting to the checkpoint."""
    from crossflow.flow.solver import SOLVERS

    if steps is not None and steps < 1:
        raise CrossFlowError(f"--steps must be at least 1, got {steps}.")
    if guidance_scale is not None and not math.isfinite(guidance_scale):
        raise CrossFlowError(f"--guidance-scale must be a finite number, got {guidance_scale}.")
    if solver is not None and solver not in SOLVERS:
        raise unknown("solver", solver, SOLVERS)


def shipped_checkpoint(task: str = "t2i") -> Path:
    """Where the checkpoint for ``task`` is that comes with ``crossflow``."""
    import crossflow

    return Path(str(crossflow.__file__)).parent / "weights" / f"scenes-{task}.safetensors"


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
        factory = _find(name)
    elif name in other_models():
        factory = other_models()[name].load()
    else:
        raise unknown("model", name, [*BUILT_IN, *other_models(), *FORMS])
    if not callable(factory):
        raise CrossFlowError(f"--model {name} is not a function or class that builds a model.")
    model = factory()
    lacks = [part for part in ("name", "identity", "generate") if not hasattr(model, part)]
    if lacks or not isinstance(model, Model):
        raise CrossFlowError(f"--model {name} built a {type(model).__name__} without {', '.join(lacks)}.")
    try:
        json.dumps(dict(model.identity), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CrossFlowError(f"--model {name}: its identity is not plain JSON ({error}).") from error
    if not model.name or model.name.startswith(".") or set(model.name) & set("/\\\0"):
        raise CrossFlowError(f"--model {name}: its name {model.name!r} cannot name a folder.")
    return model


def _find(name: str) -> object:
    module_name, _, attribute = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise CrossFlowError(
            f"--model {name}: there is no module {error.name!r}; install it or mend the name."
        ) from error
    except (ValueError, TypeError) as error:
        raise CrossFlowError(f"--model {name}: expected package.module:factory.") from error
    if not hasattr(module, attribute):
        offered = [each for each in dir(module) if not each.startswith("_") and callable(getattr(module, each))]
        raise unknown(f"factory in {module_name}", attribute, offered)
    return getattr(module, attribute)
