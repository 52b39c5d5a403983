"""What the runs of ``crossflow_eval.suites.scenes.tasks`` stand between.

``trivial`` knows the training set and never looks at the source: the most frequent caption, the median depth of each
pixel; for super-resolution it is bicubic interpolation. ``ceiling`` is the best that can be had: a true caption in the
training's words, the original itself; for depth all that an image tells, which is neither the camera's height nor how
far an object stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from crossflow_eval.suites.scenes.sizes import FACTOR, FARTHEST, HIGH, SIDE, Task
from crossflow_eval.types import Lookup, Output, Role

CAPTIONED, MEASURED = 20_000, 4_000
"""Training scenes of which the most frequent caption and the median depth are taken."""
HEIGHT, DISTANCE = (1.2, 2.0), (3.0, 12.0)
"""Metres between which the world draws a camera's height and an object's depth, both uniformly; no image shows them."""


@dataclass
class Reference:
    """A reference in a model's place: ``make`` gives its output for the scene of an example."""

    name: str
    identity: Mapping[str, Any]
    make: Callable[[Any], Output]

    def read(self, example_id: str, index: int) -> Output:
        """Return the output for an example, whichever its ``index``."""
        from crossflow.scenes import example

        split, _, number = example_id.rpartition("-")
        return self.make(example(split, int(number)).scene)


def references(task: Task, split: str) -> dict[Role, Lookup]:
    """What the runs of a suite of ``task`` stand between, on the scenes of ``split``."""
    from crossflow.scenes import VERSION as WORLD

    of: dict[Task, dict[Role, tuple[str, Callable[[Any], Output]]]] = {
        "caption": {
            "trivial": (f"most frequent caption of the first {CAPTIONED} training scenes", lambda _: usual_caption()),
            "ceiling": ("a true caption in the training's words", true_caption),
        },
        "depth": {
            "trivial": (f"median of each pixel over the first {MEASURED} training scenes", lambda _: usual_depth()),
            "ceiling": ("pitch and masks known, heights and distances at their medians", visible_depth),
        },
        "sr": {
            "trivial": ("bicubic interpolation of Pillow", bicubic),
            "ceiling": ("the original", original),
        },
    }
    return {
        role: Reference(role, {"world": WORLD, "split": split, "outputs": what}, make)
        for role, (what, make) in of[task].items()
    }


@cache
def usual_caption() -> str:
    """The most frequent of all five captions of the first ``CAPTIONED`` training scenes, of equals the first in order.

    Counted once a process, in a few seconds.
    """
    from crossflow.scenes import example

    counts = Counter(text for index in range(CAPTIONED) for text in example("train", index).captions)
    return min(counts, key=lambda text: (-counts[text], text))


@cache
def usual_depth() -> np.ndarray:
    """The median depth of each pixel over the first ``MEASURED`` training scenes: float32 [h w], FARTHEST in the sky.

    Computed once a process, in a few seconds.
    """
    from crossflow.scenes import example
    from crossflow.scenes.depth import depth_map

    maps = np.stack([depth_map(example("train", index).scene, SIDE) for index in range(MEASURED)])
    return np.minimum(np.median(maps, axis=0), FARTHEST).astype(np.float32)


def true_caption(scene: Any) -> str:
    """What the training's words say of a scene."""
    from crossflow.scenes.caption import describe

    return describe(scene)


def visible_depth(scene: Any) -> np.ndarray:
    """The depth of a scene as far as an image tells it, float32 [h w] in metres, FARTHEST where that is less.

    The camera's pitch and what each object covers are the scene's own; the camera has its median height, and an object
    the median of its depth given where its foot is.
    """
    from dataclasses import replace

    from crossflow.scenes.depth import depth_map

    unit = replace(scene.camera, height=1.0)
    objects = tuple(
        replace(item, depth=median_distance(float(unit.ground_depth(np.array(item.y + item.radius)))))
        for item in scene.objects
    )
    guessed = replace(scene, camera=replace(unit, height=sum(HEIGHT) / 2), objects=objects)
    return np.minimum(depth_map(guessed, SIDE), np.float32(FARTHEST))


def median_distance(ground: float) -> float:
    """The median depth in metres of an object where the ground at its foot is ``ground`` camera heights away.

    The world draws min(D, H ground), D uniform over ``DISTANCE`` and H over ``HEIGHT``; the two are independent, so
    both exceed t with the product of their probabilities. ``ground`` is inf at and above the horizon.
    """
    depth = np.linspace(0.0, DISTANCE[1], 12_001)
    exceeded = _share_above(depth, DISTANCE) * _share_above(depth / ground, HEIGHT)
    return float(np.interp(-0.5, -exceeded, depth))


def _share_above(value: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """The probability that a uniform number between ``bounds`` exceeds ``value``."""
    low, high = bounds
    return ((high - value) / (high - low)).clip(0.0, 1.0)


def bicubic(scene: Any) -> np.ndarray:
    """The low image of a scene, enlarged by Pillow's bicubic interpolation: uint8 [HIGH HIGH 3]."""
    from crossflow.scenes.depth import low_res

    low, _ = low_res(scene, HIGH, FACTOR)
    return np.asarray(Image.fromarray(low).resize((HIGH, HIGH), Image.Resampling.BICUBIC))


def original(scene: Any) -> np.ndarray:
    """The high image of a scene: uint8 [HIGH HIGH 3]."""
    from crossflow.scenes import render

    return render(scene, HIGH)
