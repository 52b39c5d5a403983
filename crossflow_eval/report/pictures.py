"""Pictures for a page: outputs and what they stand beside, as the bytes of small PNG files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from crossflow.errors import CrossFlowError

THUMBNAIL = 192
"""The longest side of a picture in a page, in pixels; smaller outputs are shown as they are."""
NEAREST, FARTHEST = 1.0, 80.0
"""Metres at the two ends of the colours of depth, which go by its logarithm; all beyond has the color of the end."""


def thumbnail(path: Path, *, metres: bool = False) -> bytes | None:
    """The PNG bytes of an output, at most THUMBNAIL pixels a side; None where it is no picture.

    A depth map is one where it is in ``metres``. Raises CrossFlowError for a file that cannot be read.
    """
    if path.suffix != ".png" and not (path.suffix == ".npy" and metres):
        return None
    try:
        if path.suffix == ".npy":
            depth = np.load(path, allow_pickle=False)
            step = -(-max(depth.shape) // THUMBNAIL)
            return picture(depth[::step, ::step])
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            if max(image.size) <= THUMBNAIL:
                return content
            small = image.convert("RGB")
        small.thumbnail((THUMBNAIL, THUMBNAIL))
    except (OSError, ValueError, EOFError) as error:
        raise CrossFlowError(f"{path} cannot be read as a picture; generate it again: {error}") from error
    return _png(small)


def picture(array: np.ndarray) -> bytes:
    """The PNG bytes of an image, uint8 [h w 3], or of depth in metres, float [h w], in colours."""
    return _png(Image.fromarray(array if array.ndim == 3 else depth_colors(array)))


def depth_colors(depth: np.ndarray) -> np.ndarray:
    """Depth in metres, float [h w], as uint8 [h w 3]: light is near, dark is far, the same colours for every map."""
    from matplotlib import colormaps

    far = np.log(depth.clip(NEAREST, FARTHEST) / NEAREST) / np.log(FARTHEST / NEAREST)
    return colormaps["magma"](1.0 - far, bytes=True)[..., :3]


def depth_scale(width: int = 128) -> bytes:
    """The PNG bytes of the colours of depth, from near to far."""
    return picture(np.geomspace(NEAREST, FARTHEST, width)[None])


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return stream.getvalue()
