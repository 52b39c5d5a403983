"""Pictures for a page: outputs and what they stand beside, as the bytes of small PNG files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from crossflow.errors import CrossFlowError
from crossflow.files.images import UnreadableImage
from crossflow_eval.outputs import KINDS, depth_colors
from crossflow_eval.types import Output

THUMBNAIL = 192
"""The longest side of a picture in a page, in pixels; smaller outputs are shown as they are."""


def thumbnail(path: Path, *, metres: bool = False) -> bytes | None:
    """The PNG bytes of an output, at most THUMBNAIL pixels a side; None where it is no picture.

    A kind whose colours stand for metres is one where outputs are in ``metres``. Raises CrossFlowError for a file that
    cannot be read.
    """
    kind = KINDS.get(path.suffix.removeprefix("."))
    if kind is None or kind.picture is None or (kind.metres is not None and not metres):
        return None
    try:
        content = path.read_bytes()
        output = kind.decode(content)
        shown = kind.picture(output, THUMBNAIL)
    except (OSError, ValueError, EOFError, UnreadableImage) as error:
        raise CrossFlowError(f"{path} cannot be read as a picture; generate it again: {error}") from error
    return content if path.suffix == ".png" and shown is output else _png(shown)


def picture(output: Output) -> bytes | None:
    """The PNG bytes of an output, of whichever kind it is, or of a source or target; depth is in metres."""
    for kind in KINDS.values():
        if kind.picture is not None and kind.check(output):
            return _png(kind.picture(output, THUMBNAIL))
    return None


def scale(metres: tuple[float, float], width: int = 128) -> bytes:
    """The PNG bytes of the colours of depth, from near to far."""
    return _png(depth_colors(np.geomspace(*metres, width)[None]))


def _png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG", optimize=True)
    return stream.getvalue()
