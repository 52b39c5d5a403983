"""Captions of scenes: a prompt of one of GenEval's six tasks, and four full descriptions.

A prompt mentions only what its task judges; the descriptions name every object with its colour, and some the light or
the positions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crossflow.scenes.spec import CELLS, Object, Scene

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
NUMBERS = {2: "two", 3: "three", 4: "four"}
RELATIONS = ("left of", "right of", "above", "below")
PLACED = 3
"""The index among a scene's ``captions`` of the one that names every object with its colour and its place."""
PLURALS = {"box": "boxes", "cross": "crosses"}


def article(noun: str) -> str:
    """``noun`` with its indefinite article."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def plural(shape: str) -> str:
    """The plural of a shape's name."""
    return PLURALS.get(shape, f"{shape}s")


def specification(task: str, looks: list[tuple[str, str]], relation: str = "") -> dict[str, Any]:
    """GenEval's metadata for a task over objects with the (shape, color) ``looks``.

    ``relation`` is that of the second object to the first, for the task ``position`` only.
    """
    (shape, color), count = looks[0], len(looks)
    if task == "single_object":
        include, prompt = [{"class": shape, "count": 1}], f"a photo of {article(shape)}"
    elif task == "two_object":
        include = [{"class": name, "count": 1} for name, _ in looks]
        prompt = f"a photo of {article(shape)} and {article(looks[1][0])}"
    elif task == "counting":
        include, prompt = [{"class": shape, "count": count}], f"a photo of {NUMBERS[count]} {plural(shape)}"
    elif task == "colors":
        include = [{"class": shape, "count": 1, "color": color}]
        prompt = f"a photo of {article(f'{color} {shape}')}"
    elif task == "position":
        other = looks[1][0]
        include = [{"class": shape, "count": 1}, {"class": other, "count": 1, "position": [relation, 0]}]
        prompt = f"a photo of {article(other)} {relation} {article(shape)}"
    elif task == "color_attr":
        include = [{"class": name, "count": 1, "color": hue} for name, hue in looks]
        named = [article(f"{hue} {name}") for name, hue in looks]
        prompt = f"a photo of {named[0]} and {named[1]}"
    else:
        raise ValueError(f"unknown task {task!r}; the tasks are {', '.join(TASKS)}")
    spec: dict[str, Any] = {"tag": task, "include": include, "prompt": prompt}
    if task == "counting":
        spec["exclude"] = [{"class": shape, "count": count + 1}]
    return spec


def captions(scene: Scene, prompt: str, rng: np.random.Generator) -> tuple[str, ...]:
    """Five true captions of ``scene``: the prompt, then four that name every object in a random order."""
    order = [scene.objects[i] for i in rng.permutation(len(scene.objects))]
    named = _join([article(f"{item.color} {item.shape}") for item in order])
    placed = _join([f"{article(f'{item.color} {item.shape}')} {place(item)}" for item in order])
    return (
        prompt,
        f"{named} {_light(scene)}",
        f"a picture of {named}",
        placed,
        f"there {'is' if len(order) == 1 else 'are'} {named} in this {'dark' if scene.night else 'bright'} scene",
    )


def describe(scene: Scene) -> str:
    """The caption that names every object and the light, with the objects in reading order: row by row, left to right.

    The image determines it, unlike the four descriptions, whose order is random.
    """
    order = sorted(scene.objects, key=lambda item: (int(item.y * CELLS), int(item.x * CELLS)))
    return f"{_join([article(f'{item.color} {item.shape}') for item in order])} {_light(scene)}"


def places(scene: Scene) -> str:
    """The caption that names every shape and its place, in reading order, and neither colour nor light.

    Objects of one shape share its plural: "balls at the top and in the middle". There are few such captions, so they
    cost little to embed.
    """
    order = sorted(scene.objects, key=lambda item: (int(item.y * CELLS), int(item.x * CELLS)))
    shapes = {item.shape for item in order}
    if len(order) > 1 and len(shapes) == 1:
        return f"{plural(order[0].shape)} {_join([place(item) for item in order])}"
    return _join([f"{article(item.shape)} {place(item)}" for item in order])


def _light(scene: Scene) -> str:
    return "at night" if scene.night else "by day"


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def place(item: Object) -> str:
    """Where a caption says that an object is: cells of the border by their sides, the others "in the middle"."""
    row, column = int(item.y * CELLS), int(item.x * CELLS)
    parts = {0: "top", CELLS - 1: "bottom"}.get(row, ""), {0: "left", CELLS - 1: "right"}.get(column, "")
    return f"at the {' '.join(filter(None, parts))}" if any(parts) else "in the middle"
