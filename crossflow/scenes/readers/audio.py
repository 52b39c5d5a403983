"""What a sound tells: its notes, the noise beneath them and the click, but no rows.

The magnitudes of a spectrogram are nearly the sum of those of every note that there can be, every click and noise;
non-negative least squares finds how much there is of each. Errors count relative to the magnitude that the fit before
says is there (first: the spectrogram itself), or a quiet note would not be heard beside a loud one.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product

import numpy as np
from scipy.optimize import nnls

from crossflow.files.mel import FRAMES, RATE, log_mel, magnitudes
from crossflow.scenes.events import BOUNCES
from crossflow.scenes.facts import Facts, Thing
from crossflow.scenes.sound import FLOOR, click, note
from crossflow.scenes.spec import CELLS, COLORS, SHAPES

QUIET = 0.3
"""Magnitude below which errors count no more."""
FITS = 2
"""How often it is fitted."""
FARTHEST = 16.0
"""A note that sounds farther than this many metres is none; objects are at most 12 metres away."""
MIN_CLICK = 0.25
"""Share of its own magnitude below which a click is none."""
NOISES = 100
"""Draws of which the noise's mean magnitude is made."""


def read(log_mel: np.ndarray) -> Facts:
    """What is heard in ``log_mel``, [32 32]."""
    there = magnitudes(log_mel).ravel()
    templates, expected, parts = _templates(), there, np.zeros(0)
    for _ in range(FITS):
        weight = 1.0 / (expected + QUIET)
        parts, _ = nnls(templates * weight[:, None], there * weight)
        expected = templates @ parts
    notes, clicks, noise = np.split(parts, [CELLS * len(COLORS) * len(SHAPES), len(parts) - 1])
    by_look = notes.reshape(CELLS, len(COLORS), len(SHAPES))
    loudest = int(clicks.argmax())
    return Facts(
        things=tuple(
            Thing(shape=SHAPES[int(by_look[at].argmax())], color=color, column=at[0], depth=1.0 / loudness)
            for at, color in zip(np.ndindex(by_look.shape[:2]), list(COLORS) * CELLS, strict=True)
            if (loudness := float(by_look[at].sum())) > 1.0 / FARTHEST
        ),
        night=bool(noise[0] > math.sqrt(FLOOR[False] * FLOOR[True])),
        bounce=BOUNCES[loudest] if clicks[loudest] > MIN_CLICK else None,
    )


@lru_cache
def _templates() -> np.ndarray:
    """Magnitudes of each note one metre away, each click, and noise of standard deviation 1: [1024 templates]."""
    notes = [_magnitude(note(shape, color, column)) for column, color, shape in product(range(CELLS), COLORS, SHAPES)]
    clicks = [_magnitude(click(bounce)) for bounce in BOUNCES]
    rng = np.random.default_rng(0)
    noise = np.mean([_magnitude(rng.normal(size=RATE)) for _ in range(NOISES)], axis=(0, 2))
    return np.stack([each.ravel() for each in (*notes, *clicks, np.repeat(noise[:, None], FRAMES, axis=1))], axis=1)


def _magnitude(wave: np.ndarray) -> np.ndarray:
    return magnitudes(log_mel(wave))
