"""The search for the recipe that binds: ``python -m benchmarks.search TRIAL... --runs FOLDER``.

A trial is a base recipe with one change. Each is trained into its own folder under ``--runs``, taken up where it was
stopped, and measured on the validation split alone; results/scenes/search.md and search.json are written anew from
every trial that has been measured there. Without names nothing is trained and the pages are written.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.source_distance import FAULTS, KINDS, read_errors, source_distances
from crossflow.files.tensors import read_header
from crossflow.flow.guidance import Indicator
from crossflow.losses import KL, Contrast
from crossflow.modalities.patch_pca import PatchPCAConfig
from crossflow.modalities.tokens import TokensConfig
from crossflow.model.crossflow import FlowConfig
from crossflow.model.settings import Sampling
from crossflow.networks.transformer import TransformerConfig
from crossflow.recipes import CONFIGS
from crossflow.recipes.recipe import SceneData, Stage, TrainConfig
from crossflow.sampling.text_to_image import TextToImage
from crossflow.scenes.caption import TASKS
from crossflow.scenes.splits import example
from crossflow.sources.variational import VariationalConfig
from crossflow.training.train import train
from crossflow_eval.environment import hardware

SCALES = (1.5, 2.0, 3.0)
VALIDATION_PROMPTS = 240


@dataclass(frozen=True)
class Trial:
    """``change`` says in words how ``recipe`` differs from that of the trial ``of``."""

    of: str
    change: str
    recipe: TrainConfig


def _start() -> TrainConfig:
    """Where the search starts: targets predicted, positions of the scale of the content, prompts that bind."""
    model = FlowConfig(
        shape=(48, 4, 4),
        reads=TokensConfig(),
        source=VariationalConfig(width=128, depth=1, heads=4, whitened=True),
        target=PatchPCAConfig(patch=8, components=48, sd=0.35),
        backbone=TransformerConfig(width=128, depth=4, heads=4, summaries=4, positions="unit"),
        losses=(KL(weight=1e-2), Contrast(weight=0.1, hard_negatives=True, positions="unit")),
        guidance=Indicator(null_rate=0.1),
        parameterisation="target",
        sampling=Sampling(solver="midpoint", steps=16, guidance_scale=2.0),
    )
    data = SceneData(count=60_000, negatives=1, retold=True, sides=0.5)
    return TrainConfig(model=model, data=data, steps=3_000, optimizer="muon", precision="bf16")


def _staged(recipe: TrainConfig, first: int) -> TrainConfig:
    """The source is trained alone in the ``first`` steps, by contrast and KL."""
    alone = Stage(steps=first, trains="source", losses=("contrastive", "kl"))
    return replace(recipe, stages=(alone, Stage(steps=recipe.steps - first)))


def _contrast(recipe: TrainConfig, weight: float) -> TrainConfig:
    losses = (KL(weight=1e-2), Contrast(weight=weight, hard_negatives=True, positions="unit"))
    return replace(recipe, model=replace(recipe.model, losses=losses))


START = _start()
_FINAL = (
    "captions of places, no relation by sides, damping 0.003, learning rate 3e-3, contrast of weight 0.3; "
    "the source alone, the flow alone, then both; the average restarts with each stage"
)
TRIALS: Mapping[str, Trial] = {
    "start": Trial(
        "",
        "targets predicted, unit positions, tokens whitened with damping 0.01, scenes retold, one hard negative",
        START,
    ),
    "stages": Trial(
        "start",
        "the source alone for 1,000 steps, then all; contrast of weight 0.3; the average does not restart: without it "
        "the mean is .208 in place of .133 (n = 120, guidance 2)",
        _staged(_contrast(START, 0.3), 1_000),
    ),
    "tiny10": Trial("stages", _FINAL, CONFIGS["scenes-tiny10"]),
    "tiny10-standard": Trial("tiny10", "the baseline of its size", CONFIGS["scenes-tiny10-standard"]),
    "final": Trial("tiny10", "more steps", CONFIGS["scenes-t2i-binding"]),
}


def advance(name: str, runs: Path) -> None:
    """Train a trial to its end, from where it was stopped, and measure it."""
    folder, recipe = runs / name, TRIALS[name].recipe
    shared = runs / "cache"
    shared.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    if not (folder / "cache").exists():
        (folder / "cache").symlink_to(Path("..") / "cache")
    checkpoint = train(recipe, folder, resume=True, progress=lambda line: print(line, file=sys.stderr, flush=True))
    measured = folder / "measured.json"
    if not measured.exists():
        measured.write_text(json.dumps(measure(checkpoint, folder), indent=1) + "\n")


def measure(checkpoint: Path, folder: Path) -> dict[str, Any]:
    """What is known of a trained trial: its size and cost, scores and faults at each guidance scale, distances."""
    pipeline = TextToImage.from_checkpoint(checkpoint, precision="float32")
    items = [example("val", index) for index in range(VALIDATION_PROMPTS)]
    header = read_header(checkpoint)
    times = [json.loads(line) for line in (folder / "timing.jsonl").read_text().splitlines()]
    found: dict[str, Any] = {
        "digest": header["digest"],
        "steps": header["step"],
        "parameters": sum(part.numel() for part in pipeline.model.parameters()),
        "cpu_minutes": round(sum(each["cpu_seconds"] for each in times) / 60, 1),
        "distances": {kind: round(far, 1) for kind, far in source_distances(pipeline).items()},
        "scores": {},
        "faults": {},
    }
    for scale in SCALES:
        scores, wrong = read_errors(pipeline, items, scale)
        found["scores"][f"{scale:g}"] = {task: round(score, 3) for task, score in scores.items()}
        found["faults"][f"{scale:g}"] = wrong
    return found


def page(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The log of the search as Markdown: three tables with a row a trial."""
    lines = [
        "# The search for the recipe that binds",
        "",
        "Generated by `python -m benchmarks.search`; never edited by hand. One seed; every figure is of the first",
        f"{VALIDATION_PROMPTS} validation prompts, images sampled in float32. {hardware()}, one thread.",
        "",
        "| trial | change | from | steps | CPU minutes | parameters |",
        "|---|---|---|---:|---:|---:|",
    ]
    for name, row in found.items():
        trial, size = TRIALS[name], f"{row['parameters'] / 1e6:.2f} M"
        lines.append(f"| {name} | {trial.change} | {trial.of} | {row['steps']:,} | {row['cpu_minutes']:.1f} | {size} |")
    lines += ["", "| trial | guidance | mean | " + " | ".join(TASKS) + " |", "|---|---:|---:|" + "---:|" * len(TASKS)]
    for name, row in found.items():
        for scale, scores in row["scores"].items():
            cells = [f"{scores[task]:.3f}" for task in ("mean", *TASKS)]
            lines.append(f"| {name} | {scale} | {' | '.join(cells)} |")
    lines += [
        "",
        "Distances of sources in posterior standard deviations, the median of pairs of prompts that differ in:",
        "",
    ]
    lines += ["| trial | " + " | ".join(KINDS) + " |", "|---|" + "---:|" * len(KINDS)]
    for name, row in found.items():
        cells = [f"{row['distances'][kind]:.1f}" if row["distances"] else "" for kind in KINDS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"What is wrong, images of {VALIDATION_PROMPTS}:", ""]
    lines += ["| trial | guidance | " + " | ".join(FAULTS) + " |", "|---|---:|" + "---:|" * len(FAULTS)]
    for name, row in found.items():
        for scale, wrong in row["faults"].items():
            lines.append(f"| {name} | {scale} | {' | '.join(str(wrong[kind]) for kind in FAULTS)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Train and measure the trials that are named, then write the pages of all that are measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trials", nargs="*", choices=[*TRIALS, []], help="trials to train, in order")
    parser.add_argument("--runs", type=Path, default=Path("runs/search"))
    parser.add_argument("--out", type=Path, default=Path("results/scenes"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.trials:
        advance(name, given.runs)
    kept = {name: given.runs / name / "measured.json" for name in TRIALS}
    found = {name: json.loads(path.read_text()) for name, path in kept.items() if path.exists()}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "search.md").write_text(page(found))
    (given.out / "search.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
