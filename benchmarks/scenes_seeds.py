"""The recipe of the shipped text-to-image model and its baseline over seeds: ``python -m benchmarks.scenes_seeds``.

Each argument is the folder of a training of ``scenes-t2i``, and each ``--baseline`` that of one of its baseline,
``scenes-t2i-standard``, with the same seeds in the same order. Every checkpoint is rounded to half precision and
sampled as the validation split chose for seed 0 (results/scenes/t2i.md); nothing is chosen here. Both test suites are
run once a checkpoint, runs are gone on with where they were stopped, and results/scenes/t2i_seeds.md gets means over
seeds with Student t intervals.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.scenes_release import measure, rounded
from crossflow.files.tensors import read_header
from crossflow.model.settings import Override
from crossflow_eval.environment import hardware
from crossflow_eval.models.crossflow import is_finished
from crossflow_eval.stats import student_mean
from crossflow_eval.types import Result, Value

SAMPLED: Mapping[str, Override] = {
    "scenes-t2i": Override(solver="euler_ancestral", steps=32, guidance_scale=2.0),
    "scenes-t2i-standard": Override(solver="midpoint", steps=16, guidance_scale=2.0),
}
"""What the validation split chose for the first seed of each."""
SHOWN: Mapping[tuple[str, str], str] = {
    ("scenes-t2i", "geneval"): "GenEval, mean of six tasks",
    ("scenes-t2i", "geneval/single_object"): "single object",
    ("scenes-t2i", "geneval/two_object"): "two objects",
    ("scenes-t2i", "geneval/counting"): "counting",
    ("scenes-t2i", "geneval/colors"): "colors",
    ("scenes-t2i", "geneval/position"): "position",
    ("scenes-t2i", "geneval/color_attr"): "color attribution",
    ("scenes-t2i", "fid"): "FID@1000, lower is better",
    ("scenes-t2i-heldout", "geneval/colors"): "held-out colors",
    ("scenes-t2i-heldout", "geneval/color_attr"): "held-out color attribution",
}
"""Suite and value -> how a row is called."""
RESULTS = Path("results/scenes/t2i_seeds.md")


def values(run: Path, override: Override) -> dict[tuple[str, str], Value]:
    """What one training has on both test suites."""
    found: dict[str, Result] = {}
    for suite in dict.fromkeys(suite for suite, _ in SHOWN):
        found[suite], _ = measure(suite, rounded(run), override)
    return {key: found[key[0]].values[key[1]] for key in SHOWN}


def seeds_of(runs: Sequence[Path], recipe: str) -> list[int]:
    """The seeds of finished trainings; CrossFlowError for one of another recipe, SystemExit for an unfinished one."""
    seeds = [int(read_header(rounded(run))["seed"]) for run in runs]
    for run, seed in zip(runs, seeds, strict=True):
        if not is_finished(rounded(run), recipe, seed):
            raise SystemExit(f"{run} is not trained to the end: go on with it by --resume.")
    if len(set(seeds)) < len(seeds):
        raise SystemExit(f"The seeds of {recipe} are {seeds}: give each once.")
    return seeds


def page(found: Mapping[str, Sequence[Mapping[tuple[str, str], Value]]], seeds: Sequence[int], command: str) -> str:
    """The whole of results/scenes/t2i_seeds.md."""
    ours, theirs = found.values()
    lines = [
        "# The recipe of the shipped text-to-image model, and its baseline, over seeds",
        "",
        f"`{command}`,",
        f"{hardware()}. Training seeds {', '.join(map(str, seeds))}; n = 1,000 prompts a suite, sampled with seed 0 in",
        "half precision, as the validation split chose for training seed 0 ([t2i.md](t2i.md)). Brackets are Student t",
        "over training seeds; a difference is between two trainings of one seed.",
        "",
        f"| | {' | '.join(found)} | difference | {' | '.join(f'{name}, each seed' for name in found)} |",
        "|---|---:|---:|---:|---|---|",
    ]
    for key, label in SHOWN.items():
        digits = 0 if key[1] == "fid" else 3
        sides = [[each[key].mean for each in side] for side in (ours, theirs)]
        difference = [one - other for one, other in zip(*sides, strict=True)]
        cells = [_mean(each, digits) for each in (*sides, difference)]
        cells += [", ".join(f"{value:.{digits}f}" for value in side) for side in sides]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _mean(seeds: Sequence[float], digits: int) -> str:
    mean = student_mean(seeds, n=len(seeds))
    interval = "" if mean.ci_low is None else f" [{mean.ci_low:.{digits}f}, {mean.ci_high:.{digits}f}]"
    return f"{mean.mean:.{digits}f}{interval}"


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of trainings of scenes-t2i")
    parser.add_argument("--baseline", type=Path, nargs="+", required=True, help="folders of the baseline's")
    given = parser.parse_args()
    sides = dict(zip(SAMPLED, (given.runs, given.baseline), strict=True))
    seeds, others = (seeds_of(runs, recipe) for recipe, runs in sides.items())
    if seeds != others:
        parser.error(f"the seeds are {seeds} and {others}: give the same of both, in one order.")
    found = {recipe: [values(run, SAMPLED[recipe]) for run in runs] for recipe, runs in sides.items()}
    names = [" ".join(f"runs/{run.name}" for run in runs) for runs in sides.values()]
    RESULTS.write_text(
        page(found, seeds, f"python -m benchmarks.scenes_seeds {names[0]} --baseline {names[1]}"), "utf-8"
    )
    sys.stdout.write(f"{RESULTS}\n")


if __name__ == "__main__":
    main()
