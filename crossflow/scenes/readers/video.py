"""What a film shows: what its first frame does, and the frame in which the objects turn back.

Each object of the first frame is looked for in the others by its colour. Of the bounces that there can be, that one is
right whose way fits all that were found best, if it fits far better than standing still.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from crossflow.scenes import parse
from crossflow.scenes.events import BOUNCES, FRAMES
from crossflow.scenes.facts import Facts
from crossflow.scenes.motion import REACH, way
from crossflow.scenes.readers import image

WAYS = np.array([[way(bounce, frame) for frame in range(FRAMES)] for bounce in BOUNCES])
"""How far an object has gone in each frame, in image sides: [bounces frames]."""
STILL = 0.5
"""Share of the squared movement that may stay unexplained."""
NEAR = 1.5 * REACH
"""How far from where it began an object is looked for, in image sides."""


def read(film: np.ndarray) -> Facts:
    """What is in ``film``, uint8 [8 h w 3]."""
    return replace(image.read(film[0]), bounce=bounce(film))


def bounce(film: np.ndarray) -> int | None:
    """The frame in which the objects of ``film`` turn back; None where none is seen to do so."""
    seen = [parse.spots(frame) for frame in film]
    gone = np.array([_inward(color, x, y, seen) for color, x, y in seen[0]]).reshape(-1, FRAMES)
    if not np.isfinite(gone[:, 1:]).any():
        return None
    errors = [float(np.nansum((gone - expected) ** 2)) for expected in WAYS]
    best = int(np.argmin(errors))
    return BOUNCES[best] if errors[best] < STILL * np.nansum(gone**2) else None


def _inward(color: str, x: float, y: float, seen: list[list[tuple[str, float, float]]]) -> list[float]:
    """How far the object that began at (x, y) has gone towards the middle in each frame; NaN where it is not seen."""
    sign = 1.0 if x < 0.5 else -1.0
    gone: list[float] = []
    for spots in seen:
        near = [(abs(beside - x), beside) for hue, beside, above in spots if hue == color and abs(above - y) < NEAR]
        distance, beside = min(near, default=(np.inf, np.nan))
        gone.append(sign * (beside - x) if distance < NEAR else np.nan)
    return gone
