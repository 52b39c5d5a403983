"""Writing PNGs against torchvision's save_image, which the official sampler calls: ``python -m benchmarks.png``.

Writes results/benchmarks/png.md. All methods run in one process on one thread, taking turns; times are CPU
milliseconds an image of 256 x 256 RGB, from the numbers in memory to the file, medians of the rounds.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torchvision.utils import save_image

from crossflow.sampling.samples import write_image
from crossflow_eval.environment import hardware

Writer = Callable[[Path, np.ndarray], None]


def sample(rng: np.random.Generator, side: int = 256) -> np.ndarray:
    """A smooth image with flat parts and the noise of a photograph, uint8 RGB."""
    smooth = gaussian_filter(rng.normal(128, 900, (side, side, 3)), (3, 3, 0)).clip(0, 255)
    return (smooth + rng.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8)


def by_torchvision(path: Path, image: np.ndarray) -> None:
    save_image(torch.from_numpy(image).permute(2, 0, 1) / 255, path)


def without_fpng(path: Path, image: np.ndarray) -> None:
    with patch.dict(sys.modules, {"fpng": None}):
        write_image(path, image)


WRITERS: dict[str, Writer] = {
    "torchvision's save_image": by_torchvision,
    "ours, where fpng is not installed": without_fpng,
    "ours": write_image,
}


def measure(count: int, rounds: int, rng: np.random.Generator) -> list[str]:
    """The lines: milliseconds, ratio to the first, bytes, and whether the file holds the pixels."""
    images = [sample(rng) for _ in range(count)]
    seconds: dict[str, list[float]] = {name: [] for name in WRITERS}
    sizes, exact = {}, {}
    for _ in range(rounds):
        for name, writer in WRITERS.items():
            with tempfile.TemporaryDirectory() as folder:
                paths = [Path(folder) / f"{i}.png" for i in range(count)]
                start = time.process_time()
                for path, image in zip(paths, images, strict=True):
                    writer(path, image)
                seconds[name].append((time.process_time() - start) / count)
                sizes[name] = sum(path.stat().st_size for path in paths) / count
                exact[name] = all(
                    np.array_equal(np.asarray(Image.open(path)), image)
                    for path, image in zip(paths, images, strict=True)
                )
    first = median(seconds["torchvision's save_image"])
    return [
        f"| {name} | {1e3 * median(spent):.2f} | {first / median(spent):.1f} | {sizes[name] / 1e3:.0f} "
        f"| {'yes' if exact[name] else 'no'} |"
        for name, spent in seconds.items()
    ]


def report(lines: list[str], command: str) -> str:
    """The Markdown page."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torchvision", "pillow", "fpng"))
    return "\n".join(
        (
            "# Writing PNGs",
            "",
            f"`{command}`; {hardware()}, one thread used; Python {platform.python_version()}, {packages}.",
            "Synthetic photographs of 256 x 256 RGB. Times are CPU milliseconds an image, medians.",
            "",
            "| writer | ms | times faster | kB | same pixels |",
            "|---|---:|---:|---:|---:|",
            *lines,
            "",
        )
    )


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/png.md"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = measure(args.count, args.rounds, np.random.default_rng(args.seed))
    command = f"python -m benchmarks.png --count {args.count} --rounds {args.rounds} --seed {args.seed}"
    page = report(lines, command)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page)
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
