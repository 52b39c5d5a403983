"""How long a training step takes on this machine."""

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator

from crossflow.files.progress import silent
from crossflow.recipes.recipe import TrainConfig
from crossflow.training.data import open_data
from crossflow.training.data.pairs import Share, read_ahead, shares
from crossflow.training.run_state import Run

ITEMS, STEPS = 256, 5


def seconds_a_step(recipe: TrainConfig) -> float:
    """The time of a step of a recipe of the embedded world, on one thread of the CPU.

    It is the median of a few; of several stages, their mean over all steps.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        few = replace(recipe, data=replace(recipe.data, count=ITEMS))
        data = open_data(few, None, 0)
        run = Run(few, Accelerator(cpu=True, mixed_precision="no"), 0, "fp32", data, False, False)
        with tempfile.TemporaryDirectory() as folder:
            pairs = data.pairs(run.model, Path(folder), silent)
        stages = [stage.steps for stage in few.stages] or [few.steps]
        total = 0.0
        for number, steps in enumerate(stages):
            run.step = sum(stages[:number])
            ahead = read_ahead(shares(pairs, few, 0, run.step, 0, 1))
            total += steps * statistics.median(_timed(run, ahead) for _ in range(STEPS))
        return total / sum(stages)
    finally:
        torch.set_num_threads(threads)


def _timed(run: Run, ahead: Iterator[Share]) -> float:
    start = time.perf_counter()
    run.advance(ahead)
    return time.perf_counter() - start
