"""One second of sound as a log-mel spectrogram, and back.

The 32 frames are centred 500 samples apart, in the middle of 32 equal parts of the second. Magnitudes are summed into
32 mel bands (HTK's formula, 0 to 8 kHz) by torchaudio. The way back finds by non-negative least squares which pure
tones these bands may be the sum of, and by Griffin and Lim's algorithm (1984) a wave of such magnitudes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.optimize import nnls

from crossflow.errors import CrossFlowError

if TYPE_CHECKING:
    from torchaudio.transforms import GriffinLim, MelSpectrogram

RATE = 16_000
"""Samples a second; a sound lasts one second."""
HOP, WINDOW, BANDS, FRAMES = 500, 1024, 32, 32
SILENCE = 1e-5
"""Smallest magnitude whose logarithm is taken."""
LOUDEST = 20.0
"""Largest logarithm that is taken as it is, e to the 20; a full-scale tone has 6."""
SEED = 0
"""Seed of the phases that Griffin and Lim's algorithm starts from."""


def _torchaudio() -> Any:
    """The transforms; CrossFlowError on a machine without them, as one that only trains on images may be."""
    try:
        from torchaudio import transforms
    except (ImportError, OSError) as error:  # OSError where it was built for another torch
        raise CrossFlowError('Sounds need torchaudio as it goes with torch: pip install "torchaudio>=2.9".') from error
    return transforms


@lru_cache
def _mel() -> MelSpectrogram:
    edge = (WINDOW - HOP) // 2
    return _torchaudio().MelSpectrogram(RATE, WINDOW, WINDOW, HOP, pad=edge, center=False, n_mels=BANDS, power=1.0)


@lru_cache
def _tones() -> np.ndarray:
    """Magnitudes of a pure tone at each frequency, as Hann's window spreads it to both sides: [frequencies tones]."""
    size = WINDOW // 2 + 1
    return np.eye(size) + 0.5 * (np.eye(size, k=1) + np.eye(size, k=-1))


@lru_cache
def _griffin_lim() -> GriffinLim:
    return _torchaudio().GriffinLim(WINDOW, n_iter=32, win_length=WINDOW, hop_length=HOP, power=1.0)


def log_mel(wave: np.ndarray) -> np.ndarray:
    """Natural logarithms of the mel magnitudes of ``wave`` (real [16000]): float32 [32 32], bands by frames."""
    if wave.shape != (RATE,):
        raise CrossFlowError(f"A sound has the shape {list(wave.shape)}; give {RATE} samples, one second at 16 kHz.")
    mel = _mel()(torch.from_numpy(wave.astype(np.float32)))
    return mel.clamp(min=SILENCE).log().numpy()


def magnitudes(log_mel: np.ndarray) -> np.ndarray:
    """The magnitudes, float64, of which ``log_mel`` has the logarithms; those beyond ``LOUDEST`` are cut."""
    return np.exp(np.minimum(log_mel.astype(np.float64), LOUDEST))


def wave_of(log_mel: np.ndarray) -> np.ndarray:
    """A wave, float32 [16000], whose log-mel spectrogram is near ``log_mel`` (real [32 32]); the same for the same."""
    finite = bool(np.isfinite(log_mel).all())
    if log_mel.shape != (BANDS, FRAMES) or not finite:
        raise CrossFlowError(
            f"A log-mel spectrogram is {BANDS} bands by {FRAMES} frames of finite numbers; "
            f"got {list(log_mel.shape)}{'' if finite else ', not all finite'}."
        )
    bands = _mel().mel_scale.get_buffer("fb").double().numpy().T @ _tones()
    tones = np.stack([nnls(bands, frame)[0] for frame in magnitudes(log_mel).T], axis=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        wave = _griffin_lim()(torch.from_numpy((_tones() @ tones).astype(np.float32)))
    return np.pad(wave.numpy(), HOP // 2)
