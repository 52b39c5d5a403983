"""Alignment and ten depth errors against Marigold's way: ``python -m benchmarks.depth``.

Writes results/benchmarks/depth.md. All methods run in one process on one thread, taking turns; times are CPU
milliseconds an image, medians of the rounds. Marigold's way is numpy's ``lstsq`` on the valid pixels in float32 and ten
torch functions in float32, each over the whole image and zeroed where it is not valid (``crossflow_eval.peers.depth``);
taken once more in float64 it says how far each method is from the exact numbers.
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
import torch
from threadpoolctl import threadpool_limits

from crossflow_eval.environment import hardware
from crossflow_eval.metrics.crops import WHOLE
from crossflow_eval.metrics.depth import ERRORS, DepthProtocol, align, depth_errors
from crossflow_eval.peers.depth import least_squares, marigold_errors

Case = tuple[np.ndarray, np.ndarray, np.ndarray]
PROTOCOLS = {
    "KITTI, 352 x 1216, 16 % valid": ((352, 1216), 0.16, 79.0),
    "NYUv2, 480 x 640, 80 % valid": ((480, 640), 0.80, 9.9),
}
LOWEST = 1e-3


def sample(size: tuple[int, int], valid: float, farthest: float, rng: np.random.Generator) -> Case:
    """A target, a prediction of it up to scale and shift that is 10 % off, both float32, and the valid pixels."""
    target = rng.uniform(1, farthest, size).astype(np.float32)
    prediction = (target * np.exp(rng.normal(0, 0.1, size)) / farthest + 0.05).astype(np.float32)
    mask = rng.random(size) < valid
    return prediction, np.where(mask, target, np.float32(0)), mask


def marigolds_way(prediction: np.ndarray, target: np.ndarray, mask: np.ndarray, farthest: float) -> list[float]:
    """The ten errors in the order of ``ERRORS``, in the arrays' own precision."""
    scale, shift = least_squares(prediction[mask], target[mask])
    depth = np.clip(np.clip(prediction * scale + shift, LOWEST, farthest), 1e-6, None)
    return list(marigold_errors(depth, target, mask).values())


def ours_in_one(prediction: np.ndarray, target: np.ndarray, mask: np.ndarray, farthest: float) -> list[float]:
    how = DepthProtocol(min_depth=LOWEST, max_depth=farthest, space="depth", crops={"": WHOLE})
    judged = how.judge(prediction, target, mask)
    return [judged[name] for name in ERRORS]


def ours_in_two(prediction: np.ndarray, target: np.ndarray, mask: np.ndarray, farthest: float) -> list[float]:
    scale, shift = align(prediction, target, mask)
    aligned = prediction * np.float64(scale)
    aligned += shift
    return list(depth_errors(aligned.clip(LOWEST, farthest, out=aligned), target, mask).values())


METHODS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray, float], list[float]]] = {
    "Marigold's way, float32": marigolds_way,
    "ours, align and depth_errors": ours_in_two,
    "ours, as the suites call it": ours_in_one,
}


def measure(name: str, rounds: int, rng: np.random.Generator) -> list[str]:
    """The lines of one size: milliseconds, ratio to Marigold's way, largest relative difference from float64."""
    size, valid, farthest = PROTOCOLS[name]
    case = sample(size, valid, farthest, rng)
    exact = np.array(marigolds_way(case[0].astype(np.float64), case[1].astype(np.float64), case[2], farthest + 1))
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    furthest: dict[str, float] = {}
    for _ in range(rounds):
        for method, function in METHODS.items():
            start = time.process_time()
            found = function(*case, farthest + 1)
            seconds[method].append(time.process_time() - start)
            furthest[method] = float(np.abs(np.array(found) / exact - 1).max())
    peer = median(seconds["Marigold's way, float32"])
    lines = []
    for method, spent in ((method, median(each)) for method, each in seconds.items()):
        lines.append(f"| {name} | {method} | {1e3 * spent:.2f} | {peer / spent:.1f} | {furthest[method]:.1e} |")
    return lines


def report(lines: list[str], command: str) -> str:
    """The Markdown page."""
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}"
    return "\n".join(
        (
            "# Depth: alignment and ten errors",
            "",
            f"`{command}`; {hardware()}, one thread used; {versions}.",
            "From float32 prediction and target to scale, shift and ten errors. Times are CPU milliseconds an image,",
            "medians; the ratio is to Marigold's way. The difference is the largest relative one of the ten errors",
            "from the same formulas in float64.",
            "",
            "| size | method | ms | times faster | difference |",
            "|---|---|---:|---:|---:|",
            *lines,
            "",
        )
    )


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/depth.md"))
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        lines = [line for name in PROTOCOLS for line in measure(name, args.rounds, rng)]
    page = report(lines, f"python -m benchmarks.depth --rounds {args.rounds} --seed {args.seed}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page)
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
