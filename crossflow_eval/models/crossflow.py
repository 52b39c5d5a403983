"""Our own checkpoints of text to image; what sampling they can do, which ones are shipped, and how one was trained."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from crossflow.errors import CrossFlowError, unknown
from crossflow.files.devices import own_device
from crossflow.files.folders import shipped
from crossflow_eval.types import Output

if TYPE_CHECKING:
    from crossflow.model.settings import Sampling
    from crossflow.recipes.recipe import TrainConfig


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
        weaker: Path | None = None,
        text_encoder: Path | None = None,
        autoencoder: Path | None = None,
        precision: str = "auto",
        device: str = "auto",
    ) -> None:
        check_sampling(solver, steps, guidance_scale)
        where = own_device(device)
        path = shipped("t2i") if checkpoint is None else checkpoint
        from crossflow.model.settings import Override
        from crossflow.sampling.text_to_image import TextToImage

        self._pipeline = TextToImage.from_checkpoint(path, where, text_encoder, autoencoder, precision, weaker=weaker)
        self._override = Override(solver=solver, steps=steps, guidance_scale=guidance_scale)
        sampling = self._pipeline.settings(self._override, weaker)
        self.name = called(path)
        self.identity: Mapping[str, Any] = sampled(self._pipeline.identity, sampling, where)

    def generate(self, sources: Sequence[str | Path], seeds: Sequence[int]) -> list[Output]:
        """Return one uint8 image [h w 3] a prompt."""
        return list(self._pipeline.generate([str(source) for source in sources], seeds, self._override))


class Trained(BaseModel):
    """What a finished training was: optimiser steps, items a step, and the parameters that sampling needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    steps: int
    batch_size: int
    precision: str
    backbone_parameters: int
    all_parameters: int


def recipe_of(name: str, steps: int | None = None) -> TrainConfig:
    """The recipe of that name, in ``steps`` steps if given. Raises CrossFlowError for another name."""
    from crossflow.recipes import recipe_named

    recipe = recipe_named(name)
    return recipe if steps is None else recipe.in_steps(steps)


def stages_of(name: str) -> Mapping[str, TrainConfig]:
    """The recipes that ``crossflow train`` trains in order under that name, by their stage; none of a single recipe."""
    from crossflow.recipes.anytoany import IN_ORDER

    return IN_ORDER.get(name, {})


def stages_after(name: str, since: str | None) -> list[str]:
    """The stages of recipes in order that come after one of them; None is all, and a single recipe has none."""
    stages = list(stages_of(name))
    return stages if since is None else stages[stages.index(since) + 1 :]


def branch_of(name: str, seed: int) -> tuple[str, int, str] | None:
    """Where the recipes in order ``name`` go on from: other recipes in order, with which seed, and after which stage.

    Variants share what comes before their change, and further seeds the codecs and prompt encoders of the first. None
    where nothing goes before them.
    """
    from crossflow.recipes.anytoany import ONCE, base_of, of_base, sort_of

    base, stage = base_of(name), of_base(name)
    if stage is None and seed:
        stage = [each for each in stages_of(name) if sort_of(each) in ONCE][-1]
    return None if stage is None else (base, 0 if sort_of(stage) in ONCE else seed, stage)


def stage_file(name: str, stage: str, out: Path) -> Path:
    """The file that one stage of recipes in order leaves in the folder ``out`` of their training."""
    from crossflow.training.in_order import stage_folder

    return stage_folder(stages_of(name), stage, out) / "model.safetensors"


def pairs_of(recipe: str, folder: Path) -> tuple[Path, str | None]:
    """Where in ``folder`` the pairs of a recipe lie, and what identifies them.

    That is the subfolder called by its language model, slashes and colons as dashes, where there is one, else the
    folder itself. CrossFlowError where they are missing or not what the recipe reads.
    """
    from crossflow.training.data import open_data

    config = recipe_of(recipe)
    reads = getattr(config.model.reads, "model", config.model.reads.name)
    inside = folder / re.sub(r"[/:]", "-", reads)
    where = inside if inside.is_dir() else folder
    return where, open_data(config, where, 0).fingerprint


