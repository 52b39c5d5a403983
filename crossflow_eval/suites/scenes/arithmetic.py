"""The suites ``scenes-arithmetic``: sums of prompts of the embedded world, the paper's Table 8 by the exact reader.

Example i takes the two objects of a scene of its split, without colours where i is even and with them where it is odd,
and further looks from the scenes that follow. Its kind goes by i modulo five, so the first of them are balanced:

- ``add``: one object, plus the other.
- ``subtract``: two objects, less one.
- ``combination``: two objects, less one, plus a third.
- ``control_none``: the base plus itself, judged as if it had been edited; the three kinds take turns.
- ``control_wrong``: likewise, with other words added and subtracted than are looked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow_eval.metrics.arithmetic import CONTROLS, KINDS
from crossflow_eval.types import Example, Metric, Suite

VERSION = "1"
COUNT = 1000
SIDE = 32
SPLIT_OF = {"scenes-arithmetic": "test", "scenes-arithmetic-val": "val"}
CELLS = ((0, 0), (1, 2), (3, 1))
"""Where the objects of the reference stand, (row, column)."""

Look = tuple[str, str]
"""The shape and the color of an object; no color where the prompts name none."""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A sum in words; the looks that its base has to show, that the sum has to show, and that it must not show."""

    kind: str
    words: str
    base: tuple[Look, ...]
    there: tuple[Look, ...]
    gone: tuple[Look, ...]


def edit(split: str, index: int) -> Edit:
    """The ``index``-th sum of a split, a pure function of its arguments."""
    kinds = (*KINDS, *CONTROLS)
    kind = kinds[index % len(kinds)]
    rule = kind if kind in KINDS else KINDS[index // len(kinds) % len(KINDS)]
    kept, lost, new, *others = looks(split, index)
    base = (kept,) if rule == "add" else (kept, lost)
    added = () if rule == "subtract" else (new,)
    gone = () if rule == "add" else (lost,)
    plus, minus = added, gone
    if kind == "control_none":
        plus, minus = base, ()
    elif kind == "control_wrong":
        plus, minus = (others[0],) * len(added), (others[1],) * len(gone)
    return Edit(
        kind=kind,
        words=prompt(base) + (f" + {prompt(plus)}" if plus else "") + (f" - {prompt(minus)}" if minus else ""),
        base=base,
        there=(kept, *added),
        gone=gone,
    )


def looks(split: str, index: int) -> list[Look]:
    """Five looks of as many shapes: those of a scene's two objects, then of the scenes that follow it."""
    from crossflow.scenes import example
    from crossflow.scenes.caption import TASKS

    task = TASKS.index("color_attr" if index % 2 else "two_object")
    found: dict[str, str] = {}
    scene = index // 2
    while len(found) < 5:
        for item in example(split, scene * len(TASKS) + task).scene.objects:
            found.setdefault(item.shape, item.color if index % 2 else "")
        scene += 1
    return list(found.items())[:5]


def specification(there: Sequence[Look], gone: Sequence[Look] = ()) -> dict[str, Any]:
    """What an image must show and must not show, as GenEval's rules take it, with the prompt of the former."""
    from crossflow.scenes.caption import specification as of_task

    plain = "single_object" if len(there) == 1 else "two_object"
    colored = "colors" if len(there) == 1 else "color_attr"
    asked = of_task(colored if there[0][1] else plain, list(there))
    return {**asked, "exclude": [{"class": shape, "count": 1} for shape, _ in gone]}


def prompt(of: Sequence[Look]) -> str:
    """The world's prompt of one look or two."""
    return specification(of)["prompt"]


def suite(name: str) -> Suite:
    """Build one of ``SPLIT_OF``; ``scenes-arithmetic-val`` is for choosing settings, never for reporting."""
    split = SPLIT_OF[name]
    return Suite(
        name=name,
        version=VERSION,
        task="arithmetic",
        output="png",
        examples=partial(_examples, name),
        metrics={"arithmetic": _judged},
        references={"ceiling": RightRenders(split)},
    )


def _examples(name: str, root: Path | None) -> Sequence[Example]:
    if root is not None:
        raise CrossFlowError(f"The suite {name} is embedded; leave --data out.")
    from crossflow.scenes import VERSION as WORLD

    split = SPLIT_OF[name]
    tags = {"world": str(WORLD), "split": split}
    return [_example(f"{split}-{index:06d}", edit(split, index), tags) for index in range(COUNT)]


def _example(name: str, of: Edit, tags: Mapping[str, str]) -> Example:
    target = {"kind": of.kind, "base": specification(of.base), "edited": specification(of.there, of.gone)}
    return Example(id=name, source=of.words, target=target, tags={**tags, "kind": of.kind})


def _judged() -> Metric:
    from crossflow.scenes import VERSION as WORLD
    from crossflow.scenes import read
    from crossflow_eval.metrics.arithmetic import SceneArithmetic

    return SceneArithmetic(read, reader=f"crossflow.scenes.read, world {WORLD}")


class RightRenders:
    """The reference ``ceiling`` in a model's place: renders of what the base, and the words of the sum, ask for."""

    name = "ceiling"

    def __init__(self, split: str) -> None:
        from crossflow.scenes import VERSION as WORLD

        self.identity: Mapping[str, Any] = {"world": WORLD, "split": split, "renders": self.name, "side": SIDE}

    def read(self, example_id: str, index: int) -> np.ndarray:
        """Return the two renders side by side, uint8 [SIDE 2 SIDE 3]; those of a control show the base twice."""
        split, _, number = example_id.rpartition("-")
        of = edit(split, int(number))
        pair = (of.base, of.base if of.kind in CONTROLS else of.there)
        return np.concatenate([_render(each, int(number)) for each in pair], axis=1)


def _render(of: Sequence[Look], seed: int) -> np.ndarray:
    """A render of these looks, red where they name no color."""
    from crossflow.scenes import render
    from crossflow.scenes.spec import sample_scene

    named = [(shape, color or "red") for shape, color in of]
    return render(sample_scene(np.random.default_rng(seed), named, list(CELLS[: len(named)])), SIDE)
