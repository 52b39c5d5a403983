"""What two sets of features say of each other: KID, Inception Score, CMMD, FID-infinity.

Pure functions of features [n d], computed in float64 but for the products of KID; memory grows with n and never with
its square. Where a published tool draws subsets from a fixed seed they are drawn alike here, and the numbers agree to
rounding. Precision and recall: :mod:`crossflow_eval.metrics.neighbourhoods`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.special import rel_entr, softmax

from crossflow_eval.metrics.frechet import Moments, frechet_distance
from crossflow_eval.metrics.pairs import check_pair, middle_of, tiles

FIDELITY_SEED = 2020
"""The seed from which torch-fidelity draws its subsets and its order."""

_BLOCK = 1 << 25
"""How many pairwise numbers are held in memory at once: 256 MiB."""


def kid(
    features: np.ndarray, reference: np.ndarray, *, subsets: int = 100, size: int = 1000, seed: int = FIDELITY_SEED
) -> np.ndarray:
    """The kernel distance of each of ``subsets`` pairs of random subsets, float64 [subsets]; KID is their mean.

    The unbiased estimate of MMD^2 under k(x, y) = (x.y / d + 1)^3 (M. Binkowski et al., "Demystifying MMD GANs", 2018);
    it can fall below zero. Subsets are drawn as torch-fidelity draws them: without replacement, outputs first. Products
    are of points less the reference's mean, in the features' own precision; all else is float64. Raises ValueError
    where either set has fewer than ``size`` features.
    """
    check_pair(features, reference, least=size)
    n, m = len(features), len(reference)
    random = np.random.RandomState(seed)
    drawn = [(random.choice(n, size, replace=False), random.choice(m, size, replace=False)) for _ in range(subsets)]
    middle = middle_of(features, reference)
    all_x, all_y = (_Centred.of(points, middle) for points in (features, reference))
    if n * n / 2 + m * m / 2 + n * m <= 2 * subsets * size * size:
        return _kid_of_all_pairs(all_x, all_y, drawn)
    distances = np.zeros(subsets)
    for index, (picked, others) in enumerate(drawn):
        x, y = all_x.take(picked), all_y.take(others)
        within = sum(_cubic(z, z).sum() - _cubic(z).sum() for z in (x, y))
        distances[index] = within / (size * (size - 1)) - 2 * _cubic(x, y).mean()
    return distances


class _Centred(NamedTuple):
    """Points c + z of a middle c: ``rest`` z [n d], in their precision, and ``share`` (c.z + c.c / 2) / d + 1 / 2 [n].

    So x.y / d + 1 is both shares and the product of both rests over d, which is small and loses little to rounding.
    """

    rest: np.ndarray
    share: np.ndarray

    @staticmethod
    def of(points: np.ndarray, middle: np.ndarray) -> _Centred:
        rest, c = points - middle, middle.astype(np.float64)
        return _Centred(rest, (np.einsum("nd,d->n", rest, c) + c @ c / 2) / len(c) + 0.5)

    def take(self, rows: slice | np.ndarray) -> _Centred:
        return _Centred(self.rest[rows], self.share[rows])


def _cubic(x: _Centred, y: _Centred | None = None) -> np.ndarray:
    """The kernel of all pairs, float64 [n m], or of each point with itself, [n]."""
    d = x.rest.shape[1]
    if y is None:
        base = np.einsum("nd,nd->n", x.rest, x.rest, dtype=np.float64) / d + 2 * x.share
    else:
        base = np.divide(x.rest @ y.rest.T, d, dtype=np.float64)
        base += x.share[:, None]
        base += y.share
    cube = base * base  # ten times as fast as a power
    cube *= base
    return cube


def _kid_of_all_pairs(x: _Centred, y: _Centred, drawn: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The same from the kernel of all pairs, each taken once for all subsets that it is in: cheaper for small sets.

    With rows s of the matrix S that are 1 where a subset has an item, the sum over a subset's pairs is s K s'.
    """
    size = len(drawn[0][0])
    in_x, in_y = (_indicators(drawn, side, len(points.rest)) for side, points in enumerate((x, y)))
    within, between = np.zeros(len(drawn)), np.zeros(len(drawn))
    for points, subsets in ((x, in_x), (y, in_y)):
        for rows, columns in tiles(len(points.rest)):
            kernel = _cubic(points.take(rows), points.take(columns))
            sums = (subsets[:, rows] @ kernel * subsets[:, columns]).sum(axis=1)
            within += sums if rows == columns else 2 * sums
        within -= subsets @ _cubic(points)
    for rows, columns in tiles(len(x.rest), len(y.rest)):
        kernel = _cubic(x.take(rows), y.take(columns))
        between += (in_x[:, rows] @ kernel * in_y[:, columns]).sum(axis=1)
    return within / (size * (size - 1)) - 2 * between / size**2


