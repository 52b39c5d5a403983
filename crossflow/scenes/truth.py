"""Which captions are true of which scenes, for training and measuring the dual encoder.

A scene is a vector of facts; a caption is a pair of vectors, the facts that it needs and those that it forbids. A
prompt states only what its task judges ("a photo of a ring" holds for every image with a ring); the other four captions
describe the whole scene, so they forbid any further object.
"""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np

from crossflow.scenes.caption import RELATIONS
from crossflow.scenes.spec import CELLS, COLORS, SHAPES, Scene
from crossflow.scenes.splits import SceneExample

Fact = tuple[object, ...]
MOST = 5
"""Largest count that is distinguished."""
LOOKS = [(shape, color) for shape in SHAPES for color in ("", *COLORS)]
PLACES = [(row, column) for row in range(CELLS) for column in range(CELLS)]
FACTS: list[Fact] = [
    *(("count", shape, color, n) for (shape, color), n in product(LOOKS, range(1, MOST + 1))),
    *(("objects", n) for n in range(1, MOST + 1)),
    *(("relation", a, r, b) for a, r, b in product(SHAPES, RELATIONS, SHAPES)),
    *(("at", shape, color, cell) for (shape, color), cell in product(LOOKS, PLACES)),
    ("night",),
    ("day",),
]
"""Every fact that captions can state; a count means that many or more."""
NUMBER = {fact: i for i, fact in enumerate(FACTS)}


def facts(scene: Scene) -> np.ndarray:
    """The facts that are true of ``scene``: float32 [facts], 0 or 1."""
    true: list[Fact] = [("night",) if scene.night else ("day",)]
    true += [("objects", n) for n in range(1, len(scene.objects) + 1)]
    counts = Counter((item.shape, color) for item in scene.objects for color in ("", item.color))
    true += [("count", *look, n) for look, count in counts.items() for n in range(1, count + 1)]
    for a in scene.objects:
        true += [("at", a.shape, a.color, (int(a.y * CELLS), int(a.x * CELLS)))]
        for b in scene.objects:
            offset = np.array([a.x - b.x, a.y - b.y])
            right, down = offset / max(float(np.linalg.norm(offset)), 1e-9)
            held = {"left of": right < -0.5, "right of": right > 0.5, "above": down < -0.5, "below": down > 0.5}
            true += [("relation", a.shape, name, b.shape) for name, holds in held.items() if holds]
    return _vector(true)


def claims(item: SceneExample) -> tuple[np.ndarray, np.ndarray]:
    """The facts that each of ``item``'s five captions needs and forbids: two float32 [5 facts], 0 or 1."""
    needed, forbidden = _prompt_claims(item)
    whole: list[Fact] = [("objects", len(item.scene.objects))]
    whole += [("count", *look, n) for look, n in Counter((o.shape, o.color) for o in item.scene.objects).items()]
    light: Fact = ("night",) if item.scene.night else ("day",)
    placed = [("at", o.shape, o.color, (int(o.y * CELLS), int(o.x * CELLS))) for o in item.scene.objects]
    others: list[Fact] = [("objects", len(item.scene.objects) + 1)]
    needs = [needed, [*whole, light], whole, [*whole, *placed], [*whole, light]]
    return np.stack([_vector(n) for n in needs]), np.stack([_vector(f) for f in (forbidden, *[others] * 4)])


def _prompt_claims(item: SceneExample) -> tuple[list[Fact], list[Fact]]:
    include, exclude = item.specification["include"], item.specification.get("exclude", [])
    needed: list[Fact] = [("count", c["class"], c.get("color", ""), c["count"]) for c in include]
    for clause in include:
        if "position" in clause:
            relation, target = clause["position"]
            needed.append(("relation", clause["class"], relation, include[target]["class"]))
    return needed, [("count", c["class"], "", c["count"]) for c in exclude]


def _vector(true: list[Fact]) -> np.ndarray:
    vector = np.zeros(len(FACTS), dtype=np.float32)
    vector[[NUMBER[fact] for fact in true]] = 1.0
    return vector


def holds(scene_facts: np.ndarray, needed: np.ndarray, forbidden: np.ndarray) -> np.ndarray:
    """Whether each claim is true of each scene: bool [scenes claims], from [scenes facts] and twice [claims facts]."""
    met = scene_facts @ needed.T == needed.sum(axis=1)
    return met & (scene_facts @ forbidden.T == 0)
