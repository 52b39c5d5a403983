"""The search for text-to-image recipes of the scenes: ``python -m benchmarks.search TRIAL... --runs FOLDER``.

A trial is a recipe with one change. Each is trained into its own folder under ``--runs``, taken up where it was
stopped, and measured on the validation split alone. What is found there is put into results/scenes/search.json, beside
what was found before, and results/scenes/search.md is written of that. Without names nothing is trained.
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

from benchmarks.source_distance import FAULTS, FURTHER, KINDS, read_errors, source_distances
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
from crossflow.scenes.caption import PLACED, TASKS
from crossflow.scenes.splits import example
from crossflow.sources.variational import VariationalConfig
from crossflow.training.train import train
from crossflow_eval.environment import hardware

SCALES = (1.5, 2.0, 3.0)
VALIDATION_PROMPTS = 240


@dataclass(frozen=True)
class Trial:
    """``change`` says in words how ``recipe`` differs from that of the trial ``of``.

    A recipe that is None was one of an earlier version, which had what this one has not: only its figures are kept.
    """

    of: str
    change: str
    recipe: TrainConfig | None


def _start() -> TrainConfig:
    """Where the search starts."""
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


def _bare(recipe: TrainConfig) -> TrainConfig:
    """The recipe without what the trials from ``small`` to ``modulated`` add."""
    plain = replace(recipe.model.backbone, modulated=False)
    return replace(_changed(recipe, backbone=plain, tail=0.0), learning_rate=2e-3)


def _apart(recipe: TrainConfig, captions: tuple[int, ...]) -> TrainConfig:
    """The source alone for 2,000 steps, and 2,000 the flow alone, which reads ``captions``."""
    alone = Stage(steps=2_000, trains="source", losses=("contrastive_places", "kl"))
    then = Stage(steps=2_000, trains="flow", losses=("flow",), captions=captions)
    return replace(recipe, stages=(alone, then), steps=4_000)


def _binding() -> TrainConfig:
    """The best that was found with a contrast of whole latents."""
    recipe = CONFIGS["scenes-t2i"]
    found = _changed(
        _contrast(recipe, 0.1),
        reads=TokensConfig(),
        source=VariationalConfig(width=128, depth=1, heads=4, whitened=True),
    )
    return replace(found, steps=14_000)


def _by_places(recipe: TrainConfig) -> TrainConfig:
    losses = (KL(weight=1e-2), Contrast(weight=0.3, tower="places", hard_negatives=True))
    return replace(_changed(recipe, reads=TokensConfig(count=24), losses=losses), steps=3_000)


def _changed(recipe: TrainConfig, **changes: object) -> TrainConfig:
    return replace(recipe, model=replace(recipe.model, **changes))


START = _start()
FOUND = CONFIGS["scenes-t2i-short"]
SMALL = _bare(FOUND)
RATE = replace(SMALL, learning_rate=FOUND.learning_rate)
TAIL = _changed(RATE, tail=FOUND.model.tail)
BINDING = _binding()
_ALONE = "the source alone, by KL and a contrast of weight 1"
TRIALS: Mapping[str, Trial] = {
    "word-order": Trial(
        "start",
        f"{_ALONE}; its encoder of two blocks, with positions of words of sd 1, in place of whitened tokens",
        None,
    ),
    "whitened": Trial("start", _ALONE, None),
    "start": Trial(
        "",
        "targets predicted, unit positions, tokens whitened, scenes retold with half of the relations told by sides, "
        "one hard negative",
        START,
    ),
    "stages": Trial(
        "start",
        "the source alone for 1,000 steps, then all; contrast of weight 0.3",
        _staged(_contrast(START, 0.3), 1_000),
    ),
    "stages-last": Trial("stages", "its last weights in place of their average, which then ran through stages", None),
    "small": Trial(
        "",
        "targets predicted, a scene's own prompts alone, batches of 32, no hard negatives, learning rate 2e-3",
        SMALL,
    ),
    "rate": Trial("small", "learning rate 5e-3", RATE),
    "tail": Trial("rate", "the last 0.35 of the path weighed down", TAIL),
    "modulated": Trial("tail", "time modulates the blocks: the recipe scenes-t2i-short", FOUND),
    "described": Trial(
        "modulated",
        "half of the captions name all objects, with the light or with places",
        replace(FOUND, data=SceneData(count=16_384, captions=(0, 0, 1, 3))),
    ),
    "summaries": Trial(
        "modulated",
        "four tokens more, each a linear map of the whole latent",
        _changed(FOUND, backbone=replace(FOUND.model.backbone, summaries=4)),
    ),
    "modulated-whitened": Trial(
        "modulated",
        "tokens whitened",
        _changed(FOUND, source=VariationalConfig(width=128, depth=1, heads=4, whitened=True)),
    ),
    "short-places": Trial(
        "modulated",
        "contrast of weight 1 that compares source and image place by place",
        _changed(FOUND, losses=(KL(weight=1e-2), Contrast(weight=1.0, tower="places"))),
    ),
    "binding": Trial(
        "start",
        "half of the captions name all objects, no relation by sides; batches of 32, learning rate 4e-3, the tail of "
        "the path weighed down, time modulates the blocks",
        BINDING,
    ),
    "early": Trial(
        "binding",
        "3,000 steps; tokens after two of the six layers of MiniLM, 24 a caption in place of 16, which cut off places",
        None,
    ),
    "early-places": Trial("early", "the contrast compares source and image place by place", None),
    "early-both": Trial("early-places", "the contrast of whole latents beside it", None),
    "early-heavier": Trial("early-places", "contrast of weight 0.3", None),
    "early-heaviest": Trial("early-places", "contrast of weight 1, encoder of two blocks", None),
    "places": Trial("early-heavier", "tokens of the last layer again", _by_places(BINDING)),
    "layout": Trial(
        "places",
        "14,000 steps, contrast of weight 1, encoder of two blocks: the recipe scenes-t2i",
        CONFIGS["scenes-t2i"],
    ),
    "layout-short": Trial(
        "layout", "1,600 steps, learning rate 5e-3", replace(CONFIGS["scenes-t2i"], steps=1_600, learning_rate=5e-3)
    ),
    "layout-standard": Trial("layout", "the baseline: the recipe scenes-t2i-standard", CONFIGS["scenes-t2i-standard"]),
    "apart": Trial(
        "layout",
        "the source alone for 2,000 steps, then the flow alone for 2,000",
        _apart(CONFIGS["scenes-t2i"], ()),
    ),
    "apart-placed": Trial(
        "apart",
        "the flow reads the captions that name every object with its place alone",
        _apart(CONFIGS["scenes-t2i"], (PLACED,)),
    ),
    "standard": Trial(
        "modulated", "the baseline: the recipe scenes-t2i-short-standard", CONFIGS["scenes-t2i-short-standard"]
    ),
}


TRAINED: Mapping[str, TrainConfig] = {name: trial.recipe for name, trial in TRIALS.items() if trial.recipe is not None}
"""The trials that this version can train."""


def advance(name: str, runs: Path) -> None:
    """Train a trial to its end, from where it was stopped, and measure it."""
    folder, recipe = runs / name, TRAINED[name]
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
        "hardware": hardware(),
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


def found_in(folder: Path) -> dict[str, Any] | None:
    """What is known of a trial in its folder: its measurement, or how far it is trained; None before its first save."""
    if (measured := folder / "measured.json").exists():
        return json.loads(measured.read_text())
    if not (checkpoint := folder / "model.safetensors").exists():
        return None
    header = read_header(checkpoint)
    return {"digest": header["digest"], "steps": header["step"]}


def state(name: str, row: Mapping[str, Any] | None) -> str:
    """How far a trial is, and whether this version would make it again."""
    recipe = TRIALS[name].recipe
    if row is None:
        return "not started"
    said = "measured" if "distances" in row else "stopped, not measured"
    return said if recipe is not None and row["digest"] == recipe.digest(0) else f"{said}; by an earlier version"


def page(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The log of the search as Markdown: every trial with its state, then what was measured."""
    measured = {name: found[name] for name in TRIALS if "distances" in found.get(name, {})}
    machines = sorted({row["hardware"] for row in measured.values()})
    lines = [
        "# The search for text-to-image recipes",
        "",
        "Generated by `python -m benchmarks.search`; never edited by hand. One seed; scores and faults are of the",
        f"first {VALIDATION_PROMPTS} validation prompts, images sampled in float32. One thread of",
        f"{'; '.join(machines)}. What an earlier version trained had one learning rate and one moving average",
        "through all stages, and tokens whitened with another damping, or (`early`) tokens of another layer: this",
        "version does not make it again.",
        "",
        "| trial | change | from | state | steps | CPU minutes | parameters |",
        "|---|---|---|---|---:|---:|---:|",
    ]
    for name, trial in TRIALS.items():
        row = found.get(name)
        steps = f"{row['steps']:,}" if row else "0"
        if trial.recipe is not None and (row is None or "distances" not in row):
            steps += f" of {trial.recipe.steps:,}"
        minutes, size = "", ""
        if row and "distances" in row:
            minutes, size = f"{row['cpu_minutes']:.1f}", f"{row['parameters'] / 1e6:.2f} M"
        lines.append(f"| {name} | {trial.change} | {trial.of} | {state(name, row)} | {steps} | {minutes} | {size} |")
    lines += ["", "| trial | guidance | mean | " + " | ".join(TASKS) + " |", "|---|---:|---:|" + "---:|" * len(TASKS)]
    for name, row in measured.items():
        for scale, scores in row["scores"].items():
            cells = [f"{scores[task]:.3f}" for task in ("mean", *TASKS)]
            lines.append(f"| {name} | {scale} | {' | '.join(cells)} |")
    lines += [
        "",
        "Distances of sources in posterior standard deviations, the median of pairs of prompts that differ in:",
        "",
    ]
    lines += ["| trial | " + " | ".join(KINDS) + " |", "|---|" + "---:|" * len(KINDS)]
    for name, row in measured.items():
        cells = [f"{row['distances'][kind]:.1f}" if kind in row["distances"] else "" for kind in KINDS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    kinds = (*FAULTS, FURTHER)
    lines += [
        "",
        f"What is wrong, images of {VALIDATION_PROMPTS}. More objects than were asked for ({FURTHER}) are wrong for a",
        "number alone, and were counted in later trials alone:",
        "",
    ]
    lines += ["| trial | guidance | " + " | ".join(kinds) + " |", "|---|---:|" + "---:|" * len(kinds)]
    for name, row in measured.items():
        for scale, wrong in row["faults"].items():
            lines.append(f"| {name} | {scale} | {' | '.join(str(wrong.get(kind, '')) for kind in kinds)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Train and measure the trials that are named, then write the log with what ``--runs`` holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help=f"to train, in order: {', '.join(TRAINED)}")
    parser.add_argument("--runs", type=Path, default=Path("runs/search"))
    parser.add_argument("--out", type=Path, default=Path("results/scenes"))
    given = parser.parse_args()
    if unknown := [name for name in given.trials if name not in TRAINED]:
        parser.error(f"{unknown[0]} is no trial to train: choose from {', '.join(TRAINED)}.")
    torch.set_num_threads(1)
    for name in given.trials:
        advance(name, given.runs)
    log = given.out / "search.json"
    before = json.loads(log.read_text()) if log.exists() else {}
    here = {name: row for name in TRIALS if (row := found_in(given.runs / name)) is not None}
    found = {name: row for name in TRIALS if (row := here.get(name, before.get(name))) is not None}
    given.out.mkdir(parents=True, exist_ok=True)
    log.write_text(json.dumps(found, indent=1) + "\n")
    (given.out / "search.md").write_text(page(found))


if __name__ == "__main__":
    main()
