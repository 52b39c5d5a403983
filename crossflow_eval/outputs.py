"""The kinds of output: as what a model must give one, how it is kept in a file, and how it is shown.

``KINDS`` is the one table of them, by the end of a file's name: ``a.npy`` is a depth map, and ``a.mel.npy`` a sound.
Another package adds its own by an entry, such as ``KINDS["json"] = Kind(...)`` in the module of the suite that asks for
it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from crossflow.errors import CrossFlowError, unknown
from crossflow.files.arrays import plain_array
from crossflow.files.images import decode_image
from crossflow.files.names import is_text
from crossflow.files.recordings import Recording, decode_recording, encode_recording
from crossflow.files.sounds import encode_wav
from crossflow.files.videos import decode_webp, encode_webp

NEAREST, FARTHEST = 1.0, 80.0
"""Metres at the two ends of the colours of depth, which go by its logarithm; all beyond has the color of the end."""
QUIETEST, LOUDEST = -5.0, 4.0
"""Natural logarithms of mel magnitudes at the two ends of the colours of sound."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of output.

    ``encode`` and ``decode`` are each other's inverse, without loss; what ``decode`` raises of a damaged file is an
    UnreadableImage, OSError, ValueError or EOFError. ``check`` says whether something is of the kind; ``convert`` makes
    it of what means the same, which is ``wanted`` in words, or raises ValueError. ``picture`` gives a uint8 image
    [h w 3] of an output, of at most so many pixels a side; one in ``metres``, the ends of its colours, is shown only
    where a run's outputs are in metres. ``play`` gives what a page plays of what goes on in time: the bytes of a WAV
    file, or of an animated WebP file. ``legend`` says in a sentence how such pictures are read.
    """

    wanted: str
    check: Callable[[Any], bool]
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    convert: Callable[[Any], Any] = field(default=lambda output: output)
    picture: Callable[[Any, int], np.ndarray] | None = None
    metres: tuple[float, float] | None = None
    play: Callable[[Any], bytes] | None = None
    legend: str = ""


def find_kind(name: str) -> Kind | None:
    """The kind of the file called ``name``, or that of this name: by the longest suffix that is one's."""
    suffix = _suffix(name)
    return KINDS[suffix] if suffix else None


def stem(name: str) -> str:
    """The ``name`` of a file without the suffix of its kind, where it has one."""
    return name.removesuffix(f".{_suffix(name)}")


def _suffix(name: str) -> str:
    return max((suffix for suffix in KINDS if f".{name}".endswith(f".{suffix}")), key=len, default="")


def kind_of(name: str) -> Kind:
    """What ``find_kind`` finds. CrossFlowError where there is none."""
    kind = find_kind(name)
    if kind is None:
        raise unknown("kind of output", name.rpartition(".")[2], KINDS)
    return kind


def check_kind(model: str, output: Any, suffix: str) -> None:
    """Raise CrossFlowError if ``output``, which ``model`` gave, is not of the kind that ``suffix`` names."""
    kind = kind_of(suffix)
    if not kind.check(output):
        got = f"{output.dtype} {list(output.shape)}" if isinstance(output, np.ndarray) else type(output).__name__
        raise CrossFlowError(f"The model {model} gave {got} where the suite needs {kind.wanted}.")


def as_kind(model: str, output: Any, suffix: str) -> Any:
    """An ``output`` of ``model`` as the kind that ``suffix`` names is kept: a uint8 image, a float32 depth map, a text.

    Images may be PIL's, or arrays or torch tensors, uint8 or floats from 0 to 1, [h w 3] or [3 h w]; depth maps PIL's
    of mode F, or floats [h w] or [1 h w]; films are arrays as those of images, one a frame; log-mel spectrograms are
    floats as depth maps are. Raises CrossFlowError for all else, with what was got and what was wanted.
    """
    try:
        converted = kind_of(suffix).convert(_plain(output))
    except ValueError as error:
        raise CrossFlowError(
            f"The model {model} gave {error} where the suite needs {kind_of(suffix).wanted}."
        ) from error
    check_kind(model, converted, suffix)
    return converted


def _plain(output: Any) -> Any:
    """A torch tensor, of any device, as an array; anything else as it is."""
    if not hasattr(output, "detach"):
        return output
    tensor = output.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _to_image(output: Any) -> Any:
    """Pixels [h w 3] of a picture, or of channels first; floats from 0 to 1 as 0 to 255, rounded."""
    if isinstance(output, Image.Image):
        if output.mode not in ("1", "L", "P", "RGB"):
            raise ValueError(f"a PIL image of mode {output.mode}, which is not RGB")
        return np.asarray(output.convert("RGB"))
    return _to_pixels(output, axes=3)


