"""What GenEval's detector finds in an image: labelled boxes, their masks and, where it was asked for, their colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COLOR_ORDER = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
"""The colours that a prompt may ask for, in the order in which GenEval names them."""

Box = tuple[float | int, float | int, float | int, float | int]
"""Left, top, right, bottom in pixels, y down."""


@dataclass(frozen=True)
class Detection:
    """One detected object. ``score`` lies in [0, 1]; ``mask`` (bool [h w]) shows a classifier of colours its pixels."""

    label: str
    score: float
    box: Box
    color: str | None = None
    mask: np.ndarray | None = None
