"""How images and depth maps are cut and resized, where training and evaluation must do it alike."""

import cv2
import numpy as np
from PIL import Image

from crossflow.errors import CrossFlowError

BENCHMARK = (352, 1216)
"""Height and width of KITTI's benchmark crop: the bottom rows and the middle columns of an image."""


def benchmark_corner(height: int, width: int) -> tuple[int, int]:
    """Top and left of KITTI's benchmark crop in an image. Raises CrossFlowError for an image that is smaller."""
    top, left = height - BENCHMARK[0], (width - BENCHMARK[1]) // 2
    if top < 0 or left < 0:
        raise CrossFlowError(f"the target is {height} x {width} px, too small for KITTI's benchmark crop {BENCHMARK}.")
    return top, left


def covering(values: np.ndarray, size: tuple[int, int], place: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    """A part of ``size`` (h, w) of an image [h w 3] or a depth map [h w], which is resized to just cover that size.

    Images are resized by Pillow's bicubic filter, with antialiasing, depth maps to the nearest pixel; of the right size
    they are left as they are. ``place`` is where the part lies in what is left over, 0 for top or left and 1 for
    bottom or right; the default is the centre.
    """
    (height, width), (high, wide) = values.shape[:2], size
    ratio = max(high / height, wide / width)
    if ratio != 1:
        resampling = Image.Resampling.NEAREST if values.ndim == 2 else Image.Resampling.BICUBIC
        sides = (max(wide, round(width * ratio)), max(high, round(height * ratio)))
        values = np.array(Image.fromarray(values).resize(sides, resampling))
    return cut(values, size, place)


def cut(values: np.ndarray, size: tuple[int, int], place: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    """A part of ``size`` (h, w) as it is; CrossFlowError for an image that is smaller."""
    (height, width), (high, wide) = values.shape[:2], size
    if height < high or width < wide:
        raise CrossFlowError(
            f"an image is {height} x {width} pixels, smaller than the {high} x {wide} to be cut of it."
        )
    top, left = int(place[0] * (height - high) + 0.5), int(place[1] * (width - wide) + 0.5)
    return np.ascontiguousarray(values[top : top + high, left : left + wide])


def shrunk_pair(image: np.ndarray, high: int, low: int) -> tuple[np.ndarray, np.ndarray]:
    """Source [low low 3] and target [high high 3] of super-resolution, uint8 RGB, by SR3's recipe (2021).

    The largest square in the middle is shrunk to ``high`` pixels a side by averaging areas, and that to ``low`` by
    Pillow's bicubic filter, with antialiasing. The shorter side of the image is at least ``high`` pixels.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(image[top : top + side, left : left + side])
    target = cv2.resize(square, (high, high), interpolation=cv2.INTER_AREA)
    return np.asarray(Image.fromarray(target).resize((low, low), Image.Resampling.BICUBIC)), target
