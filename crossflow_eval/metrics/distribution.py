"""What two sets of features say of each other: KID, Inception Score, precision and recall, CMMD, FID-infinity.

Pure functions of features [n d], computed in float64 whatever they come in. Pairs of a set are looked at in blocks of
``_BLOCK`` numbers, so memory grows with n and never with its square. Where a published tool draws subsets from a fixed
seed they are drawn alike here, and the numbers agree to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.special import rel_entr, softmax

from crossflow_eval.metrics.frechet import Moments, frechet_distance

FIDELITY_SEED = 2020
"""The seed from which torch-fidelity draws its subsets and its order."""

_BLOCK = 1 << 25
"""How many pairwise numbers are held in memory at once: 256 MiB."""
_SYMMETRIC = 1 << 21
"""The same where a matrix is symmetric, of which finer blocks leave out more."""


def kid(
    features: np.ndarray, reference: np.ndarray, *, subsets: int = 100, size: int = 1000, seed: int = FIDELITY_SEED
) -> np.ndarray:
    """The kernel distance of each of ``subsets`` pairs of random subsets, float64 [subsets]; KID is their mean.

    The unbiased estimate of MMD^2 under k(x, y) = (x.y / d + 1)^3 (M. Binkowski et al., "Demystifying MMD GANs", 2018);
    it can fall below zero. Subsets are drawn as torch-fidelity draws them: without replacement, outputs first.
    Raises ValueError where either set has fewer than ``size`` features.
    """
    features, reference = _pair(features, reference, least=size)
    n, m = len(features), len(reference)
    random = np.random.RandomState(seed)
    drawn = [(random.choice(n, size, replace=False), random.choice(m, size, replace=False)) for _ in range(subsets)]
    if n * n / 2 + m * m / 2 + n * m <= 3 * subsets * size * size:
        return _kid_of_all_pairs(features, reference, drawn)
    distances = np.zeros(subsets)
    for index, (picked, others) in enumerate(drawn):
        x, y = features[picked], reference[others]
        within = sum(_cubic(z, z).sum() - _cubic(z, z, paired=True).sum() for z in (x, y))
        distances[index] = within / (size * (size - 1)) - 2 * _cubic(x, y).mean()
    return distances


def _kid_of_all_pairs(
    features: np.ndarray, reference: np.ndarray, drawn: Sequence[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """The same from the kernel of all pairs, each taken once for all subsets that it is in: cheaper for small sets.

    With rows s of the matrix S that are 1 where a subset has an item, the sum over a subset's pairs is s K s'.
    """
    size = len(drawn[0][0])
    x, y = (_indicators(drawn, side, len(points)) for side, points in enumerate((features, reference)))
    within = np.zeros(len(drawn))
    for points, subsets in ((features, x), (reference, y)):
        step = max(1, _SYMMETRIC // len(points))
        for start in range(0, len(points), step):  # a block row of K from its diagonal on; what is right of it is twice
            rows = slice(start, start + step)
            sums = subsets[:, rows] @ _cubic(points[rows], points[start:]) * subsets[:, start:]
            within += 2 * sums.sum(axis=1) - sums[:, :step].sum(axis=1)
        within -= subsets @ _cubic(points, points, paired=True)
    between = np.zeros(len(drawn))
    step = max(1, _BLOCK // len(reference))
    for start in range(0, len(features), step):
        rows = slice(start, start + step)
        between += (x[:, rows] @ _cubic(features[rows], reference) * y).sum(axis=1)
    return within / (size * (size - 1)) - 2 * between / size**2


def _indicators(drawn: Sequence[tuple[np.ndarray, np.ndarray]], side: int, n: int) -> np.ndarray:
    """Which of ``n`` items each subset has: float64 [subsets n] of 0 and 1."""
    found = np.zeros((len(drawn), n))
    for row, picked in zip(found, drawn, strict=True):
        row[picked[side]] = 1
    return found


def _cubic(x: np.ndarray, y: np.ndarray, *, paired: bool = False) -> np.ndarray:
    """The kernel of all pairs, [n m], or of each row of x with its own of y, [n]."""
    products = np.einsum("nd,nd->n", x, y) if paired else x @ y.T
    base = products / x.shape[1] + 1
    return base * base * base  # ten times as fast as a power


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
    """Improved precision and recall, density and coverage of outputs against a reference.

    ``closed`` counts a point at exactly the radius as inside. Published with k = 3 and closed balls for precision and
    recall (T. Kynkaanniemi et al., 2019; ADM, torch-fidelity), with k = 5 and open balls for all four (M. Naeem et al.,
    2020; prdc, dgm-eval). Raises ValueError where either set has no k-th neighbour.
    """
    features, reference = _pair(features, reference, least=k + 1)
    inside = np.less_equal if closed else np.less
    own, theirs = _square_radii(features, k), _square_radii(reference, k)
    hits = np.zeros(len(features), dtype=np.int64)
    recalled, covered = np.zeros(len(reference), dtype=bool), np.zeros(len(reference), dtype=bool)
    for rows, distances in _square_distances(reference, features):
        in_reference = inside(distances, theirs[rows, None])
        hits += in_reference.sum(axis=0)
        covered[rows] = in_reference.any(axis=1)
        recalled[rows] = inside(distances, own).any(axis=1)
    return Neighbourhoods(hits, recalled, covered, k)


def _square_radii(points: np.ndarray, k: int) -> np.ndarray:
    """The squared distance of each point to its k-th neighbour; the nearest of all is the point itself."""
    radii = np.zeros(len(points))
    for rows, distances in _square_distances(points, points):
        radii[rows] = np.partition(distances, k, axis=1)[:, k]
    return radii


def cmmd(features: np.ndarray, reference: np.ndarray, *, sigma: float = 10.0) -> float:
    """1000 MMD^2 of CLIP embeddings under exp(-|x - y|^2 / (2 sigma^2)), S. Jayasumana et al., 2024.

    The biased estimate (a pair of a point with itself counts), so it is never negative. Embeddings are brought to unit
    length first. Published on ViT-L/14 at 336 px, see ``Clip.images``.
    """
    features, reference = (_unit(each) for each in _pair(features, reference, least=1))

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


def _pair(features: np.ndarray, reference: np.ndarray, *, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Both sets in float64. Raises ValueError for shapes that do not fit and sets of fewer than ``least``."""
    if features.ndim != 2 or reference.ndim != 2 or features.shape[1] != reference.shape[1]:
        raise ValueError(f"features {features.shape} and a reference {reference.shape} cannot be compared")
    if min(len(features), len(reference)) < least:
        raise ValueError(f"{len(features)} outputs and {len(reference)} references; each set needs {least}")
    return features.astype(np.float64), reference.astype(np.float64)


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
