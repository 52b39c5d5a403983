"""The Frechet distance against scipy's sqrtm and numpy's eigvals: ``python -m benchmarks.frechet``.

Writes results/benchmarks/frechet.md. All methods run in one process on one thread, taking turns; times are CPU seconds,
medians of the rounds. ``sqrtm`` is the formula of pytorch-fid and clean-fid, ``eigvals`` that of torch-fidelity and
torchmetrics. These and ours from covariances start at mean and covariance in float64, which all libraries keep; ours
from features starts at the features, and so takes what the others have behind them.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import scipy.linalg
import torch
from threadpoolctl import threadpool_limits

from crossflow_eval.environment import hardware
from crossflow_eval.metrics.frechet import Moments, frechet_distance

Features = np.ndarray
Given = tuple[np.ndarray, np.ndarray]
"""Mean and covariance, or, for ours from features, features and nothing."""
Method = Callable[[Given, Given], float]
SIZES = ((2048, 1000), (2048, 5000))


def sample(n: int, dim: int, rng: np.random.Generator) -> Features:
    """Correlated features [n dim] whose spectrum decays over two orders of magnitude, as that of Inception does."""
    mix = rng.normal(size=(dim, dim)) / np.sqrt(dim)
    return rng.normal(size=(n, dim)) * np.geomspace(1, 0.01, dim) @ mix


def moments(features: Features) -> Given:
    return features.mean(axis=0), np.cov(features, rowvar=False)


def by_sqrtm(x: Given, y: Given) -> float:
    (m1, c1), (m2, c2) = x, y
    root: Features = np.asarray(scipy.linalg.sqrtm(c1 @ c2))
    return float(((m1 - m2) ** 2).sum() + c1.trace() + c2.trace() - 2 * float(np.real(np.diagonal(root)).sum()))


def by_eigvals(x: Given, y: Given) -> float:
    (m1, c1), (m2, c2) = x, y
    roots = np.sqrt(np.linalg.eigvals(c1 @ c2).astype(np.complex128))
    return float(((m1 - m2) ** 2).sum() + c1.trace() + c2.trace() - 2 * float(np.real(roots).sum()))


def ours_from_covariances(x: Given, y: Given) -> float:
    return frechet_distance(Moments.of_covariance(*x), Moments.of_covariance(*y))


def ours(x: Given, y: Given) -> float:
    return frechet_distance(Moments.of_features(x[0]), Moments.of_features(y[0]))


METHODS: dict[str, Method] = {
    "sqrtm (scipy)": by_sqrtm,
    "eigvals (numpy)": by_eigvals,
    "ours, from covariances": ours_from_covariances,
    "ours, from features": ours,
}


def measure(dim: int, n: int, rounds: int, rng: np.random.Generator) -> list[str]:
    """The lines of one size: seconds, speed relative to sqrtm's, difference, and each method's distance of x to x."""
    x, y = sample(n, dim, rng), sample(n, dim, rng) + 0.01
    given = {name: ((x, x), (y, y)) if method is ours else (moments(x), moments(y)) for name, method in METHODS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    distances: dict[str, float] = {}
    for _ in range(rounds):
        for name, method in METHODS.items():
            start = time.process_time()
            distances[name] = method(*given[name])
            seconds[name].append(time.process_time() - start)
    exact = distances["ours, from features"]
    reference = median(seconds["sqrtm (scipy)"])
    lines = []
    for name, method in METHODS.items():
        spent = median(seconds[name])
        error = abs(distances[name] - exact) / exact
        cells = (f"{dim}", f"{n:,}", name, f"{spent:.2f}", f"{reference / spent:.1f}", f"{error:.1e}")
        lines.append(f"| {' | '.join(cells)} | {method(given[name][0], given[name][0]):.1e} |")
    return lines


def report(lines: list[str], command: str) -> str:
    """The Markdown page."""
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}"
    return "\n".join(
        (
            "# The Frechet distance",
            "",
            f"`{command}`; {hardware()}, one thread used; {versions}.",
            "From mean and covariance of n features of d dimensions, in float64, to the distance; ours also from the",
            "features themselves, which includes what the others have behind them. Times are CPU seconds, medians; the",
            "speed is relative to sqrtm's, the difference to ours from features. The last column's true value is 0.",
            "",
            "| d | n | method | seconds | speed | difference | distance of x to x |",
            "|---:|---:|---|---:|---:|---:|---:|",
            *lines,
            "",
        )
    )


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/frechet.md"))
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        lines = [line for dim, n in SIZES for line in measure(dim, n, args.rounds, rng)]
    page = report(lines, f"python -m benchmarks.frechet --rounds {args.rounds} --seed {args.seed}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page)
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
