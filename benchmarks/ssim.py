"""SSIM and PSNR against scikit-image and torchmetrics: ``python -m benchmarks.ssim``.

Writes results/benchmarks/ssim.md. All methods run in one process on one thread, taking turns; times are CPU
milliseconds an image of 256 x 256 RGB, medians of the rounds. scikit-image is called with the arguments that give the
original Gaussian SSIM; torchmetrics, whose number is the padded variant, in the float32 that its users give it.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio
from threadpoolctl import threadpool_limits
from torchmetrics.functional.image import peak_signal_noise_ratio as torch_psnr
from torchmetrics.functional.image import structural_similarity_index_measure

from crossflow_eval.environment import hardware
from crossflow_eval.metrics.restoration import psnr, ssim
from crossflow_eval.peers.restoration import ssim as skimage_ssim

Method = Callable[[np.ndarray, np.ndarray], float]


def sample(rng: np.random.Generator, side: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """A smooth image with flat parts, uint8 RGB, and a noisy copy."""
    original = gaussian_filter(rng.normal(128, 900, (side, side, 3)), (3, 3, 0)).clip(0, 255)
    return (original + rng.normal(0, 12, original.shape)).clip(0, 255).astype(np.uint8), original.astype(np.uint8)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).permute(2, 0, 1)[None].float()


def torchmetrics_ssim(image: np.ndarray, original: np.ndarray) -> float:
    value = structural_similarity_index_measure(tensor(image), tensor(original), data_range=255.0)
    return torch.as_tensor(value).item()


def torchmetrics_psnr(image: np.ndarray, original: np.ndarray) -> float:
    return torch_psnr(tensor(image), tensor(original), data_range=255.0).item()


GROUPS: dict[str, dict[str, Method]] = {
    "SSIM": {"scikit-image": skimage_ssim, "ours": ssim},
    "padded SSIM": {"torchmetrics": torchmetrics_ssim, "ours": lambda x, y: ssim(x, y, padded=True)},
    "PSNR": {
        "scikit-image": lambda x, y: peak_signal_noise_ratio(y, x, data_range=255),
        "torchmetrics": torchmetrics_psnr,
        "ours": psnr,
    },
}


def measure(rounds: int, rng: np.random.Generator) -> list[str]:
    """The lines: milliseconds, ratio of each to the first of its kind, value, difference from the first."""
    images = sample(rng)
    calls = [(kind, name, method) for kind, methods in GROUPS.items() for name, method in methods.items()]
    seconds: dict[tuple[str, str], list[float]] = {(kind, name): [] for kind, name, _ in calls}
    values: dict[tuple[str, str], float] = {}
    for _ in range(rounds):
        for kind, name, method in calls:
            start = time.process_time()
            values[kind, name] = method(*images)
            seconds[kind, name].append(time.process_time() - start)
    lines = []
    for kind, name, _ in calls:
        first = next(iter(GROUPS[kind]))
        spent, peer = median(seconds[kind, name]), median(seconds[kind, first])
        apart = abs(values[kind, name] - values[kind, first])
        cells = (kind, name, f"{1e3 * spent:.2f}", f"{peer / spent:.1f}", f"{values[kind, name]:.6f}", f"{apart:.1e}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def report(lines: list[str], command: str) -> str:
    """The Markdown page."""
    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("scikit-image", "torchmetrics", "opencv-python-headless")
    )
    return "\n".join(
        (
            "# SSIM and PSNR",
            "",
            f"`{command}`; {hardware()}, one thread used; Python {platform.python_version()}, numpy {np.__version__}, "
            f"torch {torch.__version__}, {libraries}.",
            "One pair of 256 x 256 RGB images. Times are CPU milliseconds, medians; ratio and difference are to the",
            "first method of each kind. SSIM and padded SSIM are two definitions: read them apart.",
            "",
            "| metric | method | ms | times faster | value | difference |",
            "|---|---|---:|---:|---:|---:|",
            *lines,
            "",
        )
    )


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/ssim.md"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with threadpool_limits(1):
        lines = measure(args.rounds, np.random.default_rng(args.seed))
    page = report(lines, f"python -m benchmarks.ssim --rounds {args.rounds} --seed {args.seed}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page)
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
