"""Events: a scene in time, with the frame in which all its objects turn back.

An event adds to an example what only sound and motion tell, from generators of their own: an example keeps its bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossflow.scenes.spec import VERSION, Scene
from crossflow.scenes.splits import SPLITS, SceneExample, example

FRAMES = 8
"""Frames of an event; it lasts one second."""
BOUNCES = range(1, FRAMES - 1)
"""The frames in which objects may turn back: all but the first and the last."""
BOUNCE, NOISE = 3, 4
"""The streams of random numbers of an example that are an event's; ``negatives`` and ``retell`` have 1 and 2."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """An example, and the frame ``bounce`` of ``BOUNCES`` in which every object turns back."""

    id: str
    example: SceneExample
    bounce: int

    @property
    def scene(self) -> Scene:
        return self.example.scene

    @property
    def captions(self) -> tuple[str, ...]:
        """The five captions; the first is the prompt."""
        return self.example.captions

    @property
    def prompt(self) -> str:
        return self.example.prompt


def event(split: str, index: int) -> Event:
    """The ``index``-th event of ``split``: that example, with a bounce. ValueError for an unknown split."""
    item = example(split, index)
    return Event(id=item.id, example=item, bounce=int(generator(item.id, BOUNCE).choice(BOUNCES)))


def generator(name: str, stream: int) -> np.random.Generator:
    """The random numbers ``stream`` of the example whose id is ``name``, which depend on nothing else."""
    split, _, index = name.rpartition("-")
    return np.random.default_rng([VERSION, SPLITS[split], int(index), stream])
