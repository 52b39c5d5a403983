"""What a caption says of a scene of the embedded world, read by the world's own words."""

from __future__ import annotations

import re
from collections import Counter

from crossflow_eval.metrics.scenes import SceneContent
from crossflow_eval.types import Example

GRAMMAR = (
    "an object is a shape's name with the colour that stands right before it; a number before them counts; "
    "night or dark, day or bright; other words say nothing"
)
LIGHT = {"night": True, "dark": True, "day": False, "bright": False}


def read_caption(caption: str) -> SceneContent:
    """What ``caption`` names, in capitals or not, by ``GRAMMAR``.

    A caption that speaks of both lights says neither.
    """
    from crossflow.scenes.caption import NUMBERS, plural
    from crossflow.scenes.spec import COLORS, SHAPES

    shapes = {name: shape for shape in SHAPES for name in (shape, plural(shape))}
    counts = {word: number for number, word in NUMBERS.items()}
    words = re.findall(r"\w+", caption.lower())
    objects: Counter[tuple[str, str]] = Counter()
    for second, first, word in zip(["", "", *words], ["", *words], words, strict=False):
        if word in shapes:
            color = first if first in COLORS else ""
            objects[color, shapes[word]] += counts.get(second if color else first, 1)
    lights = {LIGHT[word] for word in words if word in LIGHT}
    return SceneContent(objects=objects, night=lights.pop() if len(lights) == 1 else None)


def look_at(example: Example) -> SceneContent:
    """What is true of the scene that an example's id names."""
    from crossflow.scenes import example as drawn

    split, _, index = example.id.rpartition("-")
    scene = drawn(split, int(index)).scene
    return SceneContent(objects=Counter((item.color, item.shape) for item in scene.objects), night=scene.night)
