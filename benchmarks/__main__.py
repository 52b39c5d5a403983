"""Every benchmark in turn, as ``make bench`` runs them; each writes its own page under results/."""

import runpy

NAMES = (
    "frechet",
    "scenes_reader",
    "scenes_latent",
    "round_trip",
    "depth",
    "coverage",
    "ssim",
    "captions",
    "inception",
    "png",
    "faults",
    "sampling",
    "training",
)

for name in NAMES:
    runpy.run_module(f"benchmarks.{name}", run_name="__main__")
