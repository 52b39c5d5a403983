"""The exact reader: an image of the embedded world back to its objects, with no learned part.

1. Background: it varies by row only, so it is estimated per row as the median of the unsaturated pixels.
2. Unmixing: a pixel is ``background + coverage * (color - background)``. Its colour is that of the eight, by day or
   night as the sky shows, with the smallest residual; its coverage is the projection on that colour.
3. Objects: connected components of saturated pixels with enough coverage, of at least a minimal area. Each has the
   colour with the smallest residual over all its pixels.
4. Shape: area and centroid of the coverage determine where, and how large, each shape would be. The shape whose ideal
   coverage is closest to the measured one is chosen, if it is close enough.

Areas are relative to the image, so the reader works at every size. No constant was tuned on a model's images;
``python -m benchmarks.scenes_reader`` measures the reader. Touching objects of different colours are separated; of one
colour they form one component, and at most one object. In the world itself objects do not touch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from crossflow.scenes.render import inside
from crossflow.scenes.spec import COLORS, NIGHT, SHAPES

MIN_CHROMA = 40.0
"""Smallest difference between the channels of a pixel in an object, by day; the background's is below 37."""
MIN_COVERAGE = 0.35
"""Coverage above which a pixel is part of a component; below one half, so that a blurred ring stays connected."""
MIN_AREA = 8.0 / 32**2
"""Smallest area of an object as a fraction of the image: half the smallest real one (15 of 32 x 32 pixels)."""
BLUR = 0.6 / 32
"""Standard deviation, in image sides, of a blurred ideal shape; the sharp one is compared as well."""
MIN_MATCH = 0.55
"""Smallest overlap with an ideal shape; at 32 px clean renders are above 0.93, under noise of sd 4 above 0.57."""
DAY_SKY = 120.0
"""Median brightness of the top quarter above which it is day: the sky is near 40 by night, above 190 by day."""
EXTENT = 256
"""Point samples across the image for the coverage of an ideal shape, at least one per pixel."""
PALETTE = np.array(list(COLORS.values()), dtype=np.float64)
OPPONENT = np.array([[0.299, -0.169, 0.5], [0.587, -0.331, -0.419], [0.114, 0.5, -0.081]])
"""RGB to luma and two colour differences (JPEG's), as columns."""
TRUST = np.array([1.0, 0.03, 0.03])
"""Weights of these three in the estimate of coverage: colour counts less, since JPEG halves its resolution."""
EIGHT = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class Found:
    """A detected object. ``match`` is the overlap (IoU of coverages) with its ideal shape, at most 1."""

    shape: str
    color: str
    box: tuple[int, int, int, int]
    """Left, top, right and bottom in pixels, right and bottom exclusive."""
    mask: np.ndarray
    """bool [h w]: pixels covered by half or more."""
    match: float


def read(image: np.ndarray) -> list[Found]:
    """The objects in ``image`` (uint8 RGB [h w 3]), in scanning order. ValueError for another dtype or layout."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image must be uint8 [h w 3], got {image.dtype} {list(image.shape)}")
    coverage, residual, nearest, solid = _look(image)
    found: list[Found] = []
    for core in _components(solid):
        whole = _recognise(core, solid, coverage, residual)
        parts = [part for color in np.unique(nearest[core]) for part in _components(core & (nearest == color))]
        pieces = [_recognise(part, solid, coverage, residual) for part in parts] if len(parts) > 1 else []
        found += _better(whole, [piece for piece in pieces if piece is not None])
    return found


def spots(image: np.ndarray) -> list[tuple[str, float, float]]:
    """Colour and centroid (x, y), in image sides, of what ``read`` would take for objects, whatever their shapes."""
    coverage, _, nearest, solid = _look(image)
    found: list[tuple[str, float, float]] = []
    for color, name in enumerate(COLORS):
        for part in _components(solid & (nearest == color)):
            share = np.where(part, coverage[..., color], 0.0)
            y, x = (
                (share.sum(axis=axis) @ (np.arange(n) + 0.5)) / (n * share.sum())
                for axis, n in ((1, len(share)), (0, share.shape[1]))
            )
            found.append((name, float(x), float(y)))
    return found


def night(image: np.ndarray) -> bool:
    """Whether ``image``, uint8 [h w 3], shows a night."""
    return float(np.median(image[: max(1, len(image) // 4)])) <= DAY_SKY


def _look(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each pixel: coverage and residual [h w colors], its nearest colour, and whether it is part of an object."""
    pixels = image.astype(np.float64)
    light = NIGHT if night(image) else 1.0
    saturated = np.ptp(pixels, axis=2) > MIN_CHROMA * light
    background = _background(pixels, saturated)[:, None, :]
    coverage, residual = _unmix(pixels - background, PALETTE * light - background)
    nearest = residual.argmin(axis=2)
    solid = saturated & (np.take_along_axis(coverage, nearest[..., None], axis=2)[..., 0] > MIN_COVERAGE)
    return coverage, residual, nearest, solid


