"""What a depth map shows: the objects that stand before its ground and its sky, with neither colour nor light.

1. Background: it varies by row only, and objects cover less than half of a row, so it is the row's median.
2. Objects: each cell is compared with every mask that an object can have there. The one is chosen with the smallest
   squared error of inverse depth, where an object has one depth, that of the mean, and the background its own.
3. A cell has an object if that explains most of what differs from the background, and enough differs at all.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product

import numpy as np

from crossflow.scenes.facts import Facts, Thing
from crossflow.scenes.render import coverage
from crossflow.scenes.spec import CELLS, SHAPES, Object

SIZE = 32
CELL = SIZE // CELLS
MIN_CHANGE = 0.01
"""Squared differences of inverse depth from the background, in 1/m2 and summed over a cell, that an object makes."""
MIN_EXPLAINED = 0.5
"""Share of them that the object must explain."""
JITTERS = (-0.3, -0.15, 0.0, 0.15, 0.3)
RADII = (3.0, 3.25, 3.5)
"""Offsets from the middle of a cell, and radii, that masks are made for, in pixels of 32: the world's own range."""


def read(depth: np.ndarray) -> Facts:
    """What is in ``depth``, metres [32 32] with inf in the sky."""
    near = 1.0 / np.maximum(depth.astype(np.float64), 1e-3)
    ground = np.median(near, axis=1, keepdims=True)
    things = [_thing(near, ground, row, column) for row, column in product(range(CELLS), range(CELLS))]
    return Facts(things=tuple(thing for thing in things if thing is not None))


@lru_cache
def _masks() -> tuple[tuple[str, ...], np.ndarray]:
    """Every mask that an object can have in its cell: their shapes, and 0 or 1 as float64 [masks pixels]."""
    found: dict[bytes, tuple[str, np.ndarray]] = {}
    for shape, x, y, radius in product(SHAPES, JITTERS, JITTERS, RADII):
        item = Object(
            shape=shape, color="", x=(CELL * 1.5 + x) / SIZE, y=(CELL * 1.5 + y) / SIZE, radius=radius / SIZE, depth=1.0
        )
        mask = np.zeros((SIZE, SIZE))
        rows, columns, share = coverage(item, SIZE)
        mask[rows, columns] = share >= 0.5
        cell = mask[CELL : 2 * CELL, CELL : 2 * CELL].ravel()
        found.setdefault(cell.tobytes(), (shape, cell))
    return tuple(shape for shape, _ in found.values()), np.stack([cell for _, cell in found.values()])


def _thing(near: np.ndarray, ground: np.ndarray, row: int, column: int) -> Thing | None:
    """The object in that cell, or None."""
    rows, columns = slice(row * CELL, (row + 1) * CELL), slice(column * CELL, (column + 1) * CELL)
    values = near[rows, columns].ravel()
    change = (values - np.broadcast_to(ground[rows], (CELL, CELL)).ravel()) ** 2
    shapes, masks = _masks()
    sizes = masks.sum(axis=1)
    means = masks @ values / sizes
    errors = (1.0 - masks) @ change + masks @ values**2 - sizes * means**2
    best = int(errors.argmin())
    if change.sum() < MIN_CHANGE or errors[best] > (1.0 - MIN_EXPLAINED) * change.sum():
        return None
    nearness = float(means[best])
    return Thing(shape=shapes[best], column=column, row=row, depth=1.0 / nearness if nearness else math.inf)
