"""How long a training step takes on this machine."""

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator

from crossflow.recipes.recipe import TrainConfig
from crossflow.training.data import open_data
from crossflow.training.data.pairs import read_ahead, shares
from crossflow.training.run_state import Run

ITEMS, STEPS = 256, 4


def seconds_a_step(recipe: TrainConfig) -> float:
    """The median of a few steps of a recipe of the embedded world, on one thread of the CPU, without its first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        few = replace(recipe, data=replace(recipe.data, count=ITEMS))
        run = Run(few, Accelerator(cpu=True, mixed_precision="no"), 0, "fp32", None, False, False)
        with tempfile.TemporaryDirectory() as folder:
            pairs = open_data(few, None, 0).pairs(run.model, Path(folder), lambda line: None)
        ahead = read_ahead(shares(pairs, few, 0, 0, 0, 1))
        seconds: list[float] = []
        for _ in range(1 + STEPS):
            start = time.perf_counter()
            run.advance(ahead)
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds[1:])
    finally:
        torch.set_num_threads(threads)
