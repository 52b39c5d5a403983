"""How far apart the sources of prompts lie, and what goes wrong: ``python -m benchmarks.source_distance CHECKPOINT``.

For pairs of prompts of the embedded world that differ in one thing: the distance between the means of their sources,
in posterior standard deviations. What lies less than a few apart, the flow cannot tell apart. Beside it, what is wrong
with the images of validation prompts, by kind.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crossflow.flow.gaussian import Gaussian
from crossflow.model.crossflow import CrossFlow
from crossflow.model.settings import Override
from crossflow.sampling.text_to_image import TextToImage, prompt_seed
from crossflow.scenes.caption import RELATIONS, TASKS, article, specification
from crossflow.scenes.negatives import OPPOSITE
from crossflow.scenes.parse import Found, read
from crossflow.scenes.spec import COLORS, HELD_OUT, SHAPES
from crossflow.scenes.splits import SceneExample, example
from crossflow_eval.metrics.geneval import Detection, judge

PAIRS = 64
"""Pairs of each kind, at most."""
KINDS: tuple[str, ...] = (
    "word",
    "colours swapped",
    "left / right",
    "above / below",
    "roles exchanged",
    "number",
    "place",
)
FAULTS: tuple[str, ...] = (
    "missing object",
    "wrong colour",
    "colours swapped",
    "wrong side",
    "another side",
    "wrong number",
)
FURTHER = "further objects"
"""Images with more objects than were asked for, right or wrong: only a count is judged by what should not be there."""


def pairs(kind: str) -> list[tuple[str, str]]:
    """Pairs of prompts that differ in one thing, at most PAIRS; none names a held-out pair of shape and colour."""
    found = [(one["prompt"], other["prompt"]) for one, other in _specifications(kind)]
    chosen = np.random.default_rng(0).permutation(len(found))[:PAIRS]
    return [found[place] for place in sorted(chosen)]


def _specifications(kind: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    twos = [(one, other) for one in SHAPES for other in SHAPES if one != other]
    if kind == "word":
        return [
            (specification("single_object", [(one, "")]), specification("single_object", [(other, "")]))
            for one, other in twos
        ]
    if kind == "number":
        return [
            (specification("counting", [(shape, "")] * few), specification("counting", [(shape, "")] * (few + 1)))
            for shape in SHAPES
            for few in (2, 3)
        ]
    if kind == "colours swapped":
        return [
            (
                specification("color_attr", [(one, hue), (other, second)]),
                specification("color_attr", [(one, second), (other, hue)]),
            )
            for one, other in twos
            for hue in COLORS
            for second in COLORS
            if hue != second and not {(one, hue), (other, second), (one, second), (other, hue)} & set(HELD_OUT)
        ]
    if kind == "place":
        named = [article(f"{hue} {shape}") for shape in SHAPES for hue in COLORS if (shape, hue) not in HELD_OUT]
        sides = ("at the left", "at the right")
        return [({"prompt": f"{each} {sides[0]}"}, {"prompt": f"{each} {sides[1]}"}) for each in named]
    looks = [[(one, ""), (other, "")] for one, other in twos]
    if kind == "roles exchanged":
        return [
            (specification("position", each, name), specification("position", each[::-1], name))
            for each in looks
            for name in RELATIONS
        ]
    first = kind.partition(" / ")[0]
    relation = next(name for name in RELATIONS if name.startswith(first))
    return [
        (specification("position", each, relation), specification("position", each, OPPOSITE[relation]))
        for each in looks
    ]


def distances(one: Gaussian, other: Gaussian) -> Float[Tensor, " b"]:
    """The distance of the means of each pair, every dimension in units of the two variances' mean."""
    variance = (one.log_var.exp() + other.log_var.exp()) / 2
    return ((one.mean - other.mean).square() / variance).flatten(1).sum(1).sqrt()


def source_distances(pipeline: TextToImage) -> dict[str, float]:
    """The median distance of each kind of pair; empty for the baseline, which has no source."""
    if not isinstance(pipeline.model, CrossFlow):
        return {}
    found = {}
    for kind in KINDS:
        one, other = (_posterior(pipeline, list(side)) for side in zip(*pairs(kind), strict=True))
        found[kind] = float(distances(one, other).median())
    return found


