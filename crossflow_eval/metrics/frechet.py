"""The Frechet distance of two Gaussians, the number behind FID, in float64 and without a matrix square root.

    d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))                               (D. Dowson and B. Landau, 1982)

With roots C = R' R the last trace is the nuclear norm of R1 R2', and the whole trace term is the orthogonal Procrustes
distance min |R1 - U R2|^2 over orthogonal U (R. Bhatia, T. Jain and Y. Lim, 2019). Both are symmetric, real and blind
to rank. The usual routes through sqrtm or eigvals of C1 C2 take roots of rounding errors where C is singular, which
moves FID by 1e-4 and lets the distance of a set to itself be negative; for covariances of full rank all agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import get_lapack_funcs

METHOD = "nuclear norm of the product of covariance roots, float64, covariance with n - 1"
_CANCELLATION = 1e-3
"""Below this part of all that is summed the distance is computed without subtraction."""
_ACCURATE = 1e-11
"""Relative error of the distance up to which singular values may be roots of eigenvalues."""
_MARGIN = 8
"""By how much an estimate of what rounding does is raised to make a bound."""
_REGULAR = 1e-10
"""Part of the largest variance that each feature must keep given those before it for a covariance to hold the root."""


@dataclass(frozen=True)
class Moments:
    """A Gaussian: float64 mean [d] and a root [r d] of its covariance, root' root = C, with r <= d."""

    mean: np.ndarray
    root: np.ndarray

    @staticmethod
    def of_features(features: np.ndarray) -> Moments:
        """Mean and covariance (divisor n - 1) of features [n d]. Needs n >= 2 and finite values, else ValueError.

        The root is n - 1 orthonormal contrasts of the rows (n <= d + 1), or their triangular factor: by Cholesky's
        method from the covariance, which takes half of the time, or where that would lose digits by QR.
        """
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"expected features [n d] of at least two outputs, got shape {features.shape}")
        data = _finite(features)
        mean = data.mean(axis=0)
        root = _contrasts(data, mean)
        if len(root) > mean.size:
            squares = root.T @ root
            factor = _triangular(squares, _REGULAR * squares.diagonal().max(initial=0.0))
            root = np.asarray(np.linalg.qr(root, mode="r")) if factor is None else factor
        root /= np.sqrt(len(data) - 1)
        return Moments(mean, root)

    @staticmethod
    def of_covariance(mean: np.ndarray, covariance: np.ndarray) -> Moments:
        """From a mean [d] and a covariance [d d], as published references store; its numerical null space is cut.

        Raises ValueError where the covariance is not square, symmetric and positive semidefinite up to rounding.
        """
        mean, covariance = _finite(mean), _finite(covariance)
        if covariance.shape != (mean.size, mean.size):
            raise ValueError(f"a mean [{mean.size}] cannot go with a covariance {list(covariance.shape)}")
        scale = float(covariance.diagonal().max(initial=0.0))
        tolerance = mean.size * np.finfo(np.float64).eps * scale
        root = _triangular(covariance, tolerance)
        if root is None:
            root = _pivoted(covariance, tolerance)
        probes = np.random.default_rng(0).normal(size=(mean.size, 8))  # cheaper than all of root' root, and as strict
        off = abs(root.T @ (root @ probes) - covariance @ probes).max(initial=0.0)
        if off > 1e-6 * scale or abs(covariance - covariance.T).max(initial=0.0) > 1e-6 * scale:
            raise ValueError("the covariance is not symmetric and positive semidefinite")
        return Moments(mean, root)