def _to_pixels(output: Any, *, axes: int) -> Any:
    """An array of so many axes with channels last, as uint8; anything else as it is."""
    if not isinstance(output, np.ndarray) or output.ndim != axes:
        return output
    image = np.moveaxis(output, -3, -1) if output.shape[-1] != 3 and output.shape[-3] == 3 else output
    if np.issubdtype(image.dtype, np.floating) and image.shape[-1] == 3 and image.size:
        low, high = float(image.min()), float(image.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"{image.dtype} {list(output.shape)} from {low:.4g} to {high:.4g}, not from 0 to 1,")
        image = (image.astype(np.float64) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(image)


def _to_map(output: Any) -> Any:
    """Floats [h w] as float32, of a picture of mode F too; a first axis of length 1 is left out."""
    if isinstance(output, Image.Image) and output.mode == "F":
        return np.asarray(output)
    if not isinstance(output, np.ndarray) or not np.issubdtype(output.dtype, np.floating):
        return output
    return (output[0] if output.ndim == 3 and len(output) == 1 else output).astype(np.float32)


def _to_recording(output: Any) -> Any:
    """A recording of a sound with its rate: floats [n], or [n channels] in either order, of which there are more n."""
    if not isinstance(output, tuple) or len(output) != 2:
        return output
    samples, rate = _plain(output[0]), output[1]
    if not isinstance(samples, np.ndarray) or not np.issubdtype(samples.dtype, np.floating):
        return output
    if samples.ndim not in (1, 2) or not samples.size:
        return output
    if isinstance(rate, bool) or not isinstance(rate, (int, np.integer)) or rate < 1:
        raise ValueError(f"a sound at {rate!r} samples a second")
    if not np.isfinite(samples).all():
        raise ValueError("a sound with numbers that are not finite")
    columns = samples.reshape(len(samples), -1)
    columns = columns.T if columns.shape[0] < columns.shape[1] else columns
    return Recording(np.ascontiguousarray(columns, dtype=np.float32), int(rate))


def spectrogram(recording: Recording, side: int) -> np.ndarray:
    """A picture, uint8 [h w 3], of a sound's first channel: time to the right, frequency upward, 80 dB of loudness."""
    from matplotlib import colormaps
    from scipy.signal import ShortTimeFFT

    wave = recording.samples[:, 0].astype(np.float64)
    width = min(1024, 2 * (len(wave) // 2) or 2)
    transform = ShortTimeFFT(np.hanning(width), hop=max(width // 4, -(-len(wave) // side)), fs=recording.rate)
    loudness = 20 * np.log10(np.maximum(abs(transform.stft(np.pad(wave, (0, max(0, width - len(wave)))))), 1e-9))
    shade = ((loudness - loudness.max()) / 80 + 1).clip(0, 1)[::-1]
    step = -(-len(shade) // side)
    return colormaps["magma"](shade[::step, :side], bytes=True)[..., :3]


def depth_colors(depth: np.ndarray) -> np.ndarray:
    """Depth in metres, float [h w], as uint8 [h w 3]: light is near, dark is far, the same colours for every map."""
    from matplotlib import colormaps

    far = np.log(depth.clip(NEAREST, FARTHEST) / NEAREST) / np.log(FARTHEST / NEAREST)
    return colormaps["magma"](1.0 - far, bytes=True)[..., :3]


def sound_colors(log_mel: np.ndarray) -> np.ndarray:
    """A log-mel spectrogram, float [bands frames], as uint8 [bands frames 3]: time goes right, pitch up, loud is light.

    The colours are the same for every sound.
    """
    from matplotlib import colormaps

    return colormaps["magma"]((log_mel[::-1] - QUIETEST) / (LOUDEST - QUIETEST), bytes=True)[..., :3]


def _is_image(output: Any) -> bool:
    is_pixels = isinstance(output, np.ndarray) and output.dtype == np.uint8 and output.ndim == 3
    return is_pixels and output.shape[2] == 3 and output.size > 0


def _encode_image(output: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.asarray(output)).save(stream, format="PNG", compress_level=1)
    return stream.getvalue()


def _decode_image(content: bytes) -> np.ndarray:
    return np.array(decode_image(content, ("PNG", "JPEG", "WEBP"))[0], dtype=np.uint8)


def _small_image(output: np.ndarray, side: int) -> np.ndarray:
    if max(output.shape[:2]) <= side:
        return output
    image = Image.fromarray(output)
    image.thumbnail((side, side))
    return np.asarray(image)


def _encode_array(output: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray(output), allow_pickle=False)
    return stream.getvalue()


def _small_depth(output: np.ndarray, side: int) -> np.ndarray:
    step = -(-max(output.shape) // side)
    return depth_colors(output[::step, ::step])


def _is_sound(output: Any) -> bool:
    is_map = isinstance(output, np.ndarray) and output.dtype == np.float32 and output.shape == (32, 32)
    return is_map and bool(np.isfinite(output).all())


def _small_sound(output: np.ndarray, side: int) -> np.ndarray:
    return _small_image(sound_colors(output), side)


def _play_sound(output: np.ndarray) -> bytes:
    from crossflow.files.mel import RATE, wave_of

    return encode_wav(wave_of(output), rate=RATE)


def _is_film(output: Any) -> bool:
    is_pixels = isinstance(output, np.ndarray) and output.dtype == np.uint8 and output.ndim == 4
    return is_pixels and output.shape[3] == 3 and len(output) > 1 and output.size > 0


def _strip(output: np.ndarray, side: int) -> np.ndarray:
    """The frames one after another, in rows, a white pixel between them."""
    frames, height, width, _ = output.shape
    columns = math.ceil(math.sqrt(2 * frames))
    rows = -(-frames // columns)
    strip = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, 3), 255, dtype=np.uint8)
    for at, frame in enumerate(output):
        top, left = at // columns * (height + 1), at % columns * (width + 1)
        strip[top : top + height, left : left + width] = frame
    return _small_image(strip, side)


KINDS: dict[str, Kind] = {
    "png": Kind(
        wanted="an image: PIL's, or uint8 or floats from 0 to 1, [h w 3] or [3 h w]",
        check=_is_image,
        encode=_encode_image,
        decode=_decode_image,
        convert=_to_image,
        picture=_small_image,
    ),
    "npy": Kind(
        wanted="a depth map, floats [h w]",
        check=lambda output: isinstance(output, np.ndarray) and output.dtype == np.float32 and output.ndim == 2,
        encode=_encode_array,
        decode=plain_array,
        convert=_to_map,
        picture=_small_depth,
        metres=(NEAREST, FARTHEST),
    ),
    "mel.npy": Kind(
        wanted="a log-mel spectrogram, finite floats [32 32], bands by frames",
        check=_is_sound,
        encode=_encode_array,
        decode=plain_array,
        convert=_to_map,
        picture=_small_sound,
        play=_play_sound,
        legend="Of a sound the log-mel spectrogram is shown: time goes right, pitch up, and loud is light.",
    ),
    "webp": Kind(
        wanted="a film of at least two frames: uint8 or floats from 0 to 1, [frames h w 3] or [frames 3 h w]",
        check=_is_film,
        encode=encode_webp,
        decode=decode_webp,
        convert=lambda output: _to_pixels(output, axes=4),
        picture=_strip,
        play=encode_webp,
        legend="The frames of a film go from left to right, then down.",
    ),
    "txt": Kind(
        wanted="a str that UTF-8 can hold",
        check=lambda output: isinstance(output, str) and is_text(output),
        encode=lambda output: str(output).encode(),
        decode=bytes.decode,
    ),
    "tokens": Kind(
        wanted="a float16 array [4 n d]: a text's tokens, those decoded from a sample and from the mean of its latent, "
        "and the mean tokens of other texts",
        check=lambda output: (
            isinstance(output, np.ndarray) and output.dtype == np.float16 and output.ndim == 3 and len(output) == 4
        ),
        encode=_encode_array,
        decode=lambda content: np.load(io.BytesIO(content), allow_pickle=False),
    ),
    "wav": Kind(
        wanted="a sound with its rate: a pair of floats, [n] or [n channels], and the samples a second",
        check=lambda output: isinstance(output, Recording) and output.samples.size > 0,
        encode=encode_recording,
        decode=decode_recording,
        convert=_to_recording,
        picture=spectrogram,
        play=encode_recording,
        legend="Of a sound the spectrogram is shown: time goes right, pitch up, and what is loud in it is light.",
    ),
}
"""By the suffix of the file: images, depth maps, sounds, films, captions, token embeddings, recordings."""