@torch.no_grad()
def _posterior(pipeline: TextToImage, prompts: Sequence[str]) -> Gaussian:
    encoder = pipeline.model.get_submodule("encoder")
    tokens, mask = pipeline.embedder.embed(prompts, pipeline.model.config.reads.shape[0])
    own = next(encoder.parameters())
    return encoder(tokens.to(own), mask.to(own.device))


def faults(found: Sequence[Found], asked: Mapping[str, Any]) -> list[str]:
    """What is wrong with an image of which ``found`` was read, by the kinds of FAULTS; none if it is right.

    ``asked`` is GenEval's metadata. A side is judged only where both objects are there.
    """
    detections = [Detection(item.shape, 1.0, item.box, item.color, item.mask) for item in found]
    if judge(detections, asked).correct:
        return []
    include = asked["include"]
    shapes = Counter(item.shape for item in found)
    if asked["tag"] == "counting":
        return ["wrong number"]
    if any(shapes[clause["class"]] < clause["count"] for clause in include):
        return ["missing object"]
    looks = {(item.shape, item.color) for item in found}
    if any("color" in clause and (clause["class"], clause["color"]) not in looks for clause in include):
        hues = [clause.get("color", "") for clause in include]
        other = [(clause["class"], hue) for clause, hue in zip(include, hues[::-1], strict=True)]
        return ["colours swapped" if len(include) == 2 and set(other) <= looks else "wrong colour"]
    flipped = [_opposite(clause) for clause in include]
    return ["wrong side" if judge(detections, {**asked, "include": flipped}).correct else "another side"]


def _opposite(clause: Mapping[str, Any]) -> dict[str, Any]:
    if "position" not in clause:
        return dict(clause)
    relation, target = clause["position"]
    return {**clause, "position": [OPPOSITE[relation], target]}


def read_errors(
    pipeline: TextToImage, items: Sequence[SceneExample], scale: float | None, seed: int = 0
) -> tuple[dict[str, float], dict[str, int]]:
    """The share of right images by task and their mean, and the faults by kind, on ``items`` at a guidance scale.

    Among the faults are the images with FURTHER objects.
    """
    seeds = [prompt_seed(seed, item.prompt, copy) for copy, item in enumerate(items)]
    images = pipeline.generate([item.prompt for item in items], seeds, Override(guidance_scale=scale))
    wrong: Counter[str] = Counter()
    right: dict[str, list[bool]] = {}
    for item, image in zip(items, images, strict=True):
        found = read(image)
        here = faults(found, item.specification)
        wrong[FURTHER] += len(found) > sum(clause["count"] for clause in item.specification["include"])
        right.setdefault(item.task, []).append(not here)
        wrong.update(here)
    scores = {task: float(np.mean(right[task])) for task in TASKS if task in right}
    return scores | {"mean": float(np.mean(list(scores.values())))}, {kind: wrong[kind] for kind in (*FAULTS, FURTHER)}


def report(
    name: str, apart: Mapping[str, float], scores: Mapping[str, float], wrong: Mapping[str, int], count: int, scale: str
) -> str:
    """The page, as Markdown."""
    lines = [f"# {name}", "", "| pairs that differ in | median distance of sources, posterior sd |", "|---|---:|"]
    lines += [f"| {kind} | {far:.1f} |" for kind, far in apart.items()] or ["| (noise: no source) | |"]
    lines += ["", f"Validation prompts, n = {count}, guidance scale {scale}:", "", "| task | right |", "|---|---:|"]
    lines += [f"| {task} | {score:.3f} |" for task, score in scores.items()]
    lines += ["", "| what is wrong | images |", "|---|---:|", *(f"| {kind} | {n} |" for kind, n in wrong.items()), ""]
    return "\n".join(lines)


def main() -> None:
    """Measure a checkpoint and print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--n", type=int, default=240)
    parser.add_argument("--guidance-scale", type=float, default=None)
    given = parser.parse_args()
    pipeline = TextToImage.from_checkpoint(given.checkpoint)
    items = [example("val", index) for index in range(given.n)]
    scale = pipeline.defaults.guidance_scale if given.guidance_scale is None else given.guidance_scale
    scores, wrong = read_errors(pipeline, items, scale)
    sys.stdout.write(report(str(given.checkpoint), source_distances(pipeline), scores, wrong, given.n, f"{scale:g}"))


if __name__ == "__main__":
    main()
