"""How a model that was trained at one size works on images of any other: by overlapping tiles of its own size."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from crossflow.files.resizing import covering

TILES = "tiles of the size trained on, overlapping, averaged by weights that fall towards their edges"
"""What ``tiled`` does, as it stands in the settings of a run."""
RESIZED = "; an image that is smaller, or over twice as large, is first resized to just cover a tile"
"""What it does besides with ``resize``."""
Parts = Callable[[Sequence[np.ndarray], Sequence[int]], list[np.ndarray]]
"""Images of a model's size, and a seed each -> outputs, float32 [h w] or uint8 [h w 3]."""


class Tile(NamedTuple):
    """Where a tile of an image lies, and its pixels."""

    top: int
    left: int
    pixels: np.ndarray


def tiled(
    generate: Parts, images: Sequence[np.ndarray], seeds: Sequence[int], size: tuple[int, int], resize: bool
) -> list[np.ndarray]:
    """The outputs for uint8 images [h w 3] of any size, of a model for images of ``size`` (h, w), by ``TILES``.

    With ``resize`` also by ``RESIZED``, and outputs are resized back, bilinearly; without it an image is at least as
    large as a tile. An image of the right size is one tile, and its output the model's. The tiles of an image have its
    seed. Outputs are as much larger than their image as the model's are than its own.
    """
    covering_ones = [_resized(image, size) if resize else image for image in images]
    tiles = [_tiles(image, size) for image in covering_ones]
    parts = [tile.pixels for each in tiles for tile in each]
    outputs = iter(generate(parts, [seed for each, seed in zip(tiles, seeds, strict=True) for _ in each]))
    return [
        _joined(image.shape[:2], made_of.shape[:2], each, [next(outputs) for _ in each])
        for image, made_of, each in zip(images, covering_ones, tiles, strict=True)
    ]


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image as it is, or just covering a tile."""
    ratios = [side / own for side, own in zip(image.shape[:2], size, strict=True)]
    if min(ratios) >= 1 and max(ratios) <= 2:
        return image
    whole = tuple(max(own, round(side / min(ratios))) for side, own in zip(image.shape[:2], size, strict=True))
    return covering(image, (whole[0], whole[1]))


def _tiles(image: np.ndarray, size: tuple[int, int]) -> list[Tile]:
    (height, width), (high, wide) = image.shape[:2], size
    places = [(top, left) for top in _starts(height, high) for left in _starts(width, wide)]
    return [Tile(top, left, image[top : top + high, left : left + wide]) for top, left in places]


def _starts(length: int, part: int) -> list[int]:
    """Where the fewest parts begin that cover a length, evenly."""
    count = math.ceil(length / part)
    return [round(place * (length - part) / max(1, count - 1)) for place in range(count)]


def _joined(
    size: tuple[int, ...], covered: tuple[int, ...], tiles: Sequence[Tile], outputs: Sequence[np.ndarray]
) -> np.ndarray:
    """The outputs of an image's tiles, which fill ``covered``, as one of its own ``size`` times the model's factor."""
    factor = outputs[0].shape[0] // tiles[0].pixels.shape[0]
    whole = outputs[0]
    if len(tiles) > 1:
        high, wide, *channels = outputs[0].shape
        total = np.zeros((covered[0] * factor, covered[1] * factor, *channels))
        weights = np.zeros_like(total)
        weight = np.multiply.outer(_ramp(high), _ramp(wide)).reshape(high, wide, *(1 for _ in channels))
        for tile, output in zip(tiles, outputs, strict=True):
            top, left = tile.top * factor, tile.left * factor
            total[top : top + high, left : left + wide] += weight * output
            weights[top : top + high, left : left + wide] += weight
        whole = _of_type(total / weights, outputs[0].dtype)
    height, width = (side * factor for side in size)
    if whole.shape[:2] == (height, width):
        return whole
    return np.array(Image.fromarray(whole).resize((width, height), Image.Resampling.BILINEAR))


def _ramp(length: int) -> np.ndarray:
    """From 1 at the ends to the most in the middle."""
    places = np.arange(length)
    return np.minimum(places + 1, length - places).astype(np.float64)


def _of_type(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return np.rint(values).astype(dtype) if np.issubdtype(dtype, np.integer) else values.astype(dtype)
