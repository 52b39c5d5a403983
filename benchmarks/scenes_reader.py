"""Measure the exact reader on real renders: ``python -m benchmarks.scenes_reader`` writes results/scenes/reader.md.

Each of ``n`` scenes is drawn, degraded, read, and judged twice: against its prompt by GenEval's rules, and against the
scene itself (every object's shape, colour and box). The scenes were never used to choose a constant of the reader.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from crossflow.scenes import Found, Scene, SceneExample, example, read, render
from crossflow.scenes.caption import TASKS
from crossflow.scenes.render import object_masks
from crossflow_eval.environment import hardware
from crossflow_eval.metrics.geneval import Detection, judge

START = 100_000
"""First index of the split ``test`` that is measured; the reader's constants were chosen on the first thousand."""
CELLS_OF_TABLE = tuple((size, name) for size in (32, 64) for name in ("clean", "noise sd 4", "JPEG 90"))


def noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise of sd 4 of 255 to every channel, rounded and clipped."""
    return np.clip(np.rint(image + rng.normal(0.0, 4.0, image.shape)), 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Through JPEG of quality 90 and back, with Pillow's default halving of the colour resolution (4:2:0)."""
    del rng
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90)
    return np.asarray(Image.open(file).convert("RGB"))


DEGRADE: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "clean": lambda image, rng: image,
    "noise sd 4": noise,
    "JPEG 90": jpeg,
}


def detections(found: Sequence[Found]) -> list[Detection]:
    """The reader's objects as certain detections."""
    return [Detection(item.shape, 1.0, item.box, item.color, item.mask) for item in found]


def agreement(found: Sequence[Found], scene: Scene, size: int) -> tuple[bool, list[float]]:
    """Whether ``found`` are exactly the objects of ``scene``, and each object's IoU with the box of its own name."""
    overlaps = []
    for item, mask in zip(scene.objects, object_masks(scene, size), strict=True):
        rows, columns = np.nonzero(mask)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        twins = [other.box for other in found if (other.shape, other.color) == (item.shape, item.color)]
        overlaps.append(max((_overlap(box, other) for other in twins), default=0.0))
    read_names, true_names = (sorted((item.shape, item.color) for item in items) for items in (found, scene.objects))
    return read_names == true_names and min(overlaps) > 0.0, overlaps


def _overlap(a: Sequence[int], b: Sequence[int]) -> float:
    """IoU of two boxes whose right and bottom are exclusive."""
    width, height = (max(0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def measure(examples: Sequence[SceneExample], size: int, name: str, seed: int) -> dict[str, float]:
    """Percent right for each task and for the scenes themselves, the mean box IoU, and CPU ms an image."""
    right: defaultdict[str, list[float]] = defaultdict(list)
    boxes: list[float] = []
    seconds = 0.0
    for i, item in enumerate(examples):
        image = DEGRADE[name](render(item.scene, size), np.random.default_rng([seed, i]))
        start = time.process_time()
        found = read(image)
        seconds += time.process_time() - start
        right[item.task].append(judge(detections(found), item.specification).correct)
        other = examples[(i + len(TASKS)) % len(examples)]
        right["chance"].append(judge(detections(found), other.specification).correct)
        exact, overlaps = agreement(found, item.scene, size)
        right["scene"].append(exact)
        boxes += overlaps
    table = {key: 100.0 * float(np.mean(values)) for key, values in right.items()}
    table["mean"] = float(np.mean([table[task] for task in TASKS]))
    return table | {"box": float(np.mean(boxes)), "ms": 1000.0 * seconds / len(examples)}


ROWS = {task: task for task in TASKS} | {
    "mean": "**mean of six**",
    "scene": "every shape and colour of the scene",
    "box": "mean IoU of boxes (0 to 1)",
    "chance": "judged by another prompt of the same task",
    "ms": "CPU ms an image",
}


def report(columns: dict[tuple[int, str], dict[str, float]], n: int, seed: int) -> str:
    """The Markdown page."""
    heads = [f"{size} px {name}" for size, name in columns]
    lines = [
        "# The exact reader on real renders",
        "",
        f"`python -m benchmarks.scenes_reader --n {n} --seed {seed}`: {n} scenes of `test` from index {START:,}.",
        f"{hardware()}. Percent of images right by GenEval's rules, unless a row says otherwise; JPEG is 4:2:0.",
        "",
        f"| | {' | '.join(heads)} |",
        f"|---|{'---|' * len(heads)}",
    ]
    for key, label in ROWS.items():
        digits = 3 if key == "box" else 1
        lines.append(f"| {label} | {' | '.join(f'{column[key]:.{digits}f}' for column in columns.values())} |")
    means = {key: column["mean"] for key, column in columns.items()}
    drops = [f"{means[32, 'clean'] - means[32, name]:.1f} under {name}" for name in ("noise sd 4", "JPEG 90")]
    lines += ["", f"The mean of six drops, in points at 32 px, by {' and by '.join(drops)}.", ""]
    return "\n".join(lines)


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/scenes/reader.md"))
    args = parser.parse_args()
    examples = [example("test", START + i) for i in range(args.n)]
    columns = {(size, name): measure(examples, size, name, args.seed) for size, name in CELLS_OF_TABLE}
    page = report(columns, args.n, args.seed)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page)
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
