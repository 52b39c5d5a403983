"""Improved precision and recall, density and coverage: which outputs and references lie in whose balls.

Every answer is that of float64 distances between the points as they came. But most pairs leave no doubt: so all are
looked at first by bounds of their distances, and only the few pairs that these leave open, ties among them, are
computed. Bounds come from products of matrices in float32, at half of float64's cost, or in bfloat16, at a quarter,
where the CPU has them. Memory grows with n and never with its square.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha1
from typing import NamedTuple

import numpy as np

from crossflow_eval.metrics.pairs import check_pair, middle_of

_ROWS, _COLUMNS = 256, 2048
"""The rows and columns of a tile of pairs; from so many rows comes the first guess of how far neighbours are."""
_PAIRS = 32
"""How many distances are computed at once."""
_OPEN = 16
"""How many pairs bfloat16 may leave open, times the points and k; of points spread evenly it leaves 2 to 4."""
_UNIT = 2.0**-8
"""The largest relative error of rounding to bfloat16."""


class _TooCoarse(Exception):
    """Bounds from bfloat16 leave too many pairs open, as of points in dense clumps that lie far apart."""


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
    exponent = min(-np.ceil(np.log2(largest)), np.finfo(middle.dtype).maxexp - 1) if largest > 0 else 0
    scale = middle.dtype.type(2.0**exponent)
    try:
        balls = [_balls(each, k, middle, scale, has_bfloat16()) for each in (features, reference)]
    except _TooCoarse:
        balls = [_balls(each, k, middle, scale, False) for each in (features, reference)]
    (x, x_of, own), (y, y_of, theirs) = balls
    times = np.bincount(y_of)
    hits = np.zeros(len(x.exact), dtype=np.int64)
    recalled, covered = np.zeros(len(y.exact), dtype=bool), np.zeros(len(y.exact), dtype=bool)
    for rows, columns, bounds in _lower_bounds(y, x):
        i, j = _inside(y, x, rows, columns, bounds, theirs[rows, None], closed)
        hits += np.bincount(j, times[i], len(hits)).astype(np.int64)
        covered[i] = True
        bounds[recalled[rows]] = np.inf
        recalled[_inside(y, x, rows, columns, bounds, own[columns], closed)[0]] = True
    return Neighbourhoods(hits[x_of], recalled[y_of], covered[y_of], k)


def has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself (AVX512-BF16), in sums of float32. A torch that cannot tell: no."""
    import torch

    return getattr(torch.cpu, "get_capabilities", dict)().get("avx512_bf16", False)


class _Points:
    """Points [n d], and ``rough`` ones for the bounds of their distances: less a ``middle``, times a power of two.

    Here a distance is half the square of the usual one, s + t - x.y with s = |x|^2 / 2 and t = |y|^2 / 2. In float32
    its rounding is below e (s + t), e = (3 d + 32) / 2^24, in whatever order it is summed, and d / 2^100 where numbers
    are too small for float32.

    ``half`` points are in bfloat16, which lacks a of x and b of y. Their product then lacks a.y + x.b - a.b, at most
    |a||y| + |x||b| + |a||b|. For any c that is at most c s + (1 / c + 1) |a|^2 / 2, and as much of y and b; the best c
    is |a| / |x|, about 2^-9. The product p itself is rounded to bfloat16 too, by at most ``_UNIT`` |p|.

    All this but the last is a sum of one term a point, its ``error``. ``least`` is s less it.
    """

    def __init__(self, exact: np.ndarray, middle: np.ndarray, scale: np.floating, half: bool) -> None:
        import torch

        self.exact, self.scale, self.half = exact, scale, half
        n, dim = exact.shape
        self.rough = torch.empty(n, dim, dtype=torch.bfloat16 if half else torch.float32)
        squares, lost = np.empty((2, n), np.float32)
        for start in range(0, n, _ROWS):
            part = slice(start, start + _ROWS)
            rows = exact[part] - middle
            rows *= scale
            rows = rows.astype(np.float32, copy=False)
            squares[part] = np.linalg.vecdot(rows, rows)
            self.rough[part] = torch.from_numpy(rows)
            rows -= self.rough[part].float().numpy()
            lost[part] = np.linalg.vecdot(rows, rows)
        e, c, s = (3 * dim + 32) * 2.0**-24, 2.0**-9, squares.astype(np.float64) / 2
        error = e * s + dim * 2.0**-100
        if half:
            error += (1 + e) * (c * s + (1 / c + 1) * lost.astype(np.float64) / 2)
        self.least, self.error = (s - error).astype(np.float32), error.astype(np.float32)


def _balls(
    points: np.ndarray, k: int, middle: np.ndarray, scale: np.floating, half: bool
) -> tuple[_Points, np.ndarray, np.ndarray]:
    """The distinct points, which of them each point is, and the radii of their balls, float64.

    Of equal points k + 1 are enough to know the k-th neighbour of each, and one to know what lies in its ball.
    """
    points = np.ascontiguousarray(points)
    bits = points.view(f"u{points.itemsize}")
    if len(np.unique(bits.sum(axis=1, dtype=bits.dtype))) == len(points):
        every = _Points(points, middle, scale, half)
        return every, np.arange(len(points)), _radii(every, k)
    digests = np.array([sha1(row).digest() for row in points])
    _, first, which, times = np.unique(digests, return_index=True, return_inverse=True, return_counts=True)
    copies = np.minimum(times, k + 1)
    radii = _radii(_Points(points[np.repeat(first, copies)], middle, scale, half), k)
    return _Points(points[first], middle, scale, half), which, radii[np.cumsum(copies) - 1]