def _better(whole: Found | None, pieces: list[Found]) -> list[Found]:
    """A component as one object, or as single-coloured pieces if every piece matches better."""
    if whole is None or (pieces and min(piece.match for piece in pieces) > whole.match):
        return pieces
    return [whole]


def _background(pixels: np.ndarray, saturated: np.ndarray) -> np.ndarray:
    """The background of each row [h 3]: the median of pixels away from saturated ones, else from other rows."""
    free = ~np.asarray(ndimage.binary_dilation(saturated, structure=EIGHT), dtype=bool)
    known = free.any(axis=1)
    if not known.any():
        return np.median(pixels, axis=1)
    medians = np.array([np.median(row[keep], axis=0) for row, keep in zip(pixels[known], free[known], strict=True)])
    rows = np.arange(len(pixels))
    return np.stack([np.interp(rows, rows[known], channel) for channel in medians.T], axis=1)


def _unmix(rest: np.ndarray, span: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and squared residual [h w colors] of ``rest`` [h w 3] projected on the row's ``span`` [h colors 3]."""
    rest, span = rest @ OPPONENT, span @ OPPONENT
    across = span.transpose(0, 2, 1)
    along = np.maximum(rest @ across, 0.0)
    power, trusted = (np.maximum(span**2 @ weights, 1.0)[:, None, :] for weights in (np.ones(3), TRUST))
    residual = (rest**2).sum(axis=2)[..., None] - along**2 / power
    coverage = ((rest * TRUST) @ across) / trusted
    return coverage, residual


def _components(solid: np.ndarray) -> list[np.ndarray]:
    """Masks, bool [h w], of the connected components of ``solid`` that are large enough for an object."""
    labels = np.zeros(solid.shape, dtype=np.int32)
    ndimage.label(solid, structure=EIGHT, output=labels)
    areas = np.bincount(labels.ravel())
    return [labels == label for label in range(1, len(areas)) if areas[label] >= MIN_AREA * solid.size]


def _recognise(core: np.ndarray, solid: np.ndarray, coverage: np.ndarray, residual: np.ndarray) -> Found | None:
    """The object of component ``core``, or None. Its soft edge is within 1/32 of the image, in no other component."""
    color = int(residual[core].sum(axis=0).argmin())
    edge = max(1, len(core) // 32)
    near = ndimage.binary_dilation(core, structure=EIGHT, iterations=edge)
    region = np.asarray(ndimage.binary_fill_holes(near)) & (core | ~solid)
    window = _window(region)
    share = np.where(region, coverage[..., color], 0.0)[window]
    if share.sum() < MIN_AREA * core.size:
        return None
    match, shape = max((_match(shape, share, len(core)), shape) for shape in SHAPES)
    mask = np.zeros_like(core)
    mask[window] = share >= 0.5
    if match < MIN_MATCH or not mask.any():
        return None
    rows, columns = _window(mask)
    return Found(shape, list(COLORS)[color], (columns.start, rows.start, columns.stop, rows.stop), mask, match)


def _window(mask: np.ndarray) -> tuple[slice, slice]:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


@lru_cache
def _moments(shape: str) -> tuple[float, float]:
    """Area in squared radii of the ideal ``shape``, and offset in radii of its centroid below its centre."""
    points = (np.arange(1000) + 0.5) / 500 - 1.0
    rows = inside(shape, points[None, :], points[:, None]).mean(axis=1)
    return float(rows.mean() * 4.0), float(rows @ points / rows.sum())


def _match(shape: str, share: np.ndarray, size: int) -> float:
    """IoU of the coverage ``share`` [h w] with ``shape``, sharp or blurred, of the same area and centroid."""
    area, low = _moments(shape)
    total, samples = share.sum(), max(1, EXTENT // size)
    radius = np.sqrt(total / area)
    v, u = (
        ((np.arange(n * samples) + 0.5) / samples - share.sum(axis=other) @ (np.arange(n) + 0.5) / total) / radius
        for n, other in zip(share.shape, (1, 0), strict=True)
    )
    hit = inside(shape, u[None, :], v[:, None] + low)
    ideal = hit.reshape(share.shape[0], samples, share.shape[1], samples).mean(axis=(1, 3))
    blurred = ndimage.gaussian_filter(ideal, BLUR * size, mode="constant")
    return max(float(np.minimum(each, share).sum() / np.maximum(each, share).sum()) for each in (ideal, blurred))
