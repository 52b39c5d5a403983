"""Pictures for a page: outputs and what they stand beside, as the bytes of small PNG or WebP files; sounds as WAV."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from crossflow.errors import CrossFlowError
from crossflow.files.images import UnreadableImage
from crossflow_eval.outputs import KINDS, Kind, depth_colors, find_kind
from crossflow_eval.types import Output

THUMBNAIL = 192
"""The longest side of a picture in a page, in pixels; smaller outputs are shown as they are."""
SMALLER = ((128, 75), (96, 70), (64, 60), (48, 40))
"""What a picture that is larger than its share of a page becomes: the longest side, and WebP's quality."""


class Pictures:
    """Pictures inside a page, each once; all of them together take ``room`` bytes where ``count`` are expected.

    What is played has ``more`` bytes beside, first come, first served.
    """

    def __init__(self, room: int, count: int, more: int = 0) -> None:
        self._share = room // max(count, 1)
        self._more = more
        self._places: dict[bytes, int] = {}
        self.addresses: list[str] = []

    def add(self, content: bytes) -> int:
        """The place of a picture among the ``addresses``, data URLs."""
        if content not in self._places:
            self._places[content] = len(self.addresses)
            self.addresses.append(address(_within(content, self._share)))
        return self._places[content]

    def add_played(self, parts: Callable[[], Mapping[str, bytes]]) -> dict[str, int]:
        """The places of what is played, as it is, by part; none of it, nor of what comes later, once it has no room."""
        made = parts() if self._more > 0 else {}
        self._more -= sum(len(content) for content in made.values() if content not in self._places)
        if self._more < 0:
            return {}
        for content in made.values():
            if content not in self._places:
                self._places[content] = len(self.addresses)
                self.addresses.append(address(content))
        return {part: self._places[content] for part, content in made.items()}


def media_type(content: bytes) -> str:
    """What the bytes of a PNG, WebP or WAV file are called."""
    if content.startswith(b"\x89PNG"):
        return "image/png"
    return "audio/wav" if content[8:12] == b"WAVE" else "image/webp"


def address(content: bytes) -> str:
    """The data URL of a PNG, WebP or WAV file."""
    return f"data:{media_type(content)};base64,{base64.b64encode(content).decode()}"


def thumbnail(path: Path, *, metres: bool = False) -> bytes | None:
    """The bytes of a picture of an output, at most THUMBNAIL pixels a side; None where it is no picture.

    A kind whose colours stand for metres is one where outputs are in ``metres``. Raises CrossFlowError for a file that
    cannot be read.
    """
    kind = find_kind(path.name)
    if kind is None or kind.picture is None or (kind.metres is not None and not metres):
        return None
    content, output = _read(path, kind)
    shown = kind.picture(output, THUMBNAIL)
    return content if path.suffix == ".png" and shown is output else _encoded(shown)


def played(path: Path) -> dict[str, bytes]:
    """What a page plays of an output: a ``sound`` as a WAV file, a ``film`` as an animated WebP file, or nothing.

    Raises CrossFlowError for a file that cannot be read.
    """
    kind = find_kind(path.name)
    if kind is None or kind.play is None:
        return {}
    content = kind.play(_read(path, kind)[1])
    return {"sound" if media_type(content).startswith("audio") else "film": content}


def _read(path: Path, kind: Kind) -> tuple[bytes, Output]:
    try:
        content = path.read_bytes()
        return content, kind.decode(content)
    except (OSError, ValueError, EOFError, UnreadableImage) as error:
        raise CrossFlowError(f"{path} cannot be read as a picture; generate it again: {error}") from error


def picture(output: Output, suffix: str | None = None) -> bytes | None:
    """The bytes of a picture of an output, of the kind of ``suffix`` or of whichever it is; depth is in metres."""
    for kind in KINDS.values() if suffix is None else (KINDS[suffix],):
        if kind.picture is not None and kind.check(output):
            return _encoded(kind.picture(output, THUMBNAIL))
    return None


def scale(metres: tuple[float, float], width: int = 128) -> bytes:
    """The PNG bytes of the colours of depth, from near to far."""
    return _encoded(depth_colors(np.geomspace(*metres, width)[None]))


def _encoded(image: np.ndarray) -> bytes:
    """Small pictures, whose every pixel is looked at, without loss; large ones with little."""
    stream = io.BytesIO()
    if max(image.shape) < THUMBNAIL:
        Image.fromarray(image).save(stream, format="PNG", optimize=True)
    else:
        Image.fromarray(image).save(stream, format="WEBP", quality=85, method=2)
    return stream.getvalue()


def _within(content: bytes, share: int) -> bytes:
    """The picture in at most ``share`` bytes, or as small as they become."""
    if len(content) <= share:
        return content
    with Image.open(io.BytesIO(content)) as opened:
        image = opened.convert("RGB")
    for side, quality in SMALLER:
        stream = io.BytesIO()
        image.thumbnail((side, side))
        image.save(stream, format="WEBP", quality=quality, method=2)
        content = min(content, stream.getvalue(), key=len)
        if len(content) <= share:
            break
    return content
