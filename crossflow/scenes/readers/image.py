"""What an image shows: the objects that ``crossflow.scenes.parse`` finds, by their cells, and the light."""

from __future__ import annotations

import numpy as np

from crossflow.scenes import parse
from crossflow.scenes.facts import Facts, Thing
from crossflow.scenes.spec import CELLS


def read(image: np.ndarray) -> Facts:
    """What is in ``image``, uint8 [h w 3]."""
    return Facts(things=tuple(_thing(item, image) for item in parse.read(image)), night=parse.night(image))


def _thing(item: parse.Found, image: np.ndarray) -> Thing:
    left, top, right, bottom = item.box
    column, row = (
        int((low + high) / 2 * CELLS / size)
        for low, high, size in ((left, right, image.shape[1]), (top, bottom, image.shape[0]))
    )
    return Thing(shape=item.shape, color=item.color, column=column, row=row)
