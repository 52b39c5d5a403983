"""How often 95 % intervals of means of tasks hold the truth: ``python -m benchmarks.coverage``.

Writes results/benchmarks/coverage.md. Each case draws its tasks' scores again and again and counts; beside ours stands
the percentile bootstrap within each task. Shares are of verdicts an example: its images are right independently, or,
where they are "alike", with a rate of their own, drawn from Beta(p, 1 - p).
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy

from crossflow_eval.environment import hardware
from crossflow_eval.stats import FEW, UNIT, stratified_mean

RESAMPLES = 1000
GENEVAL = (80, 99, 80, 94, 100, 100)
SD15, SDXL = (0.97, 0.38, 0.35, 0.76, 0.06, 0.04), (0.98, 0.74, 0.39, 0.85, 0.23, 0.15)
"""Examples of GenEval's tasks, and the rates that its authors measured."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Tasks of these sizes: normal scores around 0, or shares of ``verdicts`` at these ``rates``."""

    name: str
    sizes: Sequence[int]
    rates: Sequence[float] = ()
    spreads: Sequence[float] = ()
    verdicts: int = 1
    alike: bool = False

    @property
    def truth(self) -> float:
        return float(np.mean(self.rates)) if self.rates else 0.0

    def draw(self, rng: np.random.Generator) -> list[np.ndarray]:
        if not self.rates:
            return [rng.normal(0, spread, n) for n, spread in zip(self.sizes, self.spreads, strict=True)]
        return [self._shares(rng, n, p) for n, p in zip(self.sizes, self.rates, strict=True)]

    def _shares(self, rng: np.random.Generator, n: int, p: float) -> np.ndarray:
        return rng.binomial(self.verdicts, rng.beta(p, 1 - p, n) if self.alike else p, n) / self.verdicts


CASES = (
    Case(name="normal, 20 and 180", sizes=(20, 180), spreads=(1, 1)),
    Case(name="normal, 20 of spread 3 and 180", sizes=(20, 180), spreads=(3, 1)),
    Case(name="normal, 6 x 15", sizes=(15,) * 6, spreads=(1,) * 6),
    Case(name="normal, 5 and 80", sizes=(5, 80), spreads=(1, 1)),
    Case(name="normal, 2 and 80", sizes=(2, 80), spreads=(1, 1)),
    Case(name="GenEval, SD 1.5's rates", sizes=GENEVAL, rates=SD15, verdicts=4),
    Case(name="GenEval, SD 1.5's rates, images alike", sizes=GENEVAL, rates=SD15, verdicts=4, alike=True),
    Case(name="GenEval, SDXL's rates", sizes=GENEVAL, rates=SDXL, verdicts=4),
    Case(name="GenEval, SDXL's rates, images alike", sizes=GENEVAL, rates=SDXL, verdicts=4, alike=True),
    Case(name="GenEval, SD 1.5's rates, one image", sizes=GENEVAL, rates=SD15),
    Case(name="GenEval's first 85, SD 1.5's rates", sizes=(80, 5), rates=SD15[:2], verdicts=4),
    Case(name="GenEval's first 85, images alike", sizes=(80, 5), rates=SD15[:2], verdicts=4, alike=True),
    Case(name="6 x 10, SDXL's rates, images alike", sizes=(10,) * 6, rates=SDXL, verdicts=4, alike=True),
    Case(name="20 and 180 verdicts at 0.5", sizes=(20, 180), rates=(0.5, 0.5)),
    Case(name="20 verdicts at 0.95", sizes=(20,), rates=(0.95,)),
    Case(name="20 verdicts at 0.95 and 180 at 0.5", sizes=(20, 180), rates=(0.95, 0.5)),
    Case(name="6 x 5 verdicts at 0.5", sizes=(5,) * 6, rates=(0.5,) * 6),
    Case(name="6 x 20 verdicts at 0.95", sizes=(20,) * 6, rates=(0.95,) * 6),
    Case(name="6 x 20 verdicts at 0.99", sizes=(20,) * 6, rates=(0.99,) * 6),
    Case(name="6 x 2 verdicts, SDXL's rates", sizes=(2,) * 6, rates=SDXL),
)


def coverage(case: Case, *, draws: int, seed: int) -> tuple[float, float]:
    """The share of our intervals that hold the truth, and their mean width."""
    rng, bounds = np.random.default_rng(seed), UNIT if case.rates else None
    held, width = 0, 0.0
    for _ in range(draws):
        value = stratified_mean({str(k): scores for k, scores in enumerate(case.draw(rng))}, bounds=bounds)
        if value.ci_low is not None and value.ci_high is not None:
            held += value.ci_low - 1e-12 <= case.truth <= value.ci_high + 1e-12
            width += value.ci_high - value.ci_low
    return held / draws, width / draws


def bootstrap_coverage(case: Case, *, draws: int, seed: int) -> float:
    """The same share of the percentile bootstrap within tasks."""
    rng, resampling = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    held = 0
    for _ in range(draws):
        tasks = case.draw(rng)
        picks = [scores[resampling.integers(len(scores), size=(RESAMPLES, len(scores)))] for scores in tasks]
        low, high = np.percentile(np.mean([each.mean(axis=1) for each in picks], axis=0), (2.5, 97.5))
        held += bool(low - 1e-12 <= case.truth <= high + 1e-12)
    return held / draws


def main() -> None:
    """Simulate and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--bootstrap-draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/coverage.md"))
    args = parser.parse_args()
    lines = []
    for case in CASES:
        ours, width = coverage(case, draws=args.draws, seed=args.seed)
        other = bootstrap_coverage(case, draws=args.bootstrap_draws, seed=args.seed)
        sizes = ", ".join(map(str, case.sizes))
        lines.append(f"| {case.name} | {sizes} | {ours:.3f} | {width:.3f} | {other:.3f} |")
    command = (
        f"python -m benchmarks.coverage --draws {args.draws} --bootstrap-draws {args.bootstrap_draws} "
        f"--seed {args.seed}"
    )
    page = "\n".join(
        (
            "# Coverage of the intervals of stratified means",
            "",
            f"`{command}`; {hardware()}, one thread used; Python {platform.python_version()}, "
            f"numpy {np.__version__}, scipy {scipy.__version__}.",
            f"The share of 95 % intervals that hold the true mean of task means: ours of {args.draws} draws (standard",
            f"error {(0.95 * 0.05 / args.draws) ** 0.5:.3f}), the percentile bootstrap's within each task of "
            f"{args.bootstrap_draws} ({(0.95 * 0.05 / args.bootstrap_draws) ** 0.5:.3f}; {RESAMPLES} resamples).",
            "Shares have 4 verdicts an example where GenEval is named or images are alike, else one. A task of one",
            "example has no interval, and a warning in its place; a comparison of normal scores whose task has fewer",
            f"than {FEW} examples says in its method that it covers less.",
            "",
            "| case | examples of each task | ours | mean width | bootstrap |",
            "|---|---|---:|---:|---:|",
            *lines,
            "",
        )
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page)
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