def _indicators(drawn: Sequence[tuple[np.ndarray, np.ndarray]], side: int, n: int) -> np.ndarray:
    """Which of ``n`` items each subset has: float64 [subsets n] of 0 and 1."""
    found = np.zeros((len(drawn), n))
    for row, picked in zip(found, drawn, strict=True):
        row[picked[side]] = 1
    return found


def inception_scores(logits: np.ndarray, *, splits: int = 10, seed: int = FIDELITY_SEED) -> np.ndarray:
    """The Inception Score of each of ``splits`` equal parts of the shuffled outputs, float64 [splits].

    exp E KL(p(y|x) || p(y)) (T. Salimans et al., 2016), with p the softmax of ``logits`` [n classes]: for published
    numbers Inception's 1008 without the bias. Order and parts are torch-fidelity's, which prints their mean and their
    standard deviation with divisor n. Raises ValueError for fewer outputs than parts.
    """
    if len(logits) < splits:
        raise ValueError(f"an Inception Score over {splits} splits needs as many outputs, got {len(logits)}")
    order = np.random.RandomState(seed).permutation(len(logits))
    bounds = [part * len(logits) // splits for part in range(splits + 1)]
    return np.array([_inception_score(logits[order[a:b]]) for a, b in pairwise(bounds)])


def inception_scores_adm(logits: np.ndarray, *, size: int = 5000) -> np.ndarray:
    """The Inception Score of each ``size`` outputs in their own order, as ADM's evaluator takes it; it prints the mean.

    The last part holds what is left over, however little (P. Dhariwal and A. Nichol, 2021: guided-diffusion).
    """
    return np.array([_inception_score(logits[start : start + size]) for start in range(0, len(logits), size)])


def _inception_score(logits: np.ndarray) -> float:
    p = softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return float(np.exp(rel_entr(p, p.mean(axis=0)).sum(axis=1).mean()))


def cmmd(features: np.ndarray, reference: np.ndarray, *, sigma: float = 10.0) -> float:
    """1000 MMD^2 of CLIP embeddings under exp(-|x - y|^2 / (2 sigma^2)), S. Jayasumana et al., 2024.

    The biased estimate (a pair of a point with itself counts), so it is never negative. Embeddings are brought to unit
    length first. Published on ViT-L/14 at 336 px, see ``Clip.images``.
    """
    check_pair(features, reference, least=1)
    features, reference = (_unit(each.astype(np.float64)) for each in (features, reference))

    def mean_kernel(x: np.ndarray, y: np.ndarray) -> float:
        blocks = _square_distances(x, y)
        return sum(np.exp(distances / (-2 * sigma**2)).sum() for _, distances in blocks) / (len(x) * len(y))

    between = mean_kernel(features, reference)
    return 1000 * (mean_kernel(features, features) + mean_kernel(reference, reference) - 2 * between)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def frechet_infinity(features: np.ndarray, reference: Moments, *, points: int = 15, seed: int = 0) -> float:
    """The Frechet distance without the bias of a finite n: the intercept of a line through d^2 over 1/n.

    ``points`` sizes between min(5000, n / 10) and n; each distance is that of a random subset of the outputs, drawn
    without replacement (M. Chong and D. Forsyth, 2020, in dgm-eval's form). Only the outputs' bias is taken away.
    """
    sizes, random = infinity_sizes(len(features), points), np.random.default_rng(seed)
    subsets = (features[random.choice(len(features), size, replace=False)] for size in sizes)
    distances = [frechet_distance(Moments.of_features(subset), reference) for subset in subsets]
    return float(np.polynomial.Polynomial.fit(1 / sizes, distances, 1).convert().coef[0])


def infinity_sizes(n: int, points: int = 15) -> np.ndarray:
    """How large the subsets of :func:`frechet_infinity` are, int [points], ascending to n."""
    return np.linspace(min(5000, max(n // 10, 2)), n, points).astype(np.int64)


def _square_distances(first: np.ndarray, second: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """|x - y|^2 of all pairs, a block of rows of ``first`` at a time, with the rows' place."""
    lengths = np.einsum("nd,nd->n", second, second)
    step = max(1, _BLOCK // len(second))
    for start in range(0, len(first), step):
        rows = slice(start, start + step)
        distances = first[rows] @ second.T
        distances *= -2
        distances += lengths
        distances += np.einsum("nd,nd->n", first[rows], first[rows])[:, None]
        yield rows, distances
