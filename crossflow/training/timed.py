"""How long a training step takes on this machine."""

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator

from crossflow.anytoany.stages import Stage
from crossflow.anytoany.system import AnyToAnyConfig
from crossflow.files.progress import silent
from crossflow.recipes.recipe import TrainConfig
from crossflow.training.data import open_data
from crossflow.training.data.pairs import Share, read_ahead, shares
from crossflow.training.run_state import Run

ITEMS, STEPS = {"scenes": 256, "events": 32}, 5


def seconds_a_step(recipe: TrainConfig) -> float:
    """The CPU time of a step of a recipe of the embedded world, on one thread, whatever else the machine does.

    It is the median of a few; of several stages, their mean over all steps.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        few = replace(recipe, data=replace(recipe.data, count=ITEMS[recipe.data.kind]))
        data = open_data(few, None, 0)
        run = Run(few, Accelerator(cpu=True, mixed_precision="no"), 0, "fp32", data, False, False)
        with tempfile.TemporaryDirectory() as folder:
            pairs = data.pairs(run.model, Path(folder), silent)
        stages = [stage.steps for stage in few.stages] or [few.steps]
        total = 0.0
        for number, steps in enumerate(stages):
            run.step = sum(stages[:number])
            ahead = read_ahead(shares(pairs, few, 0, run.step, 0, 1))
            total += steps * statistics.median(_timed(run, ahead) for _ in range(min(STEPS, steps)))
        return total / sum(stages)
    finally:
        torch.set_num_threads(threads)


def seconds_in_order(recipes: Mapping[str, TrainConfig], after: str | None) -> float:
    """The mean CPU time of a step of those ``recipes``, stages of one system, that come ``after`` one of them.

    Of each kind of stage one is timed, with random weights in what it stands on: the latents of all modalities are as
    many tokens.
    """
    found: dict[type[Stage], float] = {}
    total, steps, reached = 0.0, 0, after is None
    system: AnyToAnyConfig | None = None
    for name, recipe in recipes.items():
        stage: Stage = cast(Any, recipe.model)
        stage = stage if system is None else replace(stage, system=stage.sized(system))
        system = stage.left
        if reached:
            if type(stage) not in found:
                found[type(stage)] = seconds_a_step(replace(recipe, model=cast(Any, stage)))
            total, steps = total + recipe.steps * found[type(stage)], steps + recipe.steps
        reached = reached or name == after
    return total / steps


def _timed(run: Run, ahead: Iterator[Share]) -> float:
    start = time.process_time()
    run.advance(ahead)
    return time.process_time() - start
