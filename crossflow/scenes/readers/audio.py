"""What a sound tells: its notes, the noise beneath them and the click, but no rows.

The powers of a spectrogram are a sum with no negative parts of those of every note that there can be, of every click
and of noise; non-negative least squares finds how much there is of each. Errors count relative to the power that is
there, or a quiet note would not be heard beside a loud one.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product

import numpy as np
from scipy.optimize import nnls

from crossflow.files.mel import RATE, log_mel
from crossflow.scenes.events import BOUNCES
from crossflow.scenes.facts import Facts, Thing
from crossflow.scenes.sound import FLOOR, click, note
from crossflow.scenes.spec import CELLS, COLORS, SHAPES

QUIET = 0.1
"""Power below which errors count no more."""
FARTHEST = 16.0
"""A note that sounds farther than this many metres is none; objects are at most 12 metres away."""
MIN_CLICK = 0.25
"""Share of its own power below which a click is none."""
NOISES = 100
"""Draws of which the noise's mean power is made."""


def read(log_mel: np.ndarray) -> Facts:
    """What is heard in ``log_mel``, [32 32]."""
    power = np.exp(2.0 * log_mel.astype(np.float64)).ravel()
    weight = 1.0 / (power + QUIET)
    parts, _ = nnls(_templates() * weight[:, None], power * weight)
    notes, clicks, noise = np.split(parts, [CELLS * len(COLORS) * len(SHAPES), len(parts) - 1])
    by_look = notes.reshape(CELLS, len(COLORS), len(SHAPES))
    night = math.log(max(float(noise[0]), 1e-12)) > math.log(FLOOR[False]) + math.log(FLOOR[True])
    loudest = int(clicks.argmax())
    return Facts(
        things=tuple(
            Thing(shape=SHAPES[int(by_look[at].argmax())], color=color, column=at[0], depth=1.0 / math.sqrt(power))
            for at, color in zip(np.ndindex(by_look.shape[:2]), list(COLORS) * CELLS, strict=True)
            if (power := float(by_look[at].sum())) > FARTHEST**-2
        ),
        night=night,
        bounce=BOUNCES[loudest] if clicks[loudest] > MIN_CLICK else None,
    )


@lru_cache
def _templates() -> np.ndarray:
    """Powers of each note one metre away, of each click, and of noise of standard deviation 1: [1024 templates]."""
    notes = [_power(note(shape, color, column)) for column, color, shape in product(range(CELLS), COLORS, SHAPES)]
    clicks = [_power(click(bounce)) for bounce in BOUNCES]
    rng = np.random.default_rng(0)
    noise = np.mean([_power(rng.normal(size=RATE)) for _ in range(NOISES)], axis=(0, 2))
    return np.stack([each.ravel() for each in (*notes, *clicks, np.repeat(noise[:, None], 32, axis=1))], axis=1)


def _power(wave: np.ndarray) -> np.ndarray:
    return np.exp(2.0 * log_mel(wave).astype(np.float64))
