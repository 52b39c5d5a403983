"""What a caption says of a scene of the embedded world, read by the world's own words."""

from __future__ import annotations

from collections import Counter

from crossflow_eval.metrics.scenes import SceneContent
from crossflow_eval.types import Example

GRAMMAR = (
    "an object is a shape's name with the colour that stands right before it; a number before them counts; "
    "night or dark, day or bright; other words say nothing"
)


def read_caption(caption: str) -> SceneContent:
    """What ``caption`` names, in capitals or not, by ``GRAMMAR``.

    A caption that speaks of both lights says neither.
    """
    from crossflow.scenes.readers.text import read

    said = read(caption)
    objects = Counter((thing.color or "", thing.shape or "") for thing in said.things)
    return SceneContent(objects=objects, night=said.night)


def look_at(example: Example) -> SceneContent:
    """What is true of the scene that an example's id names."""
    from crossflow.scenes import example as drawn

    split, _, index = example.id.rpartition("-")
    scene = drawn(split, int(index)).scene
    return SceneContent(objects=Counter((item.color, item.shape) for item in scene.objects), night=scene.night)
