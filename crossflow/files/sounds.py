"""WAV files, read strictly and written whole: one second, or whatever was asked for, of one channel.

Integers of 8 to 32 bits and floats are read alike, full scale as 1, and several channels become one by their mean.
Another rate or length, silence, and damage are refused; nothing is resampled, for each way to do so sounds otherwise.
"""

import io
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.io import wavfile

from crossflow.errors import CrossFlowError
from crossflow.files.names import shown
from crossflow.files.recordings import decode_recording
from crossflow.files.stand_ins import refuse_stand_in
from crossflow.files.writing import write_whole

LARGEST = 16 << 20
"""The largest file that is read, in bytes."""
QUIETEST = 1e-4
"""A sound whose loudest sample is below this share of full scale (-80 dB) is silence."""


def read_wav(path: Path, *, rate: int, samples: int) -> Float[ndarray, "samples"]:
    """The sound in a WAV file, float32 from -1 to 1, of ``samples`` at ``rate`` a second; channels are averaged.

    CrossFlowError for a file that is missing, damaged, silent, or of another rate, length or form.
    """
    refuse_stand_in(path)
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST >> 20} MiB")
        return decode_wav(path.read_bytes(), rate=rate, samples=samples)
    except OSError as error:
        raise CrossFlowError(f"The sound {shown(path)} cannot be read ({error.strerror}): give a WAV file.") from error
    except ValueError as error:
        remedy = f"ffmpeg -i IN -af apad -t {samples / rate:g} -ac 1 -ar {rate} -c:a pcm_s16le OUT.wav"
        raise CrossFlowError(
            f"The sound {shown(path)} is not used: {error}; what is read is made of any sound by `{remedy}`."
        ) from error


def decode_wav(content: bytes, *, rate: int, samples: int) -> Float[ndarray, "samples"]:
    """The sound in the bytes of a WAV file, as ``read_wav`` gives it; ValueError with the reason where it refuses."""
    recording = decode_recording(content)
    if recording.rate != rate:
        raise ValueError(f"it has {recording.rate:,} samples a second, and {rate:,} are expected")
    mono = recording.samples.mean(axis=1, dtype=np.float64).astype(np.float32)
    if len(mono) != samples:
        raise ValueError(f"it is {len(mono) / rate:.3g} s long, and {samples / rate:g} s are expected")
    loudest = float(np.abs(mono).max())
    if loudest > 1:
        raise ValueError(f"its samples go up to {loudest:.3g}, and 1 is the loudest")
    if loudest < QUIETEST:
        raise ValueError("it is silent")
    return mono


def encode_wav(wave: Float[ndarray, "samples"], *, rate: int) -> bytes:
    """A WAV file of 16-bit integers of a sound from -1 to 1, rounded; what is louder is cut off there."""
    stream = io.BytesIO()
    wavfile.write(stream, rate, np.rint(np.clip(wave, -1, 32767 / 32768) * 32768).astype(np.int16))
    return stream.getvalue()


def write_wav(path: Path, wave: Float[ndarray, "samples"], *, rate: int) -> None:
    """Write ``encode_wav`` of a sound, whole or not at all."""
    write_whole(path, encode_wav(wave, rate=rate))
