"""Every benchmark in turn, as ``make bench`` runs them; each writes its own page under results/.

The last one lists them all.
"""

import runpy

NAMES = (
    "frechet",
    "scenes_reader",
    "scenes_senses",
    "scenes_latent",
    "round_trip",
    "depth",
    "coverage",
    "ssim",
    "captions",
    "inception",
    "distances",
    "fd_efficientnet",
    "png",
    "faults",
    "sampling",
    "training",
    "results_page",
)

for name in NAMES:
    runpy.run_module(f"benchmarks.{name}", run_name="__main__")
