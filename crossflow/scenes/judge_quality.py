"""The accuracy of the judges on real renders of the split ``test``, which neither was trained on."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from crossflow.scenes.judges import ClipJudge, FeatureJudge, to_input
from crossflow.scenes.render import render
from crossflow.scenes.spec import CELLS, COLORS, SHAPES
from crossflow.scenes.splits import SceneExample, example
from crossflow.scenes.truth import claims, facts, holds

COUNT = 2000
GROUP = 100
FULL = 1
"""Index of the caption that retrieval queries with: every object with its colour, and the light."""


@torch.no_grad()
def feature_quality(judge: FeatureJudge, split: str = "test", count: int = COUNT) -> dict[str, float]:
    """Shares of real renders' objects, cells and scenes that the linear layer on the features names rightly.

    ``attributes`` is the mean of the three above it; ``whole_scene`` asks that all cells' shapes and all objects'
    colours be right at once.
    """
    examples = [example(split, i) for i in range(count)]
    shapes, colors, night = judge.net.attributes(judge.net(to_input([render(item.scene) for item in examples])))
    named, painted = shapes.argmax(2).numpy(), colors.argmax(2).numpy()
    shape_right, color_right, whole = [], [], []
    for row, item in enumerate(examples):
        truth = np.zeros(CELLS * CELLS, dtype=np.int64)
        marks = []
        for each in item.scene.objects:
            cell = int(each.y * CELLS) * CELLS + int(each.x * CELLS)
            truth[cell] = 1 + SHAPES.index(each.shape)
            shape_right.append(named[row, cell] == truth[cell])
            marks.append(painted[row, cell] == list(COLORS).index(each.color))
        color_right += marks
        whole.append((named[row] == truth).all() and all(marks))
    dark = np.array([item.scene.night for item in examples])
    rates = {
        "shape_of_objects": float(np.mean(shape_right)),
        "color_of_objects": float(np.mean(color_right)),
        "night": float(((night.numpy() > 0) == dark).mean()),
    }
    rates["attributes"] = float(np.mean(list(rates.values())))
    return {name: round(rate, 4) for name, rate in rates.items()} | {"whole_scene": round(float(np.mean(whole)), 4)}


def clip_quality(judge: ClipJudge, split: str = "test", count: int = COUNT) -> dict[str, float]:
    """Retrieval at rank 1 among groups of 100 renders, and the mean cosine of true and of false pairs.

    The captions name every object with its colour, and the light; rows that begin with prompts ask with the prompts.
    ``text_to_image`` is right when the caption is true of the nearest image, which need not be the image it was
    written for; ``image_to_text`` when the nearest caption is true of the image; ``strict`` asks for the very pair.
    """
    examples = [example(split, i) for i in range(count)]
    images = judge([render(item.scene) for item in examples])
    right: dict[str, list[np.ndarray]] = {}
    for start in range(0, count, GROUP):
        group, vectors = examples[start : start + GROUP], images[start : start + GROUP]
        for name, which in (("", FULL), ("prompts_", 0)):
            cosine = vectors @ judge.embed_texts([item.captions[which] for item in group]).T
            true = _truth(group, which)
            best_image, best_text, own = cosine.argmax(0), cosine.argmax(1), np.arange(len(group))
            right.setdefault(f"{name}text_to_image", []).append(true[best_image, own])
            right.setdefault(f"{name}image_to_text", []).append(true[own, best_text])
            right.setdefault(f"{name}text_to_image_strict", []).append(best_image == own)
            true_mean, false_mean = cosine[true].mean(), cosine[~true].mean()
            right.setdefault(f"{name}cosine_true", []).append(np.array([true_mean]))
            right.setdefault(f"{name}cosine_false", []).append(np.array([false_mean]))
    return {name: round(float(np.concatenate(parts).mean()), 4) for name, parts in right.items()}


def _truth(examples: Sequence[SceneExample], which: int) -> np.ndarray:
    """Whether caption ``which`` of each example is true of each scene: bool [scenes captions]."""
    sides = [claims(item) for item in examples]
    needed, forbidden = (np.stack([side[k][which] for side in sides]) for k in (0, 1))
    return holds(np.stack([facts(item.scene) for item in examples]), needed, forbidden)


def write_report(features: FeatureJudge, clip: ClipJudge, path: Path) -> None:
    """Measure both judges on ``test`` and ``test_heldout``, and write the report as Markdown."""
    splits = ("test", "test_heldout")
    lines = [
        "# The judges on real renders",
        "",
        "Written by `python -m crossflow.scenes.train_judges report`. Both judges were trained on `train` alone,",
        "which lacks six pairs of shape and colour. Where these occur (every prompt of `test_heldout` names one) the",
        "features say little of the shape: there, trust the exact reader before FID and the CLIP score.",
        "",
    ]
    lines += _section(features, feature_quality.__doc__ or "", [feature_quality(features, split) for split in splits])
    lines += _section(clip, clip_quality.__doc__ or "", [clip_quality(clip, split) for split in splits])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))


def _section(judge: FeatureJudge | ClipJudge, measured: str, columns: list[dict[str, float]]) -> list[str]:
    config = {name: value for name, value in json.loads(judge.header["config"]).items() if name != "vocabulary"}
    return [
        f"## {judge.name}",
        "",
        f"`{judge.header['command']}`, {judge.header['cpu_seconds']} CPU-seconds on one thread;",
        f"{json.dumps(config)}, {sum(p.numel() for p in judge.net.parameters()):,} weights;",
        f"sha256 `{judge.weights_sha256[:16]}`.",
        "",
        " ".join(measured.split()),
        "",
        f"| n = {COUNT:,} renders | test | test_heldout |",
        "|---|---|---|",
        *(f"| {name} | {' | '.join(f'{column[name]:.4f}' for column in columns)} |" for name in columns[0]),
        "",
    ]
