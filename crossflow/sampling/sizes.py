"""How a model that was trained at one size works on images of any other: by overlapping tiles of its own size."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from crossflow.files.resizing import covering

TILES = "tiles of the size trained on, overlapping by half or more, averaged by weights that fall towards their edges"
RULES = {
    "text": "the middle of an image that was resized to just cover the size trained on",
    "depth": f"{TILES}; an image that is smaller, or over twice as large, is first resized to just cover a tile",
    "image": f"{TILES}; edges repeated where an image is smaller",
}
"""What is made of an image of another size, by what a model gives, as it stands in the settings of a run."""
SHRUNK = (
    "the originals, shrunk as often as the model enlarges: bicubic with antialiasing (Pillow), edges repeated to fit"
)
"""Where small images come from that a suite has originals alone of."""
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

    An image that is smaller than a tile, or with ``resize`` over twice as large, does not fit: with ``resize`` it is
    resized to just cover a tile, and its output back, bilinearly; without, its right and lower edges are repeated. An
    image of the right size is one tile, and its output the model's. The tiles of an image have its seed. Outputs are as
    much larger than their image as the model's are than its own.
    """
    fitted = [_resized(image, size) if resize else _filled(image, size) for image in images]
    tiles = [_tiles(image, size) for image in fitted]
    parts = [tile.pixels for each in tiles for tile in each]
    outputs = iter(generate(parts, [seed for each, seed in zip(tiles, seeds, strict=True) for _ in each]))
    made: list[np.ndarray] = []
    for image, whole, each in zip(images, fitted, tiles, strict=True):
        joined, factor = _joined(whole.shape[:2], each, [next(outputs) for _ in each])
        height, width = (side * factor for side in image.shape[:2])
        if joined.shape[:2] == (height, width):
            made.append(joined)
        elif resize:
            made.append(np.array(Image.fromarray(joined).resize((width, height), Image.Resampling.BILINEAR)))
        else:
            made.append(joined[:height, :width])
    return made


def shrunk(image: np.ndarray, factor: int) -> np.ndarray:
    """An image, uint8 RGB [h w 3], by ``SHRUNK`` ``factor`` times smaller: [ceil(h / factor) ceil(w / factor) 3]."""
    height, width = (-(-side // factor) for side in image.shape[:2])
    filled = Image.fromarray(_filled(image, (height * factor, width * factor)))
    return np.asarray(filled.resize((width, height), Image.Resampling.BICUBIC))


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image as it is, or just covering a tile."""
    ratios = [side / own for side, own in zip(image.shape[:2], size, strict=True)]
    if min(ratios) >= 1 and max(ratios) <= 2:
        return image
    whole = tuple(max(own, round(side / min(ratios))) for side, own in zip(image.shape[:2], size, strict=True))
    return covering(image, (whole[0], whole[1]))


def _filled(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image as it is, or with its right and lower edge repeated up to a size."""
    more = [(0, max(0, wanted - side)) for wanted, side in zip(size, image.shape[:2], strict=True)]
    return np.pad(image, (*more, (0, 0)), mode="edge") if any(after for _, after in more) else image


def _tiles(image: np.ndarray, size: tuple[int, int]) -> list[Tile]:
    (height, width), (high, wide) = image.shape[:2], size
    places = [(top, left) for top in _starts(height, high) for left in _starts(width, wide)]
    return [Tile(top, left, image[top : top + high, left : left + wide]) for top, left in places]


def _starts(length: int, part: int) -> list[int]:
    """Where the fewest parts begin that cover a length evenly, each a half of a part or less after the one before."""
    steps = -(-(length - part) // max(1, part // 2))
    return [round(place * (length - part) / max(1, steps)) for place in range(steps + 1)]


def _joined(size: tuple[int, ...], tiles: Sequence[Tile], outputs: Sequence[np.ndarray]) -> tuple[np.ndarray, int]:
    """The outputs of the tiles of an image of ``size`` as one, and how much larger than that it is."""
    factor = outputs[0].shape[0] // tiles[0].pixels.shape[0]
    if len(tiles) == 1:
        return outputs[0], factor
    high, wide, *channels = outputs[0].shape
    total = np.zeros((size[0] * factor, size[1] * factor, *channels))
    weights = np.zeros_like(total)
    weight = np.multiply.outer(_ramp(high), _ramp(wide)).reshape(high, wide, *(1 for _ in channels))
    for tile, output in zip(tiles, outputs, strict=True):
        top, left = tile.top * factor, tile.left * factor
        total[top : top + high, left : left + wide] += weight * output
        weights[top : top + high, left : left + wide] += weight
    return _of_type(total / weights, outputs[0].dtype), factor


def _ramp(length: int) -> np.ndarray:
    """From 1 at the ends to the most in the middle."""
    places = np.arange(length)
    return np.minimum(places + 1, length - places).astype(np.float64)


def _of_type(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return np.rint(values).astype(dtype) if np.issubdtype(dtype, np.integer) else values.astype(dtype)
