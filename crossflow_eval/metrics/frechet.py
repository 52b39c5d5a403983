"""The Frechet distance of two Gaussians, the number behind FID, in float64 and without a matrix square root.

    d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))                               (D. Dowson and B. Landau, 1982)

With roots C = R' R the last trace is the nuclear norm of R1 R2', and the whole trace term is the orthogonal Procrustes
distance min |R1 - U R2|^2 over orthogonal U (R. Bhatia, T. Jain and Y. Lim, 2019). Both are symmetric, real and blind
to rank. The usual routes through sqrtm or eigvals of C1 C2 take roots of rounding errors where C is singular, which
moves FID by 1e-4 and lets the distance of a set to itself be negative; for covariances of full rank all agree.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from scipy.linalg import get_lapack_funcs

METHOD = "nuclear norm of the product of covariance roots, float64, covariance with n - 1"
_CANCELLATION = 1e-3
"""Below this part of the summed traces the trace term is computed without subtraction."""
_ACCURATE = 1e-11
"""Relative error of the distance up to which singular values may be roots of eigenvalues."""


@dataclass(frozen=True)
class Moments:
    """A Gaussian: float64 mean [d] and a root [r d] of its covariance, root' root = C, with r <= d."""

    mean: np.ndarray
    root: np.ndarray

    @staticmethod
    def of_features(features: np.ndarray) -> Moments:
        """Mean and covariance (divisor n - 1) of features [n d]. Needs n >= 2 and finite values, else ValueError.

        The root is the centred data itself (n <= d) or its triangular factor: the covariance is never formed.
        """
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"expected features [n d] of at least two outputs, got shape {features.shape}")
        data = _finite(features)
        mean = data.mean(axis=0)
        centred = (data - mean) / np.sqrt(len(data) - 1)
        return Moments(mean, centred if len(data) <= data.shape[1] else np.asarray(np.linalg.qr(centred, mode="r")))

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
        root = _cholesky(covariance, tolerance)
        probes = np.random.default_rng(0).normal(size=(mean.size, 8))  # cheaper than all of root' root, and as strict
        off = abs(root.T @ (root @ probes) - covariance @ probes).max(initial=0.0)
        if off > 1e-6 * scale or abs(covariance - covariance.T).max(initial=0.0) > 1e-6 * scale:
            raise ValueError("the covariance is not symmetric and positive semidefinite")
        return Moments(mean, root)


def _cholesky(covariance: np.ndarray, tolerance: float) -> np.ndarray:
    """A root of a covariance: triangular where its rank is full, else the pivoted one, cut at ``tolerance``."""
    with suppress(np.linalg.LinAlgError):
        factor = np.linalg.cholesky(covariance)
        if factor.diagonal().min(initial=np.inf) ** 2 > tolerance:
            return factor.T
    (pivoted_cholesky,) = get_lapack_funcs(("pstrf",), (covariance,))
    factor, order, rank, _ = pivoted_cholesky(covariance, lower=1, tol=tolerance)
    root = np.zeros((rank, len(covariance)))
    root[:, order - 1] = np.tril(factor)[:, :rank].T
    return root


def _finite(array: np.ndarray) -> np.ndarray:
    array = np.asarray(array, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{int((~np.isfinite(array)).sum())} of {array.size} numbers are not finite")
    return array


def frechet_distance(first: Moments, second: Moments) -> float:
    """The squared Frechet distance d^2, as FID prints it: >= 0, and symmetric in its arguments up to rounding."""
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"features of {first.mean.size} and of {second.mean.size} dimensions cannot be compared")
    apart = float(((first.mean - second.mean) ** 2).sum())
    total = float((first.root**2).sum() + (second.root**2).sum())
    norm, error = _quick_nuclear_norm(first.root, second.root)
    if not 2 * error <= _ACCURATE * (apart + total - 2 * norm):
        norm = float(np.linalg.svd(first.root @ second.root.T, compute_uv=False).sum())
    trace = total - 2 * norm
    if trace < _CANCELLATION * total:
        trace = _procrustes(first.root, second.root)
    return apart + trace


def _quick_nuclear_norm(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """The sum of the singular values s of P = first second', and a bound of its error, infinite where it is no use.

    The roots of the eigenvalues of P P' take a third of the time of s, but rounding moves an eigenvalue by about e, a
    1e-16th of the largest, and so log s by e / 2 s^2 and s by e / 2 s. The logarithms must add up to that of the
    determinant: by how much they do not, times the number and the smallest of the s, bounds what the s are off.
    """
    rank = len(first)
    if not first.shape == second.shape == (rank, rank):
        return 0.0, np.inf
    product = first @ second.T
    values = np.linalg.eigvalsh(product @ product.T)
    if values.min(initial=np.inf) <= 0:
        return 0.0, np.inf
    roots = np.sqrt(values)
    off = abs(float(np.log(roots).sum()) - _log_determinant(first) - _log_determinant(second))
    return float(roots.sum()), rank * float(roots.min()) * off


def _log_determinant(root: np.ndarray) -> float:
    if np.tril(root, -1).any():
        return float(np.linalg.slogdet(root).logabsdet)
    with np.errstate(divide="ignore"):
        return float(np.log(abs(root.diagonal())).sum())


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
