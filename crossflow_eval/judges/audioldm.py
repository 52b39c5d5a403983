"""How AudioLDM's evaluation prepares a sound before PANNs and VGGish hear it: audioldm_eval at 8dc07ee, at 16 kHz.

Its authors warn that another way to resample moves FD by up to 30. At 32 kHz it takes another CNN14, and gives other
numbers, as it does with MERT in the place of CNN14, its default since 2024; neither is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from crossflow.files.recordings import Recording

RATE = 16_000
SHORTEST = 32_000
"""Samples to which a shorter sound is filled up with silence."""
PREPARATION: Mapping[str, Any] = {
    "channels": "the first",
    "offset": "less its mean, before resampling",
    "rate": RATE,
    "resampling": "torchaudio.functional.resample, Hann-windowed sinc, width 6, rolloff 0.99, float32",
    "shortest": f"{SHORTEST} samples, zeros at the end",
}


def prepared(recording: Recording) -> np.ndarray:
    """The sound, float32 [n] at ``RATE``, of at least ``SHORTEST`` samples."""
    wave = resampled(recording, RATE, centred=True)
    return np.pad(wave, (0, max(0, SHORTEST - len(wave))))


def resampled(recording: Recording, rate: int, *, centred: bool = False) -> np.ndarray:
    """The first channel, float32 [n] at ``rate``; ``centred`` takes its mean away before."""
    import torch
    from torchaudio.functional import resample

    wave = torch.from_numpy(np.ascontiguousarray(recording.samples[:, 0]))
    wave = wave - wave.mean() if centred else wave
    return (wave if recording.rate == rate else resample(wave, recording.rate, rate)).numpy()
