"""PSNR and SSIM of restored images against their originals, float64, each definition under its own name.

Images are uint8 RGB on the 0-255 scale. A suite's value is the mean of its images' values but where it is pooled:

    psnr          10 log10(255^2 / mean squared error), over all pixels; the mean of dB
    psnr_pooled   10 log10(255^2 / mean of the images' mean squared errors); dB of the mean, never more than ``psnr``
    ssim          the mean of SSIM's map where the whole window lies inside the image
    ssim_padded   the mean of the whole map, the image mirrored at its borders
    ssim_uniform  scikit-image's default: a window of 7 x 7 equal weights and sample variances, whole windows only

on one of these, the suffix:

    rgb        the three channels
    y          luma of ITU-R BT.601 in studio swing, Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255, not rounded
    y_rounded  the same, rounded as MATLAB's rgb2ycbcr of uint8 does
    y_full     luma in full swing, 0.299 R + 0.587 G + 0.114 B, not rounded (JPEG's)

A last suffix ``_border4`` says that 4 pixels were cut from each side first, as super-resolution cuts its factor.

But for ``ssim_uniform`` the map is that of Z. Wang et al., 2004: a Gaussian window of sigma 1.5 over 11 x 11 pixels,
K1 = 0.01, K2 = 0.03, population variances. ``ssim`` is the number of the original MATLAB script, of tf.image.ssim, and
of scikit-image with ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``; ``ssim_padded`` is that of
torchmetrics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np

from crossflow.errors import CrossFlowError, unknown
from crossflow_eval.datasets.folder import read_image
from crossflow_eval.stats import BOOTSTRAP, JACKKNIFE, bootstrap_mean, jackknife
from crossflow_eval.types import Example, Output, Row, Value

RANGE = 255.0
RADIUS = 5
"""Pixels from the middle of SSIM's window to its edge."""
_C1, _C2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
_WINDOW = np.exp(-((np.arange(-RADIUS, RADIUS + 1) / 1.5) ** 2) / 2)
_WINDOW /= _WINDOW.sum()
_LUMA = np.array([65.481, 128.553, 24.966]) / RANGE


MEASURES = {
    "psnr": "mean over images of 10 log10(255^2 / mse)",
    "psnr_pooled": "10 log10(255^2 / mean over images of mse)",
    "ssim": "Gaussian 11 x 11, sigma 1.5, K 0.01 0.03, population variance, whole windows only",
    "ssim_padded": "the same over the whole image, mirrored without its edge (torchmetrics)",
    "ssim_uniform": "uniform 7 x 7, K 0.01 0.03, sample variance, whole windows only (scikit-image's default)",
}
CHANNELS = {
    "rgb": "uint8, 0-255, mean over channels",
    "y": "BT.601 studio swing of the uint8 RGB, not rounded, range 255",
    "y_rounded": "BT.601 studio swing of the uint8 RGB, rounded half up (MATLAB's rgb2ycbcr), range 255",
    "y_full": "BT.601 full swing of the uint8 RGB, not rounded, range 255",
}


def _on(image: np.ndarray, channels: str) -> np.ndarray:
    """The part of an image, RGB [h w 3], that is compared."""
    if channels == "rgb":
        return image
    if channels == "y_full":
        return image @ np.array([0.299, 0.587, 0.114])
    return np.floor(luma(image) + 0.5) if channels == "y_rounded" else luma(image)


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


