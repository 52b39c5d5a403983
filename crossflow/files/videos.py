"""Short films, uint8 [frames h w rgb], in files: lossless WebP, which is scored; GIF and MP4, which are for people.

- WebP has every frame as a whole picture, also one that is equal to the frame before: encoders of animations join such
  frames, and make a still of a film in which nothing moves.
- GIF and MP4 are drawn SCALE times as large, a square a pixel, so that they can be seen and that MP4's coarser colours
  hardly touch them. GIF joins equal frames, and says so by how long one is shown.
- A film is read at the size that is asked for; of a whole multiple of it by the mean of each square, of any other as an
  image is (``resizing.covering``). Of frames it has as many as are asked for; those of MP4 and AVI count alike, however
  long each is shown.
"""

import io
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, ImageSequence

from crossflow.errors import CrossFlowError, unknown
from crossflow.files.images import UnreadableImage, opaque, why_unreadable
from crossflow.files.names import shown
from crossflow.files.resizing import covering
from crossflow.files.stand_ins import refuse_stand_in
from crossflow.files.writing import write_whole

FRAME = 125
"""How long a frame is shown, in milliseconds; GIF counts in tens of them, and takes 120."""
SCALE = 8
"""Pixels a side of each pixel in a GIF or an MP4."""
LARGEST = 64 << 20
"""The largest file that is read, in bytes."""
MOST = 1 << 26
MOST_FRAMES = 1 << 10
"""The most pixels that are read of a film, all frames together, and the most frames."""


def read_video(path: Path, *, frames: int, size: int) -> UInt8[ndarray, "frames size size 3"]:
    """The film in a WebP, GIF, MP4 or AVI file, by its suffix, of so many ``frames`` of ``size`` pixels a side.

    Larger squares by a whole factor become ``size`` by the mean of factor x factor pixels, rounded, all others by
    ``resizing.covering``. CrossFlowError for a file that is missing or damaged, a still, and another number of frames.
    """
    filters = f"fps={1000 // FRAME},tpad=stop=-1:stop_mode=clone"
    wanted = f"{frames} frames, made of any film by `ffmpeg -i IN -vf {filters} -frames:v {frames} OUT.mp4`"
    return _read(path, lambda film: _fitted(film, frames, size), wanted)


def read_film(path: Path) -> UInt8[ndarray, "frames h w 3"]:
    """The film in a WebP, GIF, MP4 or AVI file, by its suffix, as it is.

    CrossFlowError for a file that is missing or damaged, and a still.
    """
    return _read(path, lambda film: film, "a whole film")


def write_video(path: Path, video: UInt8[ndarray, "frames h w 3"]) -> None:
    """Write a film as WebP, GIF or MP4, by the suffix, whole or not at all. CrossFlowError for another suffix."""
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        raise unknown("kind of film", suffix, WRITERS)
    write_whole(path, WRITERS[suffix](video))


def encode_webp(video: UInt8[ndarray, "frames h w 3"]) -> bytes:
    """An animated WebP file, without loss: ``decode_webp`` gives back the same film."""
    height, width = video.shape[1:3]
    size = _u24(width - 1) + _u24(height - 1)
    body = _chunk(b"VP8X", struct.pack("<I", 2) + size) + _chunk(b"ANIM", bytes(6))
    for frame in video:
        body += _chunk(b"ANMF", bytes(6) + size + _u24(FRAME) + b"\x02" + _still_webp(frame)[12:])
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def decode_webp(content: bytes) -> UInt8[ndarray, "frames h w 3"]:
    """The frames of an animated WebP file as they are stored; ValueError for anything else, and for a still."""
    return _animation(content, "WEBP")


def encode_gif(video: UInt8[ndarray, "frames h w 3"]) -> bytes:
    """An animated GIF file for people, SCALE times as large; 256 colours a frame are kept."""
    first, *others = (Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE) for frame in _enlarged(video))
    stream = io.BytesIO()
    first.save(stream, "GIF", save_all=True, append_images=others, duration=FRAME - FRAME % 10, loop=0)
    return stream.getvalue()


def decode_gif(content: bytes) -> UInt8[ndarray, "frames h w 3"]:
    """The frames of an animated GIF file, one that is shown for n times 1/8 s as n; ValueError for anything else."""
    return _animation(content, "GIF")


