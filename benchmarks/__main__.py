"""Every benchmark in turn, as ``make bench`` runs them; each writes its own page under results/."""

import runpy

for name in ("frechet", "scenes_reader", "scenes_latent", "depth", "ssim", "captions", "inception"):
    runpy.run_module(f"benchmarks.{name}", run_name="__main__")
