"""What images are like: sizes, brightness, contrast, sharpness. No score of quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crossflow_eval.stats import BOOTSTRAP, bootstrap_mean
from crossflow_eval.types import Example, Output, Row, Value


class ImageStatistics:
    """Width, height, brightness, contrast and sharpness of each image; describes, does not judge.

    Luma y = 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601) on the 0-255 scale, float64. ``brightness`` is its mean,
    ``contrast`` its standard deviation, ``sharpness`` the mean length of its gradient (forward differences over the
    pixels that have both neighbours; 0 for an image of one row or column).
    """

    protocol: Mapping[str, Any] = {
        "luma": "BT.601",
        "scale": "0-255",
        "contrast": "standard deviation, ddof 0",
        "sharpness": "mean gradient length, forward differences",
        "interval": BOOTSTRAP,
    }
    higher_is_better: Mapping[str, bool] = {}

    def __init__(self) -> None:
        self._rows: list[Row] = []

    def update(self, examples: Sequence[Example], outputs: Sequence[Output]) -> list[Row]:
        """Return one row an image."""
        rows = [_describe(output) for output in outputs]
        self._rows += rows
        return rows

    def compute(self) -> dict[str, Value]:
        """Return the mean of each statistic over the images, with its bootstrap interval."""
        names = ("width", "height", "brightness", "contrast", "sharpness")
        return {name: bootstrap_mean([float(row[name]) for row in self._rows]) for name in names}


def _describe(output: Output) -> Row:
    image = np.asarray(output, dtype=np.float64)
    luma = image @ np.array([0.299, 0.587, 0.114])
    down, right = np.diff(luma, axis=0)[:, :-1], np.diff(luma, axis=1)[:-1]
    height, width = luma.shape
    return {
        "width": width,
        "height": height,
        "brightness": float(luma.mean()),
        "contrast": float(luma.std()),
        "sharpness": float(np.hypot(down, right).mean()) if down.size else 0.0,
    }