def is_finished(checkpoint: Path, recipe: str, seed: int, steps: int | None = None, init: Path | None = None) -> bool:
    """Whether ``checkpoint`` is that of a whole training; not where there is none yet, or one of an earlier step.

    ``steps`` replaces the recipe's own; ``init`` is the checkpoint that the training started from. CrossFlowError for
    an unknown recipe, a checkpoint of another recipe than this is today, of another world, seed, number of steps or
    initial weights, and for a file that is no checkpoint.
    """
    from crossflow.files.hashes import file_sha256
    from crossflow.files.tensors import read_header

    if not checkpoint.exists():
        return False
    if stages := stages_of(recipe):
        from crossflow.training.in_order import is_trained_in_order

        if not is_trained_in_order(stages, checkpoint.parent, seed, init):
            raise CrossFlowError(
                f"{checkpoint} was not trained by the recipes {recipe} as they are now, seed {seed}; remove its folder "
                "or choose another --out."
            )
        return True
    config = recipe_of(recipe, steps)
    header = read_header(checkpoint)
    if header.get("digest") != config.digest(seed, None if init is None else file_sha256(init)):
        begun = "fresh weights" if init is None else f"the weights of {init}"
        raise CrossFlowError(
            f"{checkpoint} was not trained by the recipe {recipe} as it is now, {config.steps} steps, seed {seed} and "
            f"{begun}; remove its folder or choose another --out."
        )
    return int(header["step"]) >= config.steps


def finished_training(
    checkpoint: Path, recipe: str, seed: int, steps: int | None = None, init: Path | None = None
) -> Trained | None:
    """What a whole training was; None where ``is_finished`` says no. Raises CrossFlowError as that does."""
    if not is_finished(checkpoint, recipe, seed, steps, init):
        return None
    import torch

    from crossflow.files.tensors import read_header

    if stages := stages_of(recipe):
        return _system(checkpoint, stages)
    config = recipe_of(recipe, steps)
    with torch.device("meta"):
        model = config.model.build(training=False)
    return Trained(
        steps=config.steps,
        batch_size=config.batch_size,
        precision=str(read_header(checkpoint)["precision"]),
        backbone_parameters=sum(parameter.numel() for parameter in model.backbone.parameters()),
        all_parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def _system(checkpoint: Path, stages: Mapping[str, TrainConfig]) -> Trained:
    """What a system trained in stages was: its steps are those of all, shared ones too."""
    import torch

    from crossflow.anytoany.system import system_config
    from crossflow.files.tensors import read_header

    with torch.device("meta"):
        system = system_config(checkpoint).build()
    rivals = [each for each in (system.anchor, system.direct) if each is not None]
    makes = rivals or [system.diffusers, system.environments, system.connections]
    return Trained(
        steps=sum(recipe.steps for recipe in stages.values()),
        batch_size=list(stages.values())[-1].batch_size,
        precision=str(read_header(checkpoint)["precision"]),
        backbone_parameters=sum(parameter.numel() for part in makes for parameter in part.parameters()),
        all_parameters=sum(parameter.numel() for parameter in system.parameters()),
    )


def called(checkpoint: Path) -> str:
    """What the model in the file ``checkpoint`` is called: as the file, or as the folder of a training.

    ``RUN/model.safetensors`` is RUN, and what was kept along it, ``RUN/model-000500.safetensors``, is RUN-000500.
    """
    stem, run = checkpoint.stem, checkpoint.parent.resolve().name
    return run + stem.removeprefix("model") if run and re.fullmatch(r"model(-\d+)?", stem) else stem


def sampled(identity: Mapping[str, Any], sampling: Sampling, device: str) -> dict[str, Any]:
    """The ``identity`` of a pipeline, with the sampling settings and the kind of device, which change outputs too."""
    return {
        **identity,
        "solver": sampling.solver,
        "steps": sampling.steps,
        "guidance_scale": float(sampling.guidance_scale),
        "device": device.partition(":")[0],
    }


def check_sampling(solver: str | None, steps: int | None, guidance_scale: float | None) -> None:
    """Raise CrossFlowError for sampling that no checkpoint can do; None leaves a setting to the checkpoint."""
    from crossflow.flow.solver import SOLVERS

    if steps is not None and steps < 1:
        raise CrossFlowError(f"--steps must be at least 1, got {steps}.")
    if guidance_scale is not None and not math.isfinite(guidance_scale):
        raise CrossFlowError(f"--guidance-scale must be a finite number, got {guidance_scale}.")
    if solver is not None and solver not in SOLVERS:
        raise unknown("solver", solver, SOLVERS)


def seconds_a_step(name: str) -> float | None:
    """Seconds of one training step of a recipe on this machine, on one thread; None where its data are a folder's.

    Of recipes in order it is the mean over the steps of those that no other training shares.
    """
    from crossflow.recipes.anytoany import of_base
    from crossflow.training.timed import seconds_a_step as timed
    from crossflow.training.timed import seconds_in_order

    if stages := stages_of(name):
        return seconds_in_order(stages, of_base(name))
    recipe = recipe_of(name)
    return timed(recipe) if recipe.data.kind == "scenes" else None