def uniform_ssim(image: np.ndarray, original: np.ndarray) -> float:
    """``ssim_uniform`` of the module's list, of two arrays [h w] or [h w c] of at least 7 x 7 pixels and one shape."""
    _check_shapes(image, original, at_least=7)
    x, y = (array.astype(np.float64) for array in (image, original))
    middle, samples = slice(3, -3), 49 / 48

    def mean(array: np.ndarray) -> np.ndarray:
        return cv2.blur(array, (7, 7))[middle, middle]

    x_mean, y_mean = mean(x), mean(y)
    x_variance, y_variance = samples * (mean(x * x) - x_mean**2), samples * (mean(y * y) - y_mean**2)
    shared = samples * (mean(x * y) - x_mean * y_mean)
    similarity = (2 * x_mean * y_mean + _C1) * (2 * shared + _C2)
    return float((similarity / ((x_mean**2 + y_mean**2 + _C1) * (x_variance + y_variance + _C2))).mean())


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
    """PSNR and SSIM by the module's list; an example's target is the path of its original.

    ``measures`` are of ``MEASURES``, each on all ``channels``, of ``CHANNELS``; ``border`` pixels are cut from each
    side. Values: ``psnr_rgb psnr_y ssim_rgb ssim_y ssim_padded_rgb ssim_padded_y`` by default. BasicSR's convention for
    a factor of 4 is ``measures=("psnr", "ssim"), channels=("y",), border=4``. The PSNR of an output that equals its
    original is infinite: its row says null, the means of PSNR are left out, and ``compute`` adds a ``warning`` to the
    protocol. Raises CrossFlowError for unknown names.
    """

    def __init__(
        self,
        *,
        measures: Sequence[str] = ("psnr", "ssim", "ssim_padded"),
        channels: Sequence[str] = ("rgb", "y"),
        border: int = 0,
    ) -> None:
        for kind, asked, known in (("measure", measures, MEASURES), ("channels", channels, CHANNELS)):
            if wrong := [name for name in asked if name not in known]:
                raise unknown(kind, wrong[0], known)
        self._measures, self._channels, self._border = tuple(measures), tuple(channels), border
        self._end = f"_border{border}" if border else ""
        names = [f"{measure}_{on}{self._end}" for measure in measures for on in channels]
        self.higher_is_better: Mapping[str, bool] = dict.fromkeys(names, True)
        self.protocol: Mapping[str, Any] = {
            **{on: CHANNELS[on] for on in channels},
            **{measure: MEASURES[measure] for measure in measures},
            **({"border": f"{border} px cut from each side"} if border else {}),
            "interval": f"{BOOTSTRAP}; pooled: {JACKKNIFE}" if "psnr_pooled" in measures else BOOTSTRAP,
        }
        self._rows: list[Row] = []

    def update(self, examples: Sequence[Example], outputs: Sequence[Output]) -> list[Row]:
        """Judge the outputs, uint8 [h w 3]. Raises CrossFlowError for an output of another size than its original.

        Rows hold each measure but the pooled, of which they hold the mean squared error, ``mse_``.
        """
        rows = [self._judge(example, np.asarray(output)) for example, output in zip(examples, outputs, strict=True)]
        self._rows += rows
        return rows

    def compute(self) -> dict[str, Value]:
        """The mean of each value over the images, and what is pooled of them all."""
        exact = sum(None in row.values() for row in self._rows)
        if exact:
            why = f"PSNR is infinite, for {exact} of {len(self._rows)} outputs equal their originals"
            self.protocol = {**self.protocol, "warning": why}
        values: dict[str, Value] = {}
        for name in self.higher_is_better:
            if name.startswith("psnr_pooled"):
                errors = np.array([row[name.replace("psnr_pooled", "mse")] for row in self._rows])
                if errors.any():
                    values[name] = _pooled_value(errors)
            elif None not in (column := [row[name] for row in self._rows]):
                values[name] = bootstrap_mean(column)
        return values

    def _judge(self, example: Example, image: np.ndarray) -> Row:
        original = read_image(example.target)
        try:
            _check_shapes(image, original, at_least=2 * (RADIUS + self._border) + 1)
        except CrossFlowError as error:
            raise CrossFlowError(f"{example.id}: {error}") from error
        inside = slice(self._border, -self._border or None)
        row: Row = {}
        for on in self._channels:
            pair = [_on(array, on)[inside, inside] for array in (image, original)]
            found = self._measured(pair[0], pair[1])
            row |= {f"{measure}_{on}{self._end}": value for measure, value in found.items()}
        return row

    def _measured(self, image: np.ndarray, original: np.ndarray) -> Row:
        found: Row = {}
        ratio = psnr(image, original)
        gaussian = _both_ssim(image, original) if {"ssim", "ssim_padded"} & set(self._measures) else (0.0, 0.0)
        for measure in self._measures:
            if measure == "psnr":
                found[measure] = ratio if math.isfinite(ratio) else None
            elif measure == "psnr_pooled":
                found["mse"] = RANGE**2 / 10 ** (ratio / 10)
            elif measure == "ssim_uniform":
                found[measure] = uniform_ssim(image, original)
            else:
                found[measure] = gaussian[measure == "ssim_padded"]
        return found


def _pooled_value(errors: np.ndarray) -> Value:
    """dB of the mean of the images' errors, with its interval; none where a group of outputs has all of it."""
    try:
        return jackknife(partial(_pooled, errors), len(errors))
    except ZeroDivisionError:
        return Value(mean=_pooled(errors, np.arange(len(errors))), n=len(errors))


def _pooled(errors: np.ndarray, kept: np.ndarray) -> float:
    """dB of the mean of the images' errors, of those ``kept``."""
    return 10 * math.log10(RANGE**2 / float(errors[kept].mean()))
