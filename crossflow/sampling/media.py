"""Raw values of modalities in files: read by suffix, and written exactly, for people too where these need another form.

Images, depth maps and the frames of films may be of any size, by the rule ``SIZES``; sounds and films last what they
last, for another length or rate is another sound.
A modality without an entry here is read and written as .npy.
"""

import io
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from crossflow.errors import CrossFlowError, unknown
from crossflow.files.arrays import plain_arrays
from crossflow.files.depth_maps import MILLIMETRES
from crossflow.files.images import read_depth_png, read_image
from crossflow.files.mel import RATE, log_mel, wave_of
from crossflow.files.names import shown
from crossflow.files.resizing import covering
from crossflow.files.sounds import encode_wav, read_wav
from crossflow.files.texts import read_text
from crossflow.files.videos import READERS as FILMS
from crossflow.files.videos import encode_gif, encode_mp4, encode_webp, read_video
from crossflow.modalities.depth import grey
from crossflow.sampling.samples import png

Shape = tuple[int, ...]
"""That of a modality's raw values; empty for text."""
_MIDDLE = "the middle, resized to just cover the size that is read"
SIZES: Mapping[str, str] = {
    "image": f"{_MIDDLE}, bicubic with antialiasing (Pillow)",
    "depth": f"{_MIDDLE}, to the nearest pixel",
    "video": f"of a whole multiple the mean of each square, else {_MIDDLE}, bicubic with antialiasing (Pillow)",
}
"""What is made of an input of another size, by its modality, as it stands in the rows of outputs."""


def read_value(modality: str, given: str, shape: Shape) -> Any:
    """The raw value that somebody ``given`` names: a file of the modality, or the text itself unless it ends in .txt.

    Sizes become those of ``shape`` by ``SIZES``. CrossFlowError for a suffix that the modality has not, and for a file
    that cannot be read.
    """
    if not shape and not given.lower().endswith(".txt"):
        return given
    path, readers = Path(given), READERS.get(modality, {".npy": _array})
    if path.suffix.lower() not in readers:
        raise unknown(f"kind of file for {modality}", path.suffix or given, readers)
    return readers[path.suffix.lower()](path, shape)


def _array(path: Path, shape: Shape) -> np.ndarray:
    arrays = plain_arrays(path, "array")
    if list(arrays) != [""]:
        raise CrossFlowError(f"{shown(path)} holds several arrays: give an .npy file of one.")
    array = arrays[""]
    return array.astype(np.float32) if array.dtype in (np.float16, np.float64) else array


def _depth(path: Path, shape: Shape) -> np.ndarray:
    depth = read_depth_png(path, MILLIMETRES) if path.suffix.lower() == ".png" else _array(path, shape)
    if depth.ndim != 2 or depth.dtype != np.float32 or not depth.size:
        raise CrossFlowError(
            f"{shown(path)} holds {depth.dtype} {list(depth.shape)}: give a map of metres, floats [h w]."
        )
    if np.isnan(depth).any() or not (depth > 0).all():
        raise CrossFlowError(f"{shown(path)} has pixels without a distance above 0: give metres, and inf for the sky.")
    return covering(depth, (shape[0], shape[1]))


def _text(path: Path, shape: Shape) -> str:
    return read_text(path, "The text").strip()


def _image(path: Path, shape: Shape) -> np.ndarray:
    return covering(np.asarray(read_image(path)), (shape[0], shape[1]))


def _sound(path: Path, shape: Shape) -> np.ndarray:
    return log_mel(read_wav(path, rate=RATE, samples=RATE))


def _film(path: Path, shape: Shape) -> np.ndarray:
    return read_video(path, frames=shape[0], size=shape[1])


READERS: Mapping[str, Mapping[str, Callable[[Path, Shape], Any]]] = {
    "text": {".txt": _text},
    "image": dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".bmp"), _image),
    "depth": {".npy": _depth, ".png": _depth},
    "audio": {".wav": _sound, ".npy": _array},
    "video": {**dict.fromkeys(FILMS, _film), ".npy": _array},
}
"""By modality and suffix. Depth is metres, in a 16-bit PNG millimetres; a sound is read as its log-mel spectrogram."""


def writers(modality: str) -> Mapping[str, Callable[[Any], bytes]]:
    """How a value becomes the content of files, by their suffixes; the first is exact. MP4 only where PyAV is."""
    own = WRITERS.get(modality, {".npy": _npy})
    return {suffix: write for suffix, write in own.items() if suffix != ".mp4" or find_spec("av")}


def _npy(value: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, value)
    return stream.getvalue()


WRITERS: Mapping[str, Mapping[str, Callable[[Any], bytes]]] = {
    "text": {".txt": lambda text: f"{text}\n".encode()},
    "image": {".png": png},
    "depth": {".npy": _npy, ".png": lambda depth: png(grey(depth))},
    "audio": {".npy": _npy, ".wav": lambda mel: encode_wav(wave_of(mel), rate=RATE)},
    "video": {".webp": encode_webp, ".gif": encode_gif, ".mp4": encode_mp4},
}
