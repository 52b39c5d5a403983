"""Our own checkpoints of text to image; what sampling they can do, which ones are shipped, and how one was trained."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from crossflow.errors import CrossFlowError, unknown
from crossflow.files.devices import own_device
from crossflow_eval.types import Output


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
