"""The kinds of output: as what a model must give one, how it is kept in a file, and how it is shown.

``KINDS`` is the one table of them. Another package adds its own by an entry, such as ``KINDS["json"] = Kind(...)`` in
the module of the suite that asks for it.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from crossflow.errors import CrossFlowError, unknown
from crossflow.files.arrays import plain_array
from crossflow.files.images import decode_image

NEAREST, FARTHEST = 1.0, 80.0
"""Metres at the two ends of the colours of depth, which go by its logarithm; all beyond has the color of the end."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of output.

    ``encode`` and ``decode`` are each other's inverse, without loss; what ``decode`` raises of a damaged file is an
    UnreadableImage, OSError, ValueError or EOFError. ``check`` says whether something is of the kind, which is
    ``wanted`` in words. ``picture`` gives a uint8 image [h w 3] of an output, of at most so many pixels a side; one in
    ``metres``, the ends of its colours, is shown only where a run's outputs are in metres.
    """

    wanted: str
    check: Callable[[Any], bool]
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    picture: Callable[[Any, int], np.ndarray] | None = None
    metres: tuple[float, float] | None = None


def kind_of(name: str) -> Kind:
    """The kind of the file called ``name``, by its suffix. CrossFlowError where there is none."""
    suffix = name.rpartition(".")[2]
    if suffix not in KINDS:
        raise unknown("kind of output", suffix, KINDS)
    return KINDS[suffix]


def check_kind(model: str, output: Any, suffix: str) -> None:
    """Raise CrossFlowError if ``output``, which ``model`` gave, is not of the kind that ``suffix`` names."""
    kind = kind_of(suffix)
    if not kind.check(output):
        got = f"{output.dtype} {list(output.shape)}" if isinstance(output, np.ndarray) else type(output).__name__
        raise CrossFlowError(f"The model {model} gave {got} where the suite needs {kind.wanted}.")


def depth_colors(depth: np.ndarray) -> np.ndarray:
    """Depth in metres, float [h w], as uint8 [h w 3]: light is near, dark is far, the same colours for every map."""
    from matplotlib import colormaps

    far = np.log(depth.clip(NEAREST, FARTHEST) / NEAREST) / np.log(FARTHEST / NEAREST)
    return colormaps["magma"](1.0 - far, bytes=True)[..., :3]


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


KINDS: dict[str, Kind] = {
    "png": Kind(
        wanted="a uint8 array [h w 3]",
        check=_is_image,
        encode=_encode_image,
        decode=_decode_image,
        picture=_small_image,
    ),
    "npy": Kind(
        wanted="a float32 array [h w]",
        check=lambda output: isinstance(output, np.ndarray) and output.dtype == np.float32 and output.ndim == 2,
        encode=_encode_array,
        decode=plain_array,
        picture=_small_depth,
        metres=(NEAREST, FARTHEST),
    ),
    "txt": Kind(
        wanted="a str",
        check=lambda output: isinstance(output, str),
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
}
"""By the suffix of the file: images, depth maps, captions, token embeddings."""
