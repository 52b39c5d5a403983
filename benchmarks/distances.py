"""KID, precision and recall of features against torch-fidelity: ``python -m benchmarks.distances``.

Writes results/benchmarks/distances.md. Both sides run in one process on one thread, taking turns, from the same float32
features; times are CPU seconds, medians of the rounds.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from crossflow_eval.environment import hardware
from crossflow_eval.metrics.distribution import kid
from crossflow_eval.metrics.neighbourhoods import has_bfloat16, neighbourhoods

DIM = 2048
HOW = """\
Ours take products of centred points. KID of up to 10,000 features is from the kernel of all pairs, each taken once, in
float32. Beyond that each subset has pairs of its own, both sides spend most of their time in the same products, and
torch-fidelity is as fast or a little faster. Precision and recall are decided in float64, but only of pairs that bounds
leave open; here the bounds are from products in {}.""".format(
    "bfloat16, which this CPU has" if has_bfloat16() else "float32, for this CPU has none in bfloat16"
).splitlines()
Side = Callable[[np.ndarray, np.ndarray], float]


def theirs_kid(x: np.ndarray, y: np.ndarray) -> float:
    found = kid_features_to_metric(torch.from_numpy(x), torch.from_numpy(y), kid_subset_size=1000, verbose=False)
    return found["kernel_inception_distance_mean"]


def theirs_precision(x: np.ndarray, y: np.ndarray) -> float:
    how = {"prc_neighborhood": 3, "prc_batch_size": 10_000, "save_cpu_ram": False, "verbose": False}
    return prc_features_to_metric(torch.from_numpy(x), torch.from_numpy(y), **how)["precision"]


METHODS: dict[str, tuple[Side, Side]] = {
    "KID, 100 subsets of 1,000": (theirs_kid, lambda x, y: float(kid(x, y).mean())),
    "precision and recall": (theirs_precision, lambda x, y: neighbourhoods(x, y, k=3, closed=True).precision),
}


def measure(n: int, rounds: int, rng: np.random.Generator) -> list[str]:
    """The lines of two sets of ``n`` features: seconds of both sides, their ratio, the difference of the numbers."""
    x, y = (rng.normal(shift, 1, size=(n, DIM)).astype(np.float32) for shift in (0.0, 0.02))
    lines: list[str] = []
    for name, sides in METHODS.items():
        spent: list[list[float]] = [[], []]
        found = [0.0, 0.0]
        for _ in range(rounds):
            for number, side in enumerate(sides):
                start = time.process_time()
                found[number] = side(x, y)
                spent[number].append(time.process_time() - start)
        theirs, ours = map(median, spent)
        difference = abs(found[0] - found[1])
        lines.append(f"| {name} | {n:,} | {theirs:.2f} | {ours:.2f} | {theirs / ours:.1f} | {difference:.1e} |")
    return lines


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 5000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/distances.md"))
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        lines = [line for n in args.sizes for line in measure(n, args.rounds, rng)]
    settings = f"--sizes {' '.join(map(str, args.sizes))} --rounds {args.rounds} --seed {args.seed}"
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "torch", "torch-fidelity"))
    page = "\n".join(
        (
            "# KID, precision and recall",
            "",
            f"`python -m benchmarks.distances {settings}`; {hardware()}, one thread used; "
            f"Python {platform.python_version()}, {versions}.",
            f"Two sets of n features of {DIM} dimensions, float32. "
            "Times are CPU seconds, medians of the rounds, the sides",
            f"taking turns; load average {os.getloadavg()[1]:.1f} when they ended. "
            "The difference is of the two numbers.",
            "",
            *HOW,
            "",
            "| | n | torch-fidelity | ours | ratio | difference |",
            "|---|---:|---:|---:|---:|---:|",
            *lines,
            "",
        )
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page)
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
