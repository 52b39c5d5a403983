"""Scenes asked for anew: in another task's form that is true of them, or in other words.

A training on a scene's own prompts sees the order of words matter in two tasks of six, and there it is hard to find:
neither the relation alone nor the order alone tells anything of the image, only both together. A scene of two shapes is
therefore asked for mostly in the forms that need binding. Its relation can be told by sides ("a photo of a ring on the
left and a box on the right"), where each object stands beside the word for its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from crossflow.scenes.caption import article, places, specification
from crossflow.scenes.negatives import OPPOSITE, untrue
from crossflow.scenes.spec import CELLS, Object
from crossflow.scenes.splits import SPLITS, VERSION, SceneExample, relations

FORMS = ("two_object", "position", "color_attr")
SHARES = (0.1, 0.5, 0.4)
"""How often a scene of two shapes is asked for in each form."""
SIDES = {"left of": "on the left", "right of": "on the right", "above": "at the top", "below": "at the bottom"}


def retold(item: SceneExample, count: int, sides: float = 0.0) -> tuple[str, tuple[str, ...]]:
    """A prompt that is true of the scene of ``item``, and ``count`` that are not; always the same for one item.

    Scenes of one shape keep their own prompt. ``sides`` is the share of relations that are told by sides.
    """
    split, _, index = item.id.rpartition("-")
    rng = np.random.default_rng([VERSION, SPLITS[split], int(index), 2])
    anew = _asked(item, rng) if item.task in FORMS else item
    others = untrue(anew, count)
    if anew.task == "position" and rng.random() < sides:
        return sided(anew.specification), tuple(sided(each) for each in others)
    return anew.prompt, tuple(each["prompt"] for each in others)


def _asked(item: SceneExample, rng: np.random.Generator) -> SceneExample:
    """The scene of two shapes with its objects in another order and the prompt of another task."""
    task = str(rng.choice(FORMS, p=SHARES))
    first, second = (item.scene.objects[place] for place in rng.permutation(2))
    relation = str(rng.choice(relations(_cell(second), _cell(first)))) if task == "position" else ""
    said = specification(task, [(each.shape, each.color) for each in (first, second)], relation)
    scene = replace(item.scene, objects=(first, second))
    return replace(item, scene=scene, task=task, specification=said, prompt=said["prompt"])


def _cell(item: Object) -> tuple[int, int]:
    return int(item.y * CELLS), int(item.x * CELLS)


def captions_of(item: SceneExample, prompt: str) -> tuple[str, ...]:
    """All captions of a scene that is asked for by ``prompt``, which stands in the place of its own.

    The last is that of shapes with their places.
    """
    return prompt, *item.captions[1:], places(item.scene)


def sided(position: Mapping[str, Any]) -> str:
    """The prompt of GenEval's metadata of the task ``position``, told by sides."""
    first, second = position["include"]
    relation = second["position"][0]
    return (
        f"a photo of {article(second['class'])} {SIDES[relation]} "
        f"and {article(first['class'])} {SIDES[OPPOSITE[relation]]}"
    )
