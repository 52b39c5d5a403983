"""Measure what the latent loses: ``python -m benchmarks.scenes_latent`` writes results/scenes/latent.md.

Real renders go through the autoencoder of the shipped checkpoint and back; their PSNR is taken, and the exact reader
answers each scene's prompt on the render and on its reconstruction.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from benchmarks.scenes_reader import START, detections
from crossflow import shipped
from crossflow.modalities.patch_pca import PatchPCA
from crossflow.model.checkpoint import load_checkpoint
from crossflow.scenes import example, read, render
from crossflow.scenes.caption import TASKS
from crossflow_eval.environment import hardware
from crossflow_eval.metrics.geneval import judge


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("results/scenes/latent.md"))
    args = parser.parse_args()
    autoencoder = load_checkpoint(shipped("t2i")).autoencoder
    if not isinstance(autoencoder, PatchPCA):
        sys.exit(f"{shipped('t2i')} has no principal components.")
    examples = [example("test", START + i) for i in range(args.n)]
    images = np.stack([render(item.scene) for item in examples])
    again = autoencoder.decode(autoencoder.encode(torch.from_numpy(images))).numpy()
    error = np.square(images.astype(np.float64) - again).mean(axis=(1, 2, 3))
    psnr = 10.0 * np.log10(255.0**2 / np.maximum(error, 1e-12))
    right: defaultdict[tuple[str, str], list[bool]] = defaultdict(list)
    for item, *pair in zip(examples, images, again, strict=True):
        for name, image in zip(("render", "reconstruction"), pair, strict=True):
            right[item.task, name].append(judge(detections(read(image)), item.specification).correct)
    rows = {
        task: [100.0 * float(np.mean(right[task, name])) for name in ("render", "reconstruction")] for task in TASKS
    }
    rows["**mean of six**"] = [float(np.mean(column)) for column in zip(*rows.values(), strict=True)]
    share = rows["**mean of six**"][1] / rows["**mean of six**"][0]
    lines = [
        "# What the latent keeps of a render",
        "",
        f"`python -m benchmarks.scenes_latent --n {args.n}`: {args.n} scenes of `test` from index {START:,}, 32 px.",
        f"{hardware()}. Patches of {autoencoder.config.patch} px, {autoencoder.config.components} principal components "
        f"of {3 * autoencoder.config.patch**2}. Percent of images right by GenEval's rules.",
        "",
        "| | render | reconstruction |",
        "|---|---:|---:|",
        *(f"| {name} | {before:.1f} | {after:.1f} |" for name, (before, after) in rows.items()),
        "",
        f"PSNR {psnr.mean():.1f} dB in the mean, {psnr.min():.1f} dB at the least. "
        f"The reader keeps {100.0 * share:.1f} % of its accuracy.",
        "",
    ]
    args.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