def _contrasts(data: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The rows [n - 1 d] of H data, where H is orthogonal but for its first row, which takes the mean and is left out.

    H is the Householder reflection of the unit vector of ones onto the first axis; what it does to the other rows is
    x_i - mean + (x_0 - mean) / (sqrt n - 1). The rows' squares are those about the mean, without the null direction.
    """
    return data[1:] - (mean - (data[0] - mean) / (np.sqrt(len(data)) - 1))


def _triangular(covariance: np.ndarray, least: float) -> np.ndarray | None:
    """The upper triangular root; None where it does not exist, or the square of a pivot is not above ``least``."""
    import torch

    factor, failed = torch.linalg.cholesky_ex(torch.from_numpy(covariance), upper=True)
    return None if failed or (factor.diagonal() ** 2 <= least).any() else factor.numpy()


def _pivoted(covariance: np.ndarray, tolerance: float) -> np.ndarray:
    """The root [rank d] of Cholesky's method with pivoting, which ends at a pivot of ``tolerance``."""
    (pivoted_cholesky,) = get_lapack_funcs(("pstrf",), (covariance,))
    factor, order, rank, _ = pivoted_cholesky(covariance, lower=1, tol=tolerance)
    root = np.zeros((rank, len(covariance)))
    root[:, order - 1] = np.tril(factor)[:, :rank].T
    return root


def _finite(array: np.ndarray) -> np.ndarray:
    array = np.require(array, np.float64, ["C", "W"])  # which torch asks for
    if not np.isfinite(array).all():
        raise ValueError(f"{int((~np.isfinite(array)).sum())} of {array.size} numbers are not finite")
    return array


def frechet_distance(first: Moments, second: Moments) -> float:
    """The squared Frechet distance d^2, as FID prints it: >= 0, and symmetric in its arguments up to rounding."""
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"features of {first.mean.size} and of {second.mean.size} dimensions cannot be compared")
    apart = float(((first.mean - second.mean) ** 2).sum())
    whole = apart + float(np.linalg.norm(first.root) ** 2 + np.linalg.norm(second.root) ** 2)
    distance = whole - 2 * _nuclear_norm(first.root @ second.root.T, whole)
    return apart + _procrustes(first.root, second.root) if distance < _CANCELLATION * whole else distance


def _nuclear_norm(product: np.ndarray, whole: float) -> float:
    """The sum of the singular values s of P, so that ``whole`` less twice it has an error of at most ``_ACCURATE``.

    The roots of the eigenvalues of P P' take a quarter of the time of s, but rounding moves each eigenvalue by up to
    some e, and so s by e / 2s and log s by e / 2s^2. The first bound takes e to be a rounding error of the largest
    eigenvalue. The second, often far lower, finds e from the logarithms, whose sum is that of the determinant.
    """
    import torch

    rows, columns = product.shape
    if rows != columns:
        product = np.asarray(np.linalg.qr(product.T if rows < columns else product, mode="r"))
    values = torch.linalg.eigvalsh(torch.from_numpy(product @ product.T)).numpy()
    if values.min(initial=np.inf) > 0:
        roots = np.sqrt(values)
        norm, moved = float(roots.sum()), (0.5 / roots).sum()
        enough = _ACCURATE * (whole - 2 * norm) / 2 / _MARGIN
        if np.finfo(np.float64).eps * values.max(initial=0.0) * moved <= enough:
            return norm
        off = abs(np.log(roots).sum() - float(torch.linalg.slogdet(torch.from_numpy(product)).logabsdet))
        if off / (0.5 / values).sum() * moved <= enough:
            return norm
    return float(np.linalg.svd(product, compute_uv=False).sum())


def _procrustes(first: np.ndarray, second: np.ndarray) -> float:
    """The trace term as a sum of squares, exact where it is a small difference of large traces."""
    rank = max(len(first), len(second))
    first, second = (np.pad(root, ((0, rank - len(root)), (0, 0))) for root in (first, second))
    left, _, right = np.linalg.svd(first @ second.T)
    return float(((first - left @ (right @ second)) ** 2).sum())


def rank_warning(what: str, n: int, dim: int) -> str | None:
    """What to say where a covariance of ``n`` features of ``dim`` dimensions is singular; None where it is not."""
    if n > dim:
        return None
    return f"{n} {what} do not span {dim} feature dimensions: the covariance is singular and the distance biased"
