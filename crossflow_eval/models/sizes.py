"""Images of any size for a model that reads one size: resized or tiled, by rules whose words stand in the settings.

Captions and depth are of a whole image, so it is resized. A larger image is made of its parts, so it is tiled. An image
of the model's own size goes through both as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
from PIL import Image

Size = tuple[int, int]
"""Height and width."""

RULES: Mapping[str, str] = {
    "caption": "images resized to {h} x {w}, bicubic with antialiasing (Pillow)",
    "depth": "images resized to {h} x {w}, bicubic with antialiasing (Pillow); depth back to their size, bilinear",
    "sr": "tiles of {h} x {w} that overlap by half or more, averaged by distance to their edges; edges repeated where "
    "an image is smaller",
}
"""What is done to images of other sizes, by task."""
SHRUNK = (
    "the originals, shrunk as often as the model enlarges: bicubic with antialiasing (Pillow), edges repeated to fit"
)
"""Where small images come from that a suite has originals alone of."""


def resized(image: np.ndarray, size: Size) -> np.ndarray:
    """An image, uint8 RGB [h w 3], of another size."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def depth_resized(depth: np.ndarray, size: Size) -> np.ndarray:
    """A depth map, float32 [h w], of another size."""
    if depth.shape == size:
        return depth
    return cv2.resize(depth, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def shrunk(image: np.ndarray, factor: int) -> np.ndarray:
    """An image, uint8 RGB [h w 3], ``factor`` times smaller, rounded up: [ceil(h / factor) ceil(w / factor) 3]."""
    height, width = (-(-side // factor) for side in image.shape[:2])
    return resized(_filled(image, (height * factor, width * factor)), (height, width))


def tiled(image: np.ndarray, size: Size, enlarge: Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]) -> np.ndarray:
    """An image, uint8 RGB [h w 3], enlarged in tiles of ``size``: uint8 [f h f w 3] for a model that enlarges f times.

    ``enlarge`` gives of images of ``size`` those f times as large.
    """
    height, width = image.shape[:2]
    whole = _filled(image, (max(height, size[0]), max(width, size[1])))
    places = [(y, x) for y in _starts(whole.shape[0], size[0]) for x in _starts(whole.shape[1], size[1])]
    made = enlarge([whole[y : y + size[0], x : x + size[1]] for y, x in places])
    factor = made[0].shape[0] // size[0]
    sums = np.zeros((whole.shape[0] * factor, whole.shape[1] * factor, 3))
    weights = np.zeros((*sums.shape[:2], 1))
    weight = np.minimum(*np.ix_(*(_to_the_edge(side * factor) for side in size)))[..., None]
    for (y, x), tile in zip(places, made, strict=True):
        inside = np.s_[y * factor : (y + size[0]) * factor, x * factor : (x + size[1]) * factor]
        sums[inside] += weight * tile
        weights[inside] += weight
    return (sums / weights).round().astype(np.uint8)[: height * factor, : width * factor]


def _starts(length: int, size: int) -> list[int]:
    """Where tiles begin so that they cover a length, each a half of the ``size`` or less after the one before."""
    steps = -(-(length - size) // max(size // 2, 1))
    return [round(number * (length - size) / max(steps, 1)) for number in range(steps + 1)]


def _to_the_edge(length: int) -> np.ndarray:
    """How far every pixel of a line is from the nearer end, from 1."""
    places = np.arange(1.0, length + 1)
    return np.minimum(places, places[::-1])


def _filled(image: np.ndarray, size: Size) -> np.ndarray:
    """An image with its right and lower edge repeated up to a size."""
    more = [(0, wanted - side) for wanted, side in zip(size, image.shape[:2], strict=True)]
    return np.pad(image, (*more, (0, 0)), mode="edge") if any(after for _, after in more) else image
