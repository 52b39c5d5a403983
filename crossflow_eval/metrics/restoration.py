"""PSNR and SSIM of restored images against their originals, float64, each definition under its own name.

Images are uint8 RGB on the 0-255 scale. The suffix ``_rgb`` is over the three channels; ``_y`` is on the luma of ITU-R
BT.601 in studio swing, Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255, not rounded. A suite's value is the mean of
its images' values (of dB, not dB of the mean error).

    psnr          10 log10(255^2 / mean squared error), over all pixels
    ssim          the mean of SSIM's map where the whole window lies inside the image
    ssim_padded   the mean of the whole map, the image mirrored at its borders

The map is that of Z. Wang et al., 2004: a Gaussian window of sigma 1.5 over 11 x 11 pixels, K1 = 0.01, K2 = 0.03,
population variances. ``ssim`` is the number of the original MATLAB script, of tf.image.ssim, and of scikit-image with
``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``; ``ssim_padded`` is that of torchmetrics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from crossflow.errors import CrossFlowError
from crossflow_eval.datasets.folder import read_image
from crossflow_eval.stats import BOOTSTRAP, bootstrap_mean
from crossflow_eval.types import Example, Output, Row, Value

RANGE = 255.0
RADIUS = 5
"""Pixels from the middle of SSIM's window to its edge."""
_C1, _C2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
_WINDOW = np.exp(-((np.arange(-RADIUS, RADIUS + 1) / 1.5) ** 2) / 2)
_WINDOW /= _WINDOW.sum()
_LUMA = np.array([65.481, 128.553, 24.966]) / RANGE


def luma(image: np.ndarray) -> np.ndarray:
    """Y of BT.601 in studio swing (16 to 235), float64 [h w], of RGB [h w 3] on the 0-255 scale."""
    return 16 + image @ _LUMA


def psnr(image: np.ndarray, original: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two arrays on the 0-255 scale; infinite where they are equal.

    Raises CrossFlowError for two shapes.
    """
    _check_shapes(image, original, at_least=1)
    difference = (image.astype(np.float64) - original).ravel()
    error = float(difference @ difference) / difference.size
    return 10 * math.log10(RANGE**2 / error) if error else math.inf


def _ssim_map(image: np.ndarray, original: np.ndarray) -> np.ndarray:
    """SSIM at every pixel of one channel, float64 [h w] in and out, mirrored at the borders.

    Sum s and difference d of the two need four filters where the two themselves need five:
    2 m1 m2 = (m_s^2 - m_d^2) / 2 and m1^2 + m2^2 = (m_s^2 + m_d^2) / 2, and so for the variances.
    """
    total, difference = image + original, image - original
    mean_total, mean_difference = _blur(total) ** 2, _blur(difference) ** 2
    variance_total = _blur(np.square(total, out=total)) - mean_total  # in place: new memory costs as much as a filter
    variance_difference = _blur(np.square(difference, out=difference)) - mean_difference
    mean_total += 2 * _C1
    variance_total += 2 * _C2
    similarity = (mean_total - mean_difference) * (variance_total - variance_difference)
    mean_total += mean_difference
    variance_total += variance_difference
    similarity /= mean_total * variance_total
    return similarity


def _blur(channel: np.ndarray) -> np.ndarray:
    return cv2.sepFilter2D(channel, -1, _WINDOW, _WINDOW, borderType=cv2.BORDER_REFLECT_101)


def ssim(image: np.ndarray, original: np.ndarray, *, padded: bool = False) -> float:
    """Structural similarity of two arrays [h w] or [h w c] on the 0-255 scale, the mean over channels.

    ``padded`` False is ``ssim`` of the module's list, True is ``ssim_padded``. Needs at least 11 x 11 pixels and one
    shape, else CrossFlowError.
    """
    return _both_ssim(image, original)[padded]


def _both_ssim(image: np.ndarray, original: np.ndarray) -> tuple[float, float]:
    """Over the inside, and over the whole mirrored map."""
    _check_shapes(image, original, at_least=2 * RADIUS + 1)
    channels = (np.atleast_3d(array).transpose(2, 0, 1).astype(np.float64, order="C") for array in (image, original))
    maps = [_ssim_map(*pair) for pair in zip(*channels, strict=True)]
    inside, whole = np.array([[each[RADIUS:-RADIUS, RADIUS:-RADIUS].mean(), each.mean()] for each in maps]).mean(axis=0)
    return float(inside), float(whole)


def _check_shapes(image: np.ndarray, original: np.ndarray, at_least: int) -> None:
    if image.shape != original.shape or min(image.shape[:2]) < at_least:
        raise CrossFlowError(
            f"two images of one size and at least {at_least} pixels a side are compared, "
            f"got {list(image.shape)} and {list(original.shape)}; resize the output to its original."
        )


class Restoration:
    """PSNR and SSIM in every definition of the module's list; an example's target is the path of its original.

    Values: ``psnr_rgb psnr_y ssim_rgb ssim_y ssim_padded_rgb ssim_padded_y``. The PSNR of an output that equals its
    original is infinite: its row says null, the means of PSNR are left out, and ``compute`` adds a ``warning`` to the
    protocol.
    """

    higher_is_better: Mapping[str, bool] = {
        f"{name}_{on}": True for name in ("psnr", "ssim", "ssim_padded") for on in ("rgb", "y")
    }

    def __init__(self) -> None:
        self.protocol: Mapping[str, Any] = {
            "rgb": "uint8, 0-255, mean over channels",
            "y": "BT.601 studio swing of the uint8 RGB, not rounded, range 255",
            "psnr": "mean over images of 10 log10(255^2 / mse)",
            "ssim": "Gaussian 11 x 11, sigma 1.5, K 0.01 0.03, population variance, whole windows only",
            "ssim_padded": "the same over the whole image, mirrored without its edge (torchmetrics)",
            "interval": BOOTSTRAP,
        }
        self._rows: list[Row] = []

    def update(self, examples: Sequence[Example], outputs: Sequence[Output]) -> list[Row]:
        """Judge the outputs, uint8 [h w 3]. Raises CrossFlowError for an output of another size than its original."""
        rows = [_judge(example, np.asarray(output)) for example, output in zip(examples, outputs, strict=True)]
        self._rows += rows
        return rows

    def compute(self) -> dict[str, Value]:
        """The mean of each value over the images."""
        exact = sum(None in row.values() for row in self._rows)
        if exact:
            why = f"PSNR is infinite, for {exact} of {len(self._rows)} outputs equal their originals"
            self.protocol = {**self.protocol, "warning": why}
        columns = {name: [row[name] for row in self._rows] for name in self.higher_is_better}
        return {name: bootstrap_mean(column) for name, column in columns.items() if None not in column}


def _judge(example: Example, image: np.ndarray) -> Row:
    original = read_image(example.target)
    row: Row = {}
    try:
        _check_shapes(image, original, at_least=2 * RADIUS + 1)
    except CrossFlowError as error:
        raise CrossFlowError(f"{example.id}: {error}") from error
    for on, pair in {"rgb": (image, original), "y": (luma(image), luma(original))}.items():
        ratio = psnr(*pair)
        inside, whole = _both_ssim(*pair)
        row |= {f"psnr_{on}": ratio if math.isfinite(ratio) else None, f"ssim_{on}": inside, f"ssim_padded_{on}": whole}
    return row
