"""WAV files of any rate, length and number of channels, as other programs and data sets have them, without loss."""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from crossflow.errors import CrossFlowError
from crossflow.files.names import shown
from crossflow.files.stand_ins import refuse_stand_in

SUFFIXES = (".wav",)
"""Of the files that are read."""
LARGEST = 256 << 20
"""The largest file that is read, in bytes."""
_FULL = {np.dtype(np.uint8): (128, 128), np.dtype(np.int16): (0, 1 << 15), np.dtype(np.int32): (0, 1 << 31)}
"""Of each form of integers, the number that is silence, and how far from it full scale is."""


@dataclass(frozen=True, eq=False)
class Recording:
    """A sound: ``samples``, float32 [n channels], full scale -1 to 1, at ``rate`` samples a second."""

    samples: np.ndarray
    rate: int


def read_recording(path: Path) -> Recording:
    """The sound in a WAV file. CrossFlowError for a file that is missing, damaged, empty or of another form."""
    refuse_stand_in(path)
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST >> 20} MiB")
        return decode_recording(path.read_bytes())
    except OSError as error:
        raise CrossFlowError(
            f"The recording {shown(path)} cannot be read ({error.strerror}): give a WAV file."
        ) from error
    except ValueError as error:
        raise CrossFlowError(
            f"The recording {shown(path)} cannot be read: {error}; make it again by `ffmpeg -i IN -c:a pcm_s16le "
            "OUT.wav`."
        ) from error


def decode_recording(content: bytes) -> Recording:
    """The sound in the bytes of a WAV file of integers of 8 to 32 bits or of floats; ValueError with the reason."""
    rate, stored = _stored(content)
    if rate < 1:
        raise ValueError("it has no samples a second")
    if stored.dtype in _FULL:
        silence, full = _FULL[stored.dtype]
        samples = ((stored.astype(np.float64) - silence) / full).astype(np.float32)
    elif stored.dtype in (np.float32, np.float64):
        samples = stored.astype(np.float32)
    else:
        raise ValueError(f"its samples are {stored.dtype}")
    if not np.isfinite(samples).all():
        raise ValueError("it holds numbers that are not finite")
    return Recording(samples.reshape(len(samples), -1), int(rate))


def _stored(content: bytes) -> tuple[int, np.ndarray]:
    """Rate and samples, [n] or [n channels], as they are in the bytes of a WAV file; ValueError with the reason."""
    if not content:
        raise ValueError("it has zero bytes")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            rate, wave = wavfile.read(io.BytesIO(content))  # not of the file: that would trust the size it claims
    except Exception as error:  # scipy documents no list of what damaged bytes raise
        raise ValueError(f"it is no whole WAV file ({' '.join(str(error).split()) or type(error).__name__})") from error
    if any("prematurely" in str(each.message) for each in said):
        raise ValueError("it is truncated")
    if not wave.size:
        raise ValueError("it holds no samples")
    return rate, wave


def encode_recording(recording: Recording) -> bytes:
    """A WAV file of 16-bit integers where these hold the samples exactly, else of 32-bit floats."""
    scaled = recording.samples.astype(np.float64) * (1 << 15)
    exact = bool((scaled == np.rint(scaled)).all() and (scaled >= -(1 << 15)).all() and (scaled < 1 << 15).all())
    stream = io.BytesIO()
    wavfile.write(stream, recording.rate, scaled.astype(np.int16) if exact else recording.samples)
    return stream.getvalue()
