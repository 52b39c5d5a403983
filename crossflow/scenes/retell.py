"""Scenes asked anew: the same scene with the prompt of another task that is true of it.

A training on a scene's own prompts sees the order of words matter in two tasks of six. A scene of two shapes can be
asked for in three of the forms, so training may ask in those that bind more often.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from crossflow.scenes.caption import specification
from crossflow.scenes.spec import CELLS, Object
from crossflow.scenes.splits import SPLITS, VERSION, SceneExample, relations

FORMS = ("two_object", "position", "color_attr")
SHARES = (0.1, 0.5, 0.4)
"""How often a scene of two shapes is asked for in each form."""


def retold(item: SceneExample) -> SceneExample:
    """``item`` asked anew, always in the same way; scenes of one shape keep their prompt.

    Captions after the first, which is the prompt, are those that they were.
    """
    if item.task not in FORMS:
        return item
    split, _, index = item.id.rpartition("-")
    rng = np.random.default_rng([VERSION, SPLITS[split], int(index), 2])
    task = str(rng.choice(FORMS, p=SHARES))
    order = rng.permutation(2)
    first, second = (item.scene.objects[place] for place in order)
    objects = replace(item.scene, objects=(first, second))
    relation = str(rng.choice(relations(_cell(second), _cell(first)))) if task == "position" else ""
    said = specification(task, [(each.shape, each.color) for each in objects.objects], relation)
    return replace(
        item,
        scene=objects,
        task=task,
        specification=said,
        prompt=said["prompt"],
        captions=(said["prompt"], *item.captions[1:]),
    )


def _cell(item: Object) -> tuple[int, int]:
    return int(item.y * CELLS), int(item.x * CELLS)
