"""What a text says of a scene, read by the world's own words.

An object is a shape's name with the colour that stands right before it; a number before them counts. What follows it,
up to the next object, says where it is: "at the top left", "in the middle", or, between two, "left of". Night or dark,
day or bright; other words say nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from crossflow.scenes.caption import NUMBERS, plural
from crossflow.scenes.facts import Facts, Thing
from crossflow.scenes.spec import CELLS, COLORS, SHAPES

LIGHT = {"night": True, "dark": True, "day": False, "bright": False}
NAMES = {name: shape for shape in SHAPES for name in (shape, plural(shape))}
COUNTS = {word: number for number, word in NUMBERS.items()}
RELATION = re.compile(r"(left of|right of|above|below)\b")
PLACE = re.compile(r"\b(?:(top|bottom)|(left|right)(?! of)|middle)\b")
SIDES = {"top": 0, "left": 0, "bottom": CELLS - 1, "right": CELLS - 1}
MIDDLE = (CELLS - 1) / 2


def read(text: str) -> Facts:
    """What ``text`` names, in capitals or not. One that speaks of both lights says neither."""
    words = re.findall(r"\w+", text.lower())
    nouns = [i for i, word in enumerate(words) if word in NAMES]
    things: list[Thing] = []
    relations: list[tuple[str, str, str]] = []
    for noun, following in pairwise([*nouns, len(words)]):
        shape, rest = NAMES[words[noun]], " ".join(words[noun + 1 : following])
        color, count = _before(words[:noun])
        column, row = _place(rest)
        things += [Thing(shape=shape, color=color, column=column, row=row)] * count
        said = RELATION.match(rest)
        if said and following < len(words):
            relations.append((shape, said[1], NAMES[words[following]]))
    lights = {LIGHT[word] for word in words if word in LIGHT}
    return Facts(
        things=tuple(things),
        night=lights.pop() if len(lights) == 1 else None,
        relation=relations[0] if len(relations) == 1 else None,
    )


def _before(words: Sequence[str]) -> tuple[str | None, int]:
    """The colour and the number that the last of ``words`` give the noun after them."""
    *_, second, first = "", "", *words
    return (first, COUNTS.get(second, 1)) if first in COLORS else (None, COUNTS.get(first, 1))


def _place(words: str) -> tuple[int | float | None, int | float | None]:
    """The column and the row that ``words`` tell, or None of both."""
    said = [match.groups() for match in PLACE.finditer(words)]
    if not said:
        return None, None
    row, column = (next((SIDES[side] for side in sides if side), MIDDLE) for sides in zip(*said, strict=True))
    return column, row