def _lower_bounds(first: _Points, second: _Points, least: int = 1) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """A tile at a time, its rows of ``first``, its columns of ``second``, and what no distance is below, float32.

    A whole tile has at least ``least`` rows. Between a set and itself each pair comes once but for those of the square
    on the diagonal, with which a row of tiles begins; and a point is infinitely far from itself.
    """
    n, m, same = len(first.exact), len(second.exact), first is second
    height = max(_ROWS, least)
    width = max(_COLUMNS, height)
    for top in range(0, n, height):
        for left in range(top if same else 0, m, width):
            rows, columns = slice(top, min(top + height, n)), slice(left, min(left + width, m))
            x, y = first.rough[rows], second.rough[columns]
            if first.half:
                product = (x @ y.T).float()
                bounds = product.add_(product.abs(), alpha=_UNIT).numpy()
            else:
                bounds = x.numpy() @ y.numpy().T
            np.subtract(second.least[columns], bounds, out=bounds)
            bounds += first.least[rows, None]
            if same and top == left:
                np.fill_diagonal(bounds, np.inf)
            yield rows, columns, bounds


def _upper_bounds(first: _Points, second: _Points, i: np.ndarray, j: np.ndarray, low: np.ndarray) -> np.ndarray:
    """What the distances of pairs (i, j) are not above, given what they are not below.

    The lower bound takes a product p in bfloat16 for p + u |p|, the upper one for p - u |p|, with u = ``_UNIT``.
    """
    high = low + 2 * (first.error[i] + second.error[j])
    return high + 2 * _UNIT / (1 - _UNIT) * abs(first.least[i] + second.least[j] - low) if first.half else high


def _distances(first: _Points, second: _Points, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """|x - y|^2 / 2 of the pairs (i, j), float64."""
    found = np.empty(len(i))
    for start in range(0, len(i), _PAIRS):
        part = slice(start, start + _PAIRS)
        apart = first.exact[i[part]].astype(np.float64)
        apart -= second.exact[j[part]]
        apart *= first.scale
        found[part] = np.linalg.vecdot(apart, apart) / 2
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
    i, j = _where(bounds <= radii.astype(np.float32))
    low, radius = bounds[i, j], np.broadcast_to(radii, bounds.shape)[i, j]
    i, j = i + rows.start, j + columns.start
    inside = _upper_bounds(first, second, i, j, low) < radius
    doubtful = np.flatnonzero(~inside)
    distances = _distances(first, second, i[doubtful], j[doubtful])
    inside[doubtful] = (np.less_equal if closed else np.less)(distances, radius[doubtful])
    return i[inside], j[inside]


def _radii(points: _Points, k: int) -> np.ndarray:
    """The distance of each of n points to its k-th neighbour, float64 [n].

    Kept are the pairs (point, other) that may be among a point's k nearest, and the lower bounds of their distances;
    which may be is looked at anew whenever the rows seen have doubled. Of those at last, first the pairs are computed
    that by their lower bounds are the nearest, then the ones that may be nearer than these.
    """
    every = np.arange(len(points.exact))
    most, pruned = np.empty(len(every), np.float32), 0
    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for rows, columns, bounds in _lower_bounds(points, points, least=k + 1):
        if rows.start == 0:
            upper = _upper_bounds(points, points, every[rows, None], every[columns], bounds)
            most[columns] = np.partition(upper.T, k - 1)[:, k - 1]
        i, j = _where(bounds <= most[rows, None])
        kept.append((every[rows][i], every[columns][j], bounds[i, j]))
        right = max(columns.start, rows.stop) - columns.start
        i, j = _where(bounds[:, right:] <= most[columns][right:])
        kept.append((every[columns][right:][j], every[rows][i], bounds[:, right:][i, j]))
        if columns.stop == len(every) and (rows.stop >= 2 * pruned or rows.stop == len(every)):
            pruned = rows.stop
            i, j, low = map(np.concatenate, zip(*kept, strict=True))
            most = _kth(i, _upper_bounds(points, points, i, j, low), k).astype(np.float32)
            near = np.flatnonzero(low <= most[i])
            if points.half and len(near) > _OPEN * k * len(every):
                raise _TooCoarse
            kept = [(i[near], j[near], low[near])]
    i, j, low = kept[0]
    values = _upper_bounds(points, points, i, j, low).astype(np.float64)
    nearest = _kth(i, low, k)[i]
    doubtful = np.flatnonzero((low <= nearest) & (nearest <= values))
    values[doubtful] = _distances(points, points, i[doubtful], j[doubtful])
    doubtful = np.flatnonzero((nearest < low) & (low <= _kth(i, values, k)[i]))
    values[doubtful] = _distances(points, points, i[doubtful], j[doubtful])
    return _kth(i, values, k)


def _kth(owners: np.ndarray, values: np.ndarray, k: int) -> np.ndarray:
    """The k-th least of the values of each owner: 0, 1, ..., each of whom has k or more."""
    order = np.empty(len(owners), np.complex128)
    order.real, order.imag = owners, values
    order.sort()
    owns = np.bincount(owners)
    return order.imag[np.cumsum(owns) - owns + k - 1]


def _where(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of what is true, of which there is little."""
    return np.divmod(np.flatnonzero(found), found.shape[1])
