"""The exact reader: an image of the embedded world back to its objects, with no learned part.

1. Background: the world's background varies by row alone, so each row's is the median of its unsaturated pixels.
2. Unmixing: a pixel is ``background + coverage * (color - background)``; of the eight colours (under the light that the
   sky tells) the one that leaves the smallest residual says the pixel's coverage.
3. Objects: connected pixels that are saturated and covered by half or more; each takes the colour that leaves the
   smallest residual over all its pixels.
4. Shape: coverage has an area and a centroid, from which every shape's place and radius follow; the shape whose ideal
   coverage, drawn there, is nearest to the measured one wins, if it is near enough.

All constants are relative to the image side and were chosen on real renders under noise and JPEG (``measure.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from crossflow.scenes.render import inside
from crossflow.scenes.spec import COLORS, NIGHT, SHAPES

MIN_CHROMA = 40.0
"""Largest minus smallest channel above which a pixel by day may belong to an object; background stays below 36."""
MIN_COVERAGE = 0.5
MIN_AREA = 10.0 / 32**2
"""Smallest area of an object in image areas: about half of the smallest real one (a pillar, 19 px at 32 px)."""
MIN_MATCH = 0.72
NIGHT_SKY = 120.0
"""Brightness of the image's top quarter below which it is night."""
PALETTE = np.array(list(COLORS.values()), dtype=np.float64)
OPPONENT = np.array([[0.299, -0.169, 0.5], [0.587, -0.331, -0.419], [0.114, 0.5, -0.081]])
METRIC = np.array([1.0, 0.05, 0.05])
EIGHT = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class Found:
    """One object that was read: ``box`` is (left, top, right, bottom) in pixels, exclusive; ``mask`` is bool [h w]."""

    shape: str
    color: str
    box: tuple[int, int, int, int]
    mask: np.ndarray
    match: float
    """Overlap (IoU of coverages) of what was measured with the ideal shape, 1 at best."""


def read(image: np.ndarray) -> list[Found]:
    """The objects in ``image`` (uint8 RGB [h w 3]), largest first. Raises ValueError on another type or layout."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image must be uint8 [h w 3], got {image.dtype} {list(image.shape)}")
    pixels = image.astype(np.float64)
    chroma = pixels.max(axis=2) - pixels.min(axis=2)
    night = float(np.median(pixels[: len(pixels) // 4])) < NIGHT_SKY
    light = NIGHT if night else 1.0
    saturated = chroma > MIN_CHROMA * light
    rest = pixels - (background := _background(pixels, saturated))[:, None, :]
    coverage, residual = _unmix(rest, PALETTE * light - background[:, None, :])
    best = residual.argmin(axis=2)
    solid = saturated & (np.take_along_axis(coverage, best[..., None], axis=2)[..., 0] > MIN_COVERAGE)
    labels, count = ndimage.label(solid, structure=EIGHT)
    found = []
    for label in range(1, count + 1):
        core = labels == label
        if core.sum() < MIN_AREA * core.size:
            continue
        item = _recognise(core, solid, coverage, residual)
        if item is not None:
            found.append(item)
    return found


def _background(pixels: np.ndarray, saturated: np.ndarray) -> np.ndarray:
    """Each row's background [h 3]: the median of its pixels that are not beside a saturated one, else its neighbours'."""
    free = ~ndimage.binary_dilation(saturated, structure=EIGHT)
    known = free.any(axis=1)
    rows = np.arange(len(pixels))
    if not known.any():
        return np.median(pixels, axis=1)
    medians = np.array([np.median(row[keep], axis=0) for row, keep in zip(pixels[known], free[known], strict=True)])
    return np.stack([np.interp(rows, rows[known], medians[:, c]) for c in range(3)], axis=1)


def _unmix(rest: np.ndarray, span: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and squared residual [h w colors] of ``rest`` [h w 3] as a multiple of each row's ``span`` [h colors 3]."""
    rest, span = rest @ OPPONENT, span @ OPPONENT
    power = (span**2).sum(axis=2)[:, None, :]
    shadow = np.einsum("hwc,hkc->hwk", rest, span)
    coverage = np.einsum("hwc,hkc->hwk", rest * METRIC, span) / (span**2 @ METRIC)[:, None, :]
    return coverage, (rest**2).sum(axis=2)[..., None] - shadow**2 / power


def _recognise(core: np.ndarray, solid: np.ndarray, coverage: np.ndarray, residual: np.ndarray) -> Found | None:
    color = int(residual[core].sum(axis=0).argmin())
    edge = max(1, round(len(core) / 32))
    region = ndimage.binary_fill_holes(ndimage.binary_dilation(core, structure=EIGHT, iterations=edge))
    region &= core | ~solid
    rows, columns = ndimage.find_objects(region.astype(np.int8))[0]
    share = np.where(region, coverage[..., color], 0.0)[rows, columns]
    scores = [_match(shape, share) for shape in SHAPES]
    score, shape = max(zip(scores, SHAPES, strict=True))
    if score < MIN_MATCH:
        return None
    mask = np.zeros_like(core)
    mask[rows, columns] = share >= MIN_COVERAGE
    (top, bottom), (left, right) = (np.flatnonzero(mask.any(axis=axis))[[0, -1]] for axis in (1, 0))
    box = (int(left), int(top), int(right) + 1, int(bottom) + 1)
    return Found(shape, list(COLORS)[color], box, mask, score)


@lru_cache
def _moments(shape: str) -> tuple[float, float]:
    """Area in squared radii and height of the centroid in radii, of the ideal ``shape``."""
    points = (np.arange(1000) + 0.5) / 500 - 1.0
    hit = inside(shape, points[None, :], points[:, None])
    return float(hit.mean() * 4.0), float((hit.mean(axis=1) * points).sum() / hit.mean(axis=1).sum())


def _match(shape: str, share: np.ndarray) -> float:
    """IoU of the measured coverage with that of ``shape`` drawn with the same area and centroid."""
    area, low = _moments(shape)
    total = share.sum()
    height, width = share.shape
    radius = np.sqrt(max(total, 1e-9) / area)
    x = share.sum(axis=0) @ (np.arange(width) + 0.5) / total
    y = share.sum(axis=1) @ (np.arange(height) + 0.5) / total - low * radius
    samples = 8
    u = ((np.arange(width * samples) + 0.5) / samples - x) / radius
    v = ((np.arange(height * samples) + 0.5) / samples - y) / radius
    ideal = inside(shape, u[None, :], v[:, None]).reshape(height, samples, width, samples).mean(axis=(1, 3))
    return float(np.minimum(ideal, share).sum() / np.maximum(ideal, share).sum())
