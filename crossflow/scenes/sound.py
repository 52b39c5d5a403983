"""Events as sounds: one second in which every object sounds one note, and a click tells the bounce.

The clip has a quarter for each column, from left to right, and an object sounds in the quarter of its own. Pitch tells
its colour, over three octaves; timbre its shape; loudness, inverse to distance, its depth. Rows are not heard. Under it
all is noise, louder by night.
"""

from __future__ import annotations

import numpy as np
from scipy.signal.windows import tukey

from crossflow.files.mel import HOP, RATE
from crossflow.scenes.events import FRAMES, NOISE, Event, generator
from crossflow.scenes.spec import CELLS, COLORS, SHAPES

PITCHES = {color: 160.0 * 2.0 ** (3 * i / (len(COLORS) - 1)) for i, color in enumerate(COLORS)}
"""Fundamental frequency of each colour in Hz: seven equal steps in three octaves."""
OVERTONES = {shape: i for i, shape in enumerate(SHAPES, start=1)}
"""The harmonic that sounds beside the fundamental, as strong as it; a ball has no other, and is a pure tone."""
LOUDNESS = 0.25
"""Root mean square of a note one metre away."""
CLICK = 0.4
"""The one sample that is the click, in the middle of the spectrogram's frame at which its film's frame begins."""
FLOOR = {False: 0.001, True: 0.006}
"""Standard deviation of the noise by day and by night."""
QUARTER = RATE // CELLS


def waveform(event: Event) -> np.ndarray:
    """The sound of ``event``: float32 [16000] at 16 kHz, within [-1, 1]."""
    wave = generator(event.id, NOISE).normal(0.0, FLOOR[event.scene.night], RATE)
    for item in event.scene.objects:
        wave += note(item.shape, item.color, int(item.x * CELLS)) / item.depth
    return (wave + click(event.bounce)).astype(np.float32)


def note(shape: str, color: str, column: int) -> np.ndarray:
    """The sound of such an object one metre away: float64 [16000]."""
    time = np.arange(QUARTER) / RATE
    tone = sum(np.sin(2 * np.pi * PITCHES[color] * k * time) for k in (1, OVERTONES[shape]))
    wave = np.zeros(RATE)
    wave[column * QUARTER : (column + 1) * QUARTER] = LOUDNESS * tukey(QUARTER, 0.25) * tone / np.std(tone)
    return wave


def click(bounce: int) -> np.ndarray:
    """The click of that bounce: float64 [16000]."""
    wave = np.zeros(RATE)
    wave[bounce * RATE // FRAMES + HOP // 2] = CLICK
    return wave
