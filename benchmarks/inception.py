"""Inception features of PNG files against clean-fid's own extraction: ``python -m benchmarks.inception``.

Writes results/benchmarks/inception.md. Both sides run in one process on one thread, taking turns; times are CPU
seconds, medians of the rounds, without imports and without loading. The weights are random (none are shipped), the
same on both sides. clean-fid runs as it does by itself: its data set and resizer, its batch of 32, its network.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from crossflow_eval.datasets.folder import read_image
from crossflow_eval.environment import hardware
from crossflow_eval.judges.features import extract
from crossflow_eval.judges.inception import InceptionFeatures, Weights
from crossflow_eval.metrics.frechet import Moments, frechet_distance

CLEAN_FID_BATCH = 32
"""What its ``compute_fid`` takes by default."""


def random_state(seed: int) -> dict[str, torch.Tensor]:
    """Random weights in the form of pytorch-fid's file, of He's scale, so that features neither vanish nor explode."""
    from torchvision.models import inception_v3

    state = inception_v3(num_classes=1008, aux_logits=False, init_weights=False, weights=None).state_dict()
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in state.items():
        if name.endswith(("running_var", "bn.weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5 if tensor.ndim > 1 else 0.1, generator=generator)
    return state


def write_images(folder: Path, n: int, side: int, rng: np.random.Generator) -> list[Path]:
    """PNG files with structure at several scales, as photographs have."""
    paths = [folder / f"{index:04}.png" for index in range(n)]
    for path in paths:
        image = rng.normal(0, 4, size=(side, side, 3)) + rng.uniform(60, 190)
        for cells in (2, 8, 32):
            coarse = Image.fromarray(rng.integers(0, 255, size=(cells, cells, 3), dtype=np.uint8))
            image += (np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)) - 127.0) * 2 / np.sqrt(cells)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path)
    return paths


def clean_fid(state: dict[str, torch.Tensor]) -> Callable[[list[Path]], np.ndarray]:
    """clean-fid's extraction in mode "clean", on its PyTorch network in the place of the TorchScript download."""
    from cleanfid import inception_pytorch
    from cleanfid.fid import get_files_features

    warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
    with patch.object(inception_pytorch, "load_state_dict_from_url", lambda *_, **__: state):
        network = inception_pytorch.InceptionV3(resize_input=False, normalize_input=False).eval()

    def model(x: torch.Tensor) -> torch.Tensor:
        return network((x - 128) / 128)[0].flatten(1)

    def features(paths: list[Path]) -> np.ndarray:
        files = [str(path) for path in paths]
        options = {"batch_size": CLEAN_FID_BATCH, "device": torch.device("cpu"), "mode": "clean", "verbose": False}
        return get_files_features(files, model, num_workers=0, **options)

    return features


def ours(extractor: InceptionFeatures) -> Callable[[list[Path]], np.ndarray]:
    return lambda paths: extract(extractor, [read_image(path) for path in paths])


def measure(paths: list[Path], rounds: int, seed: int) -> list[str]:
    """The lines of the table: milliseconds an image, ratio, relative difference of features, shift of FID."""
    state = random_state(seed)
    weights = Weights(state, "random", "0" * 64)
    methods = {
        "clean-fid": clean_fid(state),
        "ours, float32": ours(InceptionFeatures(weights, "clean")),
        "ours, bfloat16": ours(InceptionFeatures(weights, "clean", precision="bfloat16")),
    }
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    found: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        for name, method in methods.items():
            start = time.process_time()
            found[name] = method(paths)
            seconds[name].append(time.process_time() - start)
    theirs, half = found["clean-fid"].astype(np.float64), len(paths) // 2
    reference = Moments.of_features(theirs[half:])
    fid = frechet_distance(Moments.of_features(theirs[:half]), reference)
    lines = []
    for name, features in found.items():
        spent = median(seconds[name])
        error = np.linalg.norm(features - theirs) / np.linalg.norm(theirs)
        shift = frechet_distance(Moments.of_features(features[:half]), reference) / fid - 1
        ratio = median(seconds["clean-fid"]) / spent
        cells = (name, f"{1000 * spent / len(paths):.0f}", f"{ratio:.2f}", f"{error:.1e}", f"{shift:+.1e}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def report(lines: list[str], args: argparse.Namespace, command: str) -> str:
    """The Markdown page."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    return "\n".join(
        (
            "# Inception features",
            "",
            f"`{command}`; {hardware()}, one thread used; {versions}.",
            f"From {args.images} PNG files of {args.side} x {args.side} to features under the protocol `clean`, on",
            "random weights. Times are CPU milliseconds an image, medians; the ratio is of clean-fid to each. The",
            "difference is |x - y| / |y| over all features; the shift is the relative change of FID between one half",
            "of the files and clean-fid's features of the other half, at this small n.",
            "",
            "| | ms | ratio | difference | shift of FID |",
            "|---|---:|---:|---:|---:|",
            *lines,
            "",
        )
    )


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/inception.md"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_images(Path(folder), args.images, args.side, np.random.default_rng(args.seed))
        lines = measure(paths, args.rounds, args.seed)
    settings = " ".join(f"--{name} {getattr(args, name)}" for name in ("images", "side", "rounds", "seed"))
    page = report(lines, args, f"python -m benchmarks.inception {settings}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page)
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
