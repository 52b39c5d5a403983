"""Prompts that a scene is not: each differs from its own in one thing, so that nothing but that thing tells them apart.

Two colours are exchanged, or the two sides of a relation, or a shape, a colour, a number or a place is another. No
prompt names a held-out pair of shape and colour.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from crossflow.scenes.caption import NUMBERS, PLACED, captions, place, specification
from crossflow.scenes.spec import CELLS, COLORS, HELD_OUT, SHAPES, Object
from crossflow.scenes.splits import SPLITS, VERSION, SceneExample

MOST = 2
"""Of every prompt there are this many, whatever its task."""
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
MOVED = 0.7
"""How often an untrue caption with places has another place, and not another look: nothing else tells places apart."""
Looks = list[tuple[str, str]]


def negatives(item: SceneExample, count: int) -> tuple[str, ...]:
    """``count`` prompts, at most MOST, that are not true of the scene of ``item``; always the same for one item."""
    return tuple(each["prompt"] for each in untrue(item, count))


def untrue(item: SceneExample, count: int) -> tuple[dict[str, Any], ...]:
    """The same with what each says, as GenEval's metadata."""
    if not 0 <= count <= MOST:
        raise ValueError(f"count is {count}; there are from 0 to {MOST} negatives of a prompt")
    split, _, index = item.id.rpartition("-")
    rng = np.random.default_rng([VERSION, SPLITS[split], int(index), 1])
    looks = [(each.shape, each.color) for each in item.scene.objects]
    found: dict[str, dict[str, Any]] = {}
    for changed, relation in _changes(item, looks, rng):
        said = specification(item.task, changed, relation)
        named = set(changed) & set(HELD_OUT) if item.task in ("colors", "color_attr") else set()
        if said["prompt"] != item.prompt and not named:
            found.setdefault(said["prompt"], said)
    return tuple(found.values())[:count]


def untrue_captions(item: SceneExample) -> tuple[str, ...]:
    """For each caption of ``item`` one in its form that is not true of it; always the same for one item.

    They are of a scene where two objects of other shapes exchanged their colours, or one has another colour or shape.
    The caption with places mostly has those of a scene where two objects exchanged theirs, or one has another.
    """
    split, _, index = item.id.rpartition("-")
    rng = np.random.default_rng([VERSION, SPLITS[split], int(index), 5])
    looks = [(each.shape, each.color) for each in item.scene.objects]
    found = [each for each in _neighbours(looks) if not set(each) & set(HELD_OUT)]
    exchanged = [each for each in found if sum(a != b for a, b in zip(each, looks, strict=True)) == 2]
    chosen = exchanged if exchanged and rng.random() < 0.5 else found
    changed = chosen[rng.integers(len(chosen))]
    objects = tuple(
        replace(each, shape=shape, color=color)
        for each, (shape, color) in zip(item.scene.objects, changed, strict=True)
    )
    found = list(captions(replace(item.scene, objects=objects), negatives(item, 1)[0], rng))
    if rng.random() < MOVED:
        found[PLACED] = captions(replace(item.scene, objects=_moved(item.scene.objects, rng)), item.prompt, rng)[PLACED]
    return tuple(found)


def _moved(objects: tuple[Object, ...], rng: np.random.Generator) -> tuple[Object, ...]:
    """The objects where two exchanged their places, or one is where none is said to be."""
    found, said = list(objects), [place(each) for each in objects]
    looks = [(each.shape, each.color) for each in objects]
    pairs = [(i, j) for i in range(len(objects)) for j in range(i) if said[i] != said[j] and looks[i] != looks[j]]
    if pairs and rng.random() < 0.5:
        i, j = pairs[rng.integers(len(pairs))]
        (x, y), (u, v) = ((objects[k].x, objects[k].y) for k in (i, j))
        found[i], found[j] = replace(objects[i], x=u, y=v), replace(objects[j], x=x, y=y)
        return tuple(found)
    i = rng.integers(len(objects))
    middles = [(cell + 0.5) / CELLS for cell in range(CELLS)]
    free = [each for x in middles for y in middles if place(each := replace(objects[i], x=x, y=y)) not in said]
    found[i] = free[rng.integers(len(free))]
    return tuple(found)


def _neighbours(looks: Looks) -> list[Looks]:
    """All looks that differ in one thing: an object's shape, its colour, or the colours of two, exchanged."""
    found: list[Looks] = []
    used = {hue for _, hue in looks}
    for i, (shape, hue) in enumerate(looks):
        others = [(each, hue) for each in SHAPES if each != shape]
        others += [(shape, each) for each in COLORS if each not in used]
        found += [[*looks[:i], other, *looks[i + 1 :]] for other in others]
        for j, (second, tone) in enumerate(looks[:i]):
            if second != shape:
                found.append([*looks[:j], (second, hue), *looks[j + 1 : i], (shape, tone), *looks[i + 1 :]])
    return found


def _changes(item: SceneExample, looks: Looks, rng: np.random.Generator) -> list[tuple[Looks, str]]:
    """The looks and the relation that a prompt could name instead, the nearest first."""
    absent = [shape for shape in rng.permutation(SHAPES).tolist() if shape not in {name for name, _ in looks}]
    hues = rng.permutation(list(COLORS)).tolist()
    if item.task == "single_object":
        return [([(shape, "")], "") for shape in absent]
    if item.task == "two_object":
        kept = [looks[0], looks[1]]
        return [([kept[0], (shape, "")] if i % 2 else [(shape, ""), kept[1]], "") for i, shape in enumerate(absent)]
    if item.task == "counting":
        return [([looks[0]] * number, "") for number in rng.permutation(list(NUMBERS)).tolist()]
    if item.task == "colors":
        return [([(looks[0][0], hue)], "") for hue in hues if hue != looks[0][1]]
    (one, hue), (other, second) = looks
    if item.task == "position":
        relation = item.specification["include"][1]["position"][0]
        return [(looks, OPPOSITE[relation]), ([looks[1], looks[0]], relation)]
    exchanged = [(one, second), (other, hue)]
    free = [each for each in hues if each not in (hue, second)]
    return [(exchanged, ""), *(([(one, each), (other, second)], "") for each in free)]
