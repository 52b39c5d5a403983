"""All pairs of two sets of points, a tile at a time: memory grows with the sets and never with their product."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SIDE = 2048
"""Rows and columns of a tile."""


def check_pair(features: np.ndarray, reference: np.ndarray, *, least: int) -> None:
    """Raises ValueError for sets of features whose shapes do not fit, and for one of fewer than ``least``."""
    if features.ndim != 2 or reference.ndim != 2 or features.shape[1] != reference.shape[1]:
        raise ValueError(f"features {features.shape} and a reference {reference.shape} cannot be compared")
    if min(len(features), len(reference)) < least:
        raise ValueError(f"{len(features)} outputs and {len(reference)} references; each set needs {least}")


def middle_of(features: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The reference's mean [d], in the precision of both sets, at least float32: what products of points do without."""
    return reference.mean(axis=0, dtype=np.float64).astype(np.result_type(features, reference, np.float32))


def tiles(n: int, m: int | None = None) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of each tile of n x m pairs; of n points with each other, those on and right of the diagonal."""
    for start in range(0, n, SIDE):
        for begin in range(0 if m is not None else start, n if m is None else m, SIDE):
            yield slice(start, min(start + SIDE, n)), slice(begin, min(begin + SIDE, n if m is None else m))
