"""What is true of an event, and which of it each modality tells.

``Facts`` are what an exact reader finds in a caption, an image, a depth map, a sound or a film, so that any two of them
can be compared. ``TOLD`` is the table of ownership: a factor that a modality does not tell is None in its facts. A text
that says of no side where an object is ("in the middle") leaves two columns or rows, and says 1.5.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import permutations

from crossflow.scenes.caption import TASKS
from crossflow.scenes.events import Event
from crossflow.scenes.negatives import OPPOSITE
from crossflow.scenes.spec import CELLS, Object
from crossflow.scenes.splits import relations

FACTORS = ("count", "shape", "color", "column", "row", "depth", "night", "bounce", "relation")
OF_THINGS = ("shape", "color", "column", "row", "depth")
"""The factors that every object has its own of."""

_LOOKS = frozenset({"count", "shape", "color"})
_PLACES = frozenset({"column", "row", "relation"})
TOLD: Mapping[str, frozenset[str]] = {
    "text": _LOOKS | _PLACES | {"night"},
    "text-0": frozenset({"count", "shape"}),
    "text-1": _LOOKS | {"night"},
    "text-2": _LOOKS,
    "text-3": _LOOKS | {"column", "row"},
    "text-4": _LOOKS | {"night"},
    "image": _LOOKS | _PLACES | {"night"},
    "depth": _PLACES | {"count", "shape", "depth"},
    "audio": _LOOKS | {"column", "depth", "night", "bounce"},
    "video": _LOOKS | _PLACES | {"night", "bounce"},
}
"""What each modality tells; a text by the form of its caption, and ``text`` is whatever any text could tell."""
MODALITIES = tuple(name for name in TOLD if not name.startswith("text-"))
ASKED: Mapping[str, frozenset[str]] = {
    **{task: frozenset() for task in TASKS},
    "colors": frozenset({"color"}),
    "color_attr": frozenset({"color"}),
    "position": frozenset({"relation"}),
}
"""What the caption ``text-0``, a prompt, tells besides, by its task."""
TOLERANCE = {"column": 0.5, "row": 0.5, "depth": math.log(1.25)}
"""How far a read value may be off: half a cell (so 1.5 is as good as 1 and 2), and a ratio of depths of 1.25."""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """An object as far as it is known: cells counted from the left and the top, depth in metres."""

    shape: str | None = None
    color: str | None = None
    column: int | float | None = None
    row: int | float | None = None
    depth: float | None = None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of an event. The things are in order by column, then row, whatever order they were given in.

    ``relation`` is (shape, relation, shape): the first object's place seen from the second.
    """

    things: tuple[Thing, ...] = ()
    night: bool | None = None
    bounce: int | None = None
    relation: tuple[str, str, str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "things", tuple(sorted(self.things, key=_order)))


def _order(thing: Thing) -> tuple[int | float, int | float, str, str, int | float]:
    column, row, depth = (math.inf if value is None else value for value in (thing.column, thing.row, thing.depth))
    return column, row, thing.shape or "", thing.color or "", depth


def truth(event: Event) -> Facts:
    """Everything that is true of ``event``; a relation where its prompt names one."""
    include = event.example.specification["include"]
    relation = None
    if event.example.task == "position":
        relation = (include[1]["class"], include[1]["position"][0], include[0]["class"])
    things = tuple(_thing(item) for item in event.scene.objects)
    return Facts(things=things, night=event.scene.night, bounce=event.bounce, relation=relation)


def _thing(item: Object) -> Thing:
    column, row = int(item.x * CELLS), int(item.y * CELLS)
    return Thing(shape=item.shape, color=item.color, column=column, row=row, depth=item.depth)


def told(name: str, task: str = "") -> frozenset[str]:
    """The factors that ``name``, a key of ``TOLD``, tells of an event whose prompt is of ``task``."""
    return TOLD[name] | ASKED[task] if name == "text-0" and task else TOLD[name]


def untold(wanted: Iterable[str], given: Iterable[str], task: str = "") -> frozenset[str]:
    """The factors that all of ``wanted`` tell and none of ``given``, names as of ``told``: there coherence shows."""
    shared = frozenset(FACTORS).intersection(*(told(name, task) for name in wanted))
    return shared.difference(*(told(name, task) for name in given))


def only(facts: Facts, factors: Collection[str]) -> Facts:
    """``facts`` without all factors but ``factors``."""
    hidden: dict[str, None] = {name: None for name in OF_THINGS if name not in factors}
    things = tuple(replace(thing, **hidden) for thing in facts.things) if "count" in factors else ()
    rest = {name: getattr(facts, name) for name in ("night", "bounce", "relation") if name in factors}
    return Facts(things=things, **rest)


def tells(event: Event, name: str) -> Facts:
    """What ``name``, a key of ``TOLD``, tells of ``event``; in a text, columns and rows between the sides are 1.5."""
    facts = only(truth(event), told(name, event.example.task))
    if not name.startswith("text"):
        return facts
    return replace(facts, things=tuple(_roughly(thing) for thing in facts.things))


def _roughly(thing: Thing) -> Thing:
    return replace(thing, column=_side(thing.column), row=_side(thing.row))


def _side(cell: int | float | None) -> int | float | None:
    return cell if cell in (None, 0, CELLS - 1) else (CELLS - 1) / 2


def right(read: Facts, true: Facts, factor: str) -> bool | None:
    """Whether ``read`` has ``factor`` as ``true`` has it; None if ``true`` says nothing of it.

    Of things it is asked whether they are as many, and whether each has the value of its own counterpart. Counterparts
    are those by which the fewest values differ; values of ``TOLERANCE`` may be that far off. ValueError for an unknown
    factor.
    """
    if factor not in FACTORS:
        raise ValueError(f"unknown factor {factor!r}; the factors are {', '.join(FACTORS)}")
    if factor == "count":
        return len(read.things) == len(true.things) if true.things else None
    if factor == "relation":
        return None if true.relation is None else _related(read, true.relation)
    if factor not in OF_THINGS:
        value = getattr(true, factor)
        return None if value is None else getattr(read, factor) == value
    if all(getattr(thing, factor) is None for thing in true.things):
        return None
    if len(read.things) != len(true.things):
        return False
    pairs = min((tuple(zip(order, true.things, strict=True)) for order in permutations(read.things)), key=_different)
    return all(_agree(one, other, factor) for one, other in pairs)


def _different(pairs: tuple[tuple[Thing, Thing], ...]) -> int:
    return sum(not _agree(one, other, field.name) for one, other in pairs for field in fields(Thing))


def _agree(read: Thing, true: Thing, factor: str) -> bool:
    value, expected = getattr(read, factor), getattr(true, factor)
    if expected is None or value is None:
        return expected is None
    if factor == "depth":
        return abs(math.log(value / expected)) <= TOLERANCE[factor]
    return abs(value - expected) <= TOLERANCE[factor] if factor in TOLERANCE else value == expected


def _related(read: Facts, relation: tuple[str, str, str]) -> bool:
    """Whether the relation is said, from either side, or seen in the only things of these two shapes."""
    first, name, second = relation
    if read.relation is not None:
        return read.relation in (relation, (second, OPPOSITE[name], first))
    one, other = ([thing for thing in read.things if thing.shape == shape] for shape in (first, second))
    if len(one) != 1 or len(other) != 1:
        return False
    (row, column), (above, beside) = ((thing.row, thing.column) for thing in (*one, *other))
    if not (isinstance(row, int) and isinstance(column, int) and isinstance(above, int) and isinstance(beside, int)):
        return False
    return name in relations((row, column), (above, beside))