def encode_mp4(video: UInt8[ndarray, "frames h w 3"]) -> bytes:
    """An MP4 file (H.264) for people, SCALE times as large, nearly without loss. CrossFlowError without PyAV."""
    av = _av()
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as file:
        track = file.add_stream("libx264", rate=1000 // FRAME, options={"crf": "10", "threads": "1"})
        large = _enlarged(video)
        track.height, track.width = large.shape[1:3]
        track.pix_fmt = "yuv420p"
        for frame in large:
            file.mux(track.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(track.encode())
    return stream.getvalue()


def decode_mp4(content: bytes) -> UInt8[ndarray, "frames h w 3"]:
    """The frames of the film in an MP4 file; ValueError for anything else, CrossFlowError without PyAV."""
    return _by_av(content, "mp4")


def decode_avi(content: bytes) -> UInt8[ndarray, "frames h w 3"]:
    """The frames of the film in an AVI file; ValueError for anything else, CrossFlowError without PyAV."""
    return _by_av(content, "avi")


def _by_av(content: bytes, kind: str) -> np.ndarray:
    av = _av()
    try:
        with av.open(io.BytesIO(content), format=kind) as file:
            if not file.streams.video:
                raise ValueError("it has no pictures")
            track = file.streams.video[0]
            room = _Room(track.height, track.width)
            found = [each for frame in file.decode(track) for each in room.taken(frame.to_ndarray(format="rgb24"))]
    except av.FFmpegError as error:
        raise ValueError(f"it is no whole {kind.upper()} file ({error.strerror})") from error
    return _film(found)


READERS: Mapping[str, Callable[[bytes], np.ndarray]] = {
    ".webp": decode_webp,
    ".gif": decode_gif,
    ".mp4": decode_mp4,
    ".avi": decode_avi,
}
WRITERS: Mapping[str, Callable[[np.ndarray], bytes]] = {".webp": encode_webp, ".gif": encode_gif, ".mp4": encode_mp4}
"""By suffix."""


def _read(path: Path, fitted: Callable[[np.ndarray], np.ndarray], wanted: str) -> np.ndarray:
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise unknown("kind of film", suffix, READERS)
    refuse_stand_in(path)
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST >> 20} MiB")
        return fitted(READERS[suffix](path.read_bytes()))
    except OSError as error:
        raise CrossFlowError(f"The film {shown(path)} cannot be read ({error.strerror}): give a film.") from error
    except ValueError as error:
        raise CrossFlowError(f"The film {shown(path)} is not used: {error}; give {wanted}.") from error


class _Room:
    """Room for a film of frames [height width]; ValueError where it does not suffice, before a frame is decoded."""

    def __init__(self, height: int, width: int) -> None:
        self._shape = (height, width, 3)
        self._left = min(MOST // max(height * width, 1), MOST_FRAMES)
        self._take(0 if self._left else 1)

    def taken(self, frame: np.ndarray, times: int = 1) -> list[np.ndarray]:
        """So many times the frame, which must be of this size."""
        if frame.shape != self._shape:
            raise ValueError("its frames are of different sizes")
        self._take(times)
        return [frame] * times

    def _take(self, times: int) -> None:
        self._left -= times
        if self._left < 0:
            raise ValueError(f"it has more than {MOST_FRAMES:,} frames or {MOST:,} pixels, the most that are read")


def _animation(content: bytes, kind: str) -> np.ndarray:
    """The frames of an animation of one of Pillow's formats; in a GIF one stands for as many as it is shown for."""
    if not content:
        raise ValueError("it has zero bytes")
    found: list[np.ndarray] = []
    try:
        with Image.open(io.BytesIO(content), formats=(kind,)) as image:
            room = _Room(image.height, image.width)
            for frame in ImageSequence.Iterator(image):
                times = max(1, round(frame.info.get("duration", 0) / FRAME)) if kind == "GIF" else 1
                found += room.taken(np.asarray(opaque(frame)), times)
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"it is no {kind} file") from error
    except UnreadableImage as error:
        raise ValueError(f"it has {error}") from error
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"it is no whole {kind} file ({why_unreadable(error)})") from error
    return _film(found)


def _film(frames: Sequence[np.ndarray]) -> np.ndarray:
    if len(frames) < 2:
        raise ValueError(f"it is a still: it has {len(frames)} frame{'s' * (not frames)}")
    return np.stack(frames)


def _fitted(video: np.ndarray, frames: int, size: int) -> np.ndarray:
    """A film of so many frames, each of this size."""
    count, height, width, _ = video.shape
    if count != frames:
        raise ValueError(f"it has {count} frames")
    if height != width or height % size:
        return np.stack([covering(frame, (size, size)) for frame in video])
    squares = video.reshape(frames, size, height // size, size, width // size, 3)
    return np.rint(squares.mean(axis=(2, 4))).astype(np.uint8)


def _enlarged(video: np.ndarray) -> np.ndarray:
    return video.repeat(SCALE, axis=1).repeat(SCALE, axis=2)


def _still_webp(frame: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "WEBP", lossless=True, quality=0)  # the effort: 1 % larger, 30 times as fast
    return stream.getvalue()


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def _u24(number: int) -> bytes:
    return number.to_bytes(3, "little")


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise CrossFlowError('MP4 needs the package PyAV: pip install "crossflow[media]", or take WebP.') from error
    return av
