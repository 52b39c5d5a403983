"""The data set: ``example(split, index)`` is a pure function of its arguments and of ``VERSION``.

``train``, ``val`` and ``test`` never contain one of the six ``HELD_OUT`` pairs of shape and colour; every example of
``test_heldout`` names at least one in its prompt. Tasks cycle with the index, so any 6 k consecutive examples are
balanced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from crossflow.scenes.caption import RELATIONS, TASKS, captions, specification
from crossflow.scenes.spec import CELLS, COLORS, HELD_OUT, SHAPES, VERSION, Scene, sample_scene

SPLITS = {"train": 0, "val": 1, "test": 2, "test_heldout": 3}
"""Split name -> its seed."""
HELD_OUT_TASKS = ("colors", "color_attr")


@dataclass(frozen=True, kw_only=True)
class SceneExample:
    """A scene with its prompt. ``specification`` is GenEval's metadata, with the shapes as classes."""

    id: str
    scene: Scene
    task: str
    specification: dict[str, Any]
    prompt: str
    captions: tuple[str, ...]


def example(split: str, index: int) -> SceneExample:
    """The ``index``-th example of ``split``, independent of all others. ValueError for an unknown split."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; the splits are {', '.join(SPLITS)}")
    rng = np.random.default_rng([VERSION, SPLITS[split], index])
    held_out = split == "test_heldout"
    tasks = HELD_OUT_TASKS if held_out else TASKS
    task = tasks[index % len(tasks)]
    looks = _looks(rng, task, held_out)
    cells, relation = _cells(rng, task, len(looks))
    scene = sample_scene(rng, looks, cells)
    spec = specification(task, looks, relation)
    return SceneExample(
        id=f"{split}-{index:06d}",
        scene=scene,
        task=task,
        specification=spec,
        prompt=spec["prompt"],
        captions=captions(scene, spec["prompt"], rng),
    )


def _looks(rng: np.random.Generator, task: str, held_out: bool) -> list[tuple[str, str]]:
    """Sample the (shape, color) of each object; colours are sampled also where the task does not mention them."""
    count = {"single_object": 1, "colors": 1, "counting": int(rng.integers(2, 5))}.get(task, 2)
    if task == "counting":
        shapes = [SHAPES[rng.integers(len(SHAPES))]] * count
    else:
        shapes = [SHAPES[i] for i in rng.permutation(len(SHAPES))[:count]]
    while True:
        colors = [list(COLORS)[i] for i in rng.permutation(len(COLORS))[:count]]
        looks = list(zip(shapes, colors, strict=True))
        if any(look in HELD_OUT for look in looks) == held_out:
            return looks


def _cells(rng: np.random.Generator, task: str, count: int) -> tuple[list[tuple[int, int]], str]:
    """Sample (row, column) cells of which no two share an edge.

    Also, for the task ``position``, the relation of the second object to the first; "" for other tasks.
    """
    while True:
        cells = [(int(i) // CELLS, int(i) % CELLS) for i in rng.permutation(CELLS * CELLS)[:count]]
        if any(abs(a - c) + abs(b - d) == 1 for a, b in cells for c, d in cells):
            continue
        if task != "position":
            return cells, ""
        choices = relations(cells[1], cells[0])
        if choices:
            return cells, choices[rng.integers(len(choices))]


def relations(cell: tuple[int | float, int | float], other: tuple[int | float, int | float]) -> list[str]:
    """How ``cell``, (row, column), lies to the ``other``: one relation, two on a diagonal, none to itself."""
    down, right = cell[0] - other[0], cell[1] - other[1]
    true = [right < 0 and -right >= abs(down), right > 0 and right >= abs(down)]
    true += [down < 0 and -down >= abs(right), down > 0 and down >= abs(right)]
    return [name for name, holds in zip(RELATIONS, true, strict=True) if holds]
