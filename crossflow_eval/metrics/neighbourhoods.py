"""Improved precision and recall, density and coverage: which outputs and references lie in whose balls.

Every answer is that of float64 distances between the points as they came. But most pairs leave no doubt: so all are
looked at in float32 first, where a product of matrices costs half, by bounds of their distances, and only the few pairs
that these leave open, ties among them, are computed. Memory grows with n and never with its square.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha1
from typing import NamedTuple

import numpy as np

from crossflow_eval.metrics.pairs import SIDE, check_pair, middle_of, tiles

_FEW = 256
"""From how many points a first guess is made of how far neighbours are."""
_PAIRS = 64
"""How many distances are computed at once."""


class Neighbourhoods(NamedTuple):
    """Which of n outputs and m references lie in whose balls; a ball reaches to its centre's k-th neighbour.

    ``hits`` (int [n]): in how many balls of the reference an output lies. ``recalled`` (bool [m]): whether a reference
    lies in any ball of the outputs. ``covered`` (bool [m]): whether its own ball holds any output.
    """

    hits: np.ndarray
    recalled: np.ndarray
    covered: np.ndarray
    k: int

    @property
    def precision(self) -> float:
        """The share of outputs in any ball of the reference."""
        return float((self.hits > 0).mean())

    @property
    def recall(self) -> float:
        """The share of references in any ball of the outputs."""
        return float(self.recalled.mean())

    @property
    def density(self) -> float:
        """The mean number of the reference's balls around an output, over k; it may exceed 1."""
        return float(self.hits.mean()) / self.k

    @property
    def coverage(self) -> float:
        """The share of references with an output in their own ball."""
        return float(self.covered.mean())


def neighbourhoods(features: np.ndarray, reference: np.ndarray, *, k: int, closed: bool) -> Neighbourhoods:
    """Improved precision and recall, density and coverage of outputs [n d] against a reference [m d].

    ``closed`` counts a point at exactly the radius as inside. Published with k = 3 and closed balls for precision and
    recall (T. Kynkaanniemi et al., 2019; ADM, torch-fidelity), with k = 5 and open balls for all four (M. Naeem et al.,
    2020; prdc, dgm-eval). Raises ValueError for shapes that do not fit, and where either set has no k-th neighbour.
    """
    check_pair(features, reference, least=k + 1)
    middle = middle_of(features, reference)
    largest = max(float(side) for each in (features, reference) for side in (each.max(), -each.min()))
    scale = 2.0 ** -np.ceil(np.log2(largest)) if largest > 0 else 1.0
    (x, x_of, own), (y, y_of, theirs) = (_balls(each, k, middle, scale) for each in (features, reference))
    times = np.bincount(y_of)
    hits = np.zeros(len(x.exact), dtype=np.int64)
    recalled, covered = np.zeros(len(y.exact), dtype=bool), np.zeros(len(y.exact), dtype=bool)
    for rows, columns, bounds in _lower_bounds(y, x):
        i, j = _inside(y, x, rows, columns, bounds, theirs[rows, None], closed)
        hits += np.bincount(j, times[i], len(hits)).astype(np.int64)
        covered[i] = True
        recalled[_inside(y, x, rows, columns, bounds, own[columns], closed)[0]] = True
    return Neighbourhoods(hits[x_of], recalled[y_of], covered[y_of], k)


class _Points:
    """Points [n d], and in float32 what bounds their distances: less a ``middle``, times ``scale``, a power of two.

    Here a distance is half the square of the usual one, s + t - x.y with s = |x|^2 / 2 and t = |y|^2 / 2. With
    e = (d + 16) / 2^24 its rounding is below e (s + t), in whatever order the product is summed. So
    (1 - e) (s + t) - x.y is never above the distance, nor more than 2 e (s + t) below it. ``least`` is (1 - e) s,
    ``slack`` 2 e s.
    """

    def __init__(self, exact: np.ndarray, middle: np.ndarray, scale: float) -> None:
        self.exact, self.scale = exact, scale
        self.rough = np.empty(exact.shape, np.float32)
        for start in range(0, len(exact), SIDE):
            rows = exact[start : start + SIDE] - middle
            rows *= scale
            self.rough[start : start + SIDE] = rows
        halves = np.einsum("nd,nd->n", self.rough, self.rough, dtype=np.float64) / 2
        rounding = (exact.shape[1] + 16) * 2.0**-24
        self.least, self.slack = ((1 - rounding) * halves).astype(np.float32), _above(2 * rounding * halves)


