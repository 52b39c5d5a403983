"""From images to sources and back: ``python -m benchmarks.round_trip`` writes results/scenes/round_trip.md.

Real renders are encoded, carried by the shipped model from t = 1 to their sources and from there back to t = 1, without
guidance, and decoded. What is lost is the solver's, but for the autoencoder's share, which stands in a row of its own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.scenes_reader import START
from crossflow import shipped
from crossflow.modalities.minilm import MiniLM
from crossflow.model.checkpoint import load_checkpoint
from crossflow.model.settings import Sampling
from crossflow.sampling.text_to_image import TextToImage
from crossflow.scenes import example, render
from crossflow_eval.environment import hardware
from crossflow_eval.metrics.restoration import psnr

EVALUATIONS = {"euler": 1, "midpoint": 2, "heun": 2}
"""A step's, of the solvers of fixed steps."""
STEPS = (8, 16, 32, 64)


def measure(images: list[np.ndarray]) -> list[str]:
    """The lines: solver, steps, evaluations each way, PSNR in the mean and at the least, error of the latents."""
    model = load_checkpoint(shipped("t2i")).double()
    pipeline = TextToImage(model, MiniLM())
    latents = pipeline.autoencoder.encode(torch.from_numpy(np.stack(images)))

    def qualities(found: Tensor) -> str:
        decoded = pipeline.autoencoder.decode(found).numpy()
        decibels = [psnr(image, original) for image, original in zip(decoded, images, strict=True)]
        return f"{np.mean(decibels):.2f} | {min(decibels):.2f}"

    lines = [f"| the autoencoder alone | | | {qualities(latents)} | | |"]
    settings = [Sampling(solver=solver, steps=steps) for solver in EVALUATIONS for steps in STEPS]
    for sampling in (*settings, Sampling(solver="dopri5")):
        source = pipeline.to_source(images, sampling)
        with torch.no_grad():
            again = model.sample(source, sampling.solver, sampling.steps, 1.0)
        errors = (again - latents).flatten(1).norm(dim=1) / latents.flatten(1).norm(dim=1)
        each = EVALUATIONS.get(sampling.solver)
        counts = "by its tolerance | " if each is None else f"{sampling.steps} | {each * sampling.steps}"
        lines.append(
            f"| {sampling.solver} | {counts} | {qualities(again)} | {errors.median():.1e} | {errors.max():.1e} |"
        )
    return lines


def report(lines: list[str], count: int) -> str:
    """The Markdown page."""
    return "\n".join(
        (
            "# From images to their sources and back",
            "",
            f"`python -m benchmarks.round_trip --n {count}`: {count} renders of `test` from index {START:,}, 32 px.",
            f"{hardware()}. The shipped model in float64, without guidance, from t = 1 to 0 and from 0 to 1 by one",
            "solver. PSNR in dB to the render; the error is that of an image's latent, as a share of its norm.",
            "",
            "| solver | steps | evaluations each way | PSNR, mean | least | latent error, median | largest |",
            "|---|---:|---:|---:|---:|---:|---:|",
            *lines,
            "",
        )
    )


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("results/scenes/round_trip.md"))
    args = parser.parse_args()
    page = report(measure([render(example("test", START + i).scene) for i in range(args.n)]), args.n)
    args.out.write_text(page, encoding="utf-8")
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
