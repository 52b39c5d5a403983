"""Events as films: every object moves sideways towards the middle, turns back at the bounce, and ends where it began.

It goes half a cell, at an even speed each way, so no object leaves the image, and no two of a row ever overlap: none
goes farther than the middle between its cell and the next but one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from crossflow.scenes.events import FRAMES, Event
from crossflow.scenes.render import render
from crossflow.scenes.spec import CELLS, Object, Scene

REACH = 0.5 / CELLS
"""How far an object goes, in image sides."""


def film(event: Event, size: int = 32) -> np.ndarray:
    """The frames of ``event``: uint8 RGB [8 size size 3]; the first is the render of its scene."""
    return np.stack([render(moved(event, frame), size) for frame in range(FRAMES)])


def moved(event: Event, frame: int) -> Scene:
    """The scene of ``event`` as it is in ``frame``."""
    gone = way(event.bounce, frame)
    return replace(event.scene, objects=tuple(_inward(item, gone) for item in event.scene.objects))


def way(bounce: int, frame: int) -> float:
    """How far towards the middle an object has gone in ``frame``, in image sides."""
    return REACH * float(np.interp(frame, (0, bounce, FRAMES - 1), (0.0, 1.0, 0.0)))


def _inward(item: Object, gone: float) -> Object:
    return replace(item, x=item.x + gone if item.x < 0.5 else item.x - gone)