def _balls(points: np.ndarray, k: int, middle: np.ndarray, scale: float) -> tuple[_Points, np.ndarray, np.ndarray]:
    """The distinct points, which of them each point is, and the radii of their balls, float64.

    Of equal points k + 1 are enough to know the k-th neighbour of each, and one to know what lies in its ball.
    """
    points = np.ascontiguousarray(points)
    if len(np.unique(points.view(f"u{points.itemsize}").sum(axis=1))) == len(points):
        every = _Points(points, middle, scale)
        return every, np.arange(len(points)), _radii(every, k)
    digests = np.array([sha1(row).digest() for row in points])
    _, first, which, times = np.unique(digests, return_index=True, return_inverse=True, return_counts=True)
    copies = np.minimum(times, k + 1)
    radii = _radii(_Points(points[np.repeat(first, copies)], middle, scale), k)
    return _Points(points[first], middle, scale), which, radii[np.cumsum(copies) - 1]


def _lower_bounds(first: _Points, second: _Points, *, least: int = 1) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """A tile at a time, its rows of ``first``, its columns of ``second``, and what no distance is below, float32.

    Between a set and itself tiles below the diagonal are left out, and a point is infinitely far from itself.
    """
    same = first is second
    for rows, columns in tiles(len(first.rough), None if same else len(second.rough), least=least):
        bounds = first.rough[rows] @ second.rough[columns].T
        np.subtract(second.least[columns], bounds, out=bounds)
        bounds += first.least[rows, None]
        if same and rows == columns:
            np.fill_diagonal(bounds, np.inf)
        yield rows, columns, bounds


def _distances(first: _Points, second: _Points, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """|x - y|^2 / 2 of the pairs (i, j), float64."""
    found = np.empty(len(i))
    for start in range(0, len(i), _PAIRS):
        part = slice(start, start + _PAIRS)
        apart = np.subtract(first.exact[i[part]], second.exact[j[part]], dtype=np.float64)
        apart *= first.scale
        found[part] = np.einsum("nd,nd->n", apart, apart) / 2
    return found


def _inside(
    first: _Points,
    second: _Points,
    rows: slice,
    columns: slice,
    bounds: np.ndarray,
    radii: np.ndarray,
    closed: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of a tile, as indices of either set, whose distances are within ``radii``, [b 1] or [m]."""
    i, j = _where(bounds <= _above(radii))
    low, radius = bounds[i, j], np.broadcast_to(radii, bounds.shape)[i, j]
    i, j = i + rows.start, j + columns.start
    inside = low + first.slack[i] + second.slack[j] < radius
    doubtful = np.flatnonzero(~inside)
    distances = _distances(first, second, i[doubtful], j[doubtful])
    inside[doubtful] = (np.less_equal if closed else np.less)(distances, radius[doubtful])
    return i[inside], j[inside]


def _radii(points: _Points, k: int) -> np.ndarray:
    """The distance of each of n points to its k-th neighbour, float64 [n].

    Kept are the pairs (point, other) that may be among a point's k nearest, and the lower bounds of their distances.
    """
    n, slack = len(points.exact), points.slack
    most = np.empty(n)
    pairs, low = np.empty((2, 0), dtype=np.int64), np.empty(0)
    for rows, columns, bounds in _lower_bounds(points, points, least=k + 1):
        if rows.start == 0:
            several = slice(0, max(_FEW, k + 1))
            upper = bounds[several] + slack[rows][several, None] + slack[columns]
            most[columns] = np.partition(upper.T, k - 1)[:, k - 1]
        i, j = _where(bounds <= _above(most[rows, None]))
        near, found = [np.stack([i + rows.start, j + columns.start])], [bounds[i, j]]
        if rows != columns:
            i, j = _where(bounds <= _above(most[columns]))
            near, found = [*near, np.stack([j + columns.start, i + rows.start])], [*found, bounds[i, j]]
        pairs, low = np.concatenate([pairs, *near], axis=1), np.concatenate([low, *found])
        if columns.stop == n:
            high = low + slack[pairs].sum(axis=0)
            most = _kth(pairs[0], high, n, k)
            kept = np.flatnonzero(low <= most[pairs[0]])
            pairs, low = pairs[:, kept], low[kept]
    clear = low + slack[pairs].sum(axis=0) < _kth(pairs[0], low, n, k)[pairs[0]]
    doubtful = np.flatnonzero(~clear)
    low[doubtful] = _distances(points, points, *pairs[:, doubtful])
    return _kth(pairs[0], low, n, k)


def _kth(owners: np.ndarray, values: np.ndarray, n: int, k: int) -> np.ndarray:
    """The k-th least of the values of each of n owners, who have k or more."""
    order = np.lexsort((values, owners))
    return values[order[np.searchsorted(owners[order], np.arange(n)) + k - 1]]


def _where(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of what is true, of which there is little."""
    return np.divmod(np.flatnonzero(found), found.shape[1])


def _above(values: np.ndarray) -> np.ndarray:
    """The least float32 that are greater."""
    return np.nextafter(values.astype(np.float32), np.float32(np.inf))
