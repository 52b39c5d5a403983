"""The exact reader: an image of the embedded world back to its objects, with no learned part.

1. Background: the world's background varies by row alone, so each row's is the median of its unsaturated pixels.
2. Unmixing: a pixel is ``background + coverage * (color - background)``. Of the eight colours, under the light that the
   sky tells, the one that leaves the smallest residual is the pixel's; its projection is the pixel's coverage.
3. Objects: connected pixels, saturated and covered enough, that fill enough area. Each takes the colour that leaves
   the smallest residual over all its pixels.
4. Shape: coverage has an area and a centroid, and from these every shape's place and radius follow. The shape whose
   ideal coverage, drawn there, is nearest to the measured one wins, if it is near enough.

Areas are relative to the image, so one reader serves every size. No constant was chosen on a model's images:
``python -m benchmarks.scenes_reader`` measures the reader. Objects of two colours that touch are told apart; of one
colour they are one component, and one object at most. The world itself keeps its objects apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from crossflow.scenes.render import inside
from crossflow.scenes.spec import COLORS, NIGHT, SHAPES

MIN_CHROMA = 40.0
"""Largest minus smallest channel of a pixel that may belong to an object by day; the background's is below 37."""
MIN_COVERAGE = 0.35
"""Coverage above which a pixel is part of a component, below one half so that a blurred ring stays whole."""
MIN_AREA = 8.0 / 32**2
"""Smallest area of an object in images: half of the smallest real one (a pillar of 15 px in an image of 32 px)."""
BLUR = 0.6 / 32
"""Standard deviation, in image sides, of the blur that a shape may have: it is compared sharp and so blurred."""
MIN_MATCH = 0.55
"""Smallest overlap with an ideal shape: at 32 px, clean renders stay above 0.93 and under noise of sd 4 above 0.57."""
DAY_SKY = 120.0
"""Median brightness of the top quarter above which it is day; the sky is near 40 by night and above 190 by day."""
EXTENT = 256
"""Point samples across an image in a drawn shape, over which a pixel's coverage is averaged (at least one a pixel)."""
PALETTE = np.array(list(COLORS.values()), dtype=np.float64)
OPPONENT = np.array([[0.299, -0.169, 0.5], [0.587, -0.331, -0.419], [0.114, 0.5, -0.081]])
"""RGB to luma and two colour differences (JPEG's), as columns."""
TRUST = np.array([1.0, 0.03, 0.03])
"""How much a squared difference in each of these says about coverage: JPEG halves the resolution of colour."""
EIGHT = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class Found:
    """One object that was read. ``match`` is the overlap (IoU of coverages) with its ideal shape, 1 at best."""

    shape: str
    color: str
    box: tuple[int, int, int, int]
    """Left, top, right and bottom in pixels, right and bottom exclusive."""
    mask: np.ndarray
    """bool [h w]: the pixels covered by half or more."""
    match: float


def read(image: np.ndarray) -> list[Found]:
    """The objects in ``image`` (uint8 RGB [h w 3]), in scanning order. Raises ValueError on another type or layout."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image must be uint8 [h w 3], got {image.dtype} {list(image.shape)}")
    pixels = image.astype(np.float64)
    light = 1.0 if float(np.median(pixels[: max(1, len(pixels) // 4)])) > DAY_SKY else NIGHT
    saturated = np.ptp(pixels, axis=2) > MIN_CHROMA * light
    background = _background(pixels, saturated)[:, None, :]
    coverage, residual = _unmix(pixels - background, PALETTE * light - background)
    nearest = residual.argmin(axis=2)
    solid = saturated & (np.take_along_axis(coverage, nearest[..., None], axis=2)[..., 0] > MIN_COVERAGE)
    found: list[Found] = []
    for core in _components(solid):
        whole = _recognise(core, solid, coverage, residual)
        parts = [part for color in np.unique(nearest[core]) for part in _components(core & (nearest == color))]
        pieces = [_recognise(part, solid, coverage, residual) for part in parts] if len(parts) > 1 else []
        found += _better(whole, [piece for piece in pieces if piece is not None])
    return found


def _better(whole: Found | None, pieces: list[Found]) -> list[Found]:
    """A component as one object, or as its pieces of one colour each where every one of them matches better."""
    if whole is None or (pieces and min(piece.match for piece in pieces) > whole.match):
        return pieces
    return [whole]


def _background(pixels: np.ndarray, saturated: np.ndarray) -> np.ndarray:
    """Each row's background [h 3]: the median of its pixels away from saturated ones; from near rows if it has none."""
    free = ~np.asarray(ndimage.binary_dilation(saturated, structure=EIGHT), dtype=bool)
    known = free.any(axis=1)
    if not known.any():
        return np.median(pixels, axis=1)
    medians = np.array([np.median(row[keep], axis=0) for row, keep in zip(pixels[known], free[known], strict=True)])
    rows = np.arange(len(pixels))
    return np.stack([np.interp(rows, rows[known], channel) for channel in medians.T], axis=1)


def _unmix(rest: np.ndarray, span: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and squared residual [h w colors] of ``rest`` [h w 3] as a part of its row's ``span`` [h colors 3]."""
    rest, span = rest @ OPPONENT, span @ OPPONENT
    across = span.transpose(0, 2, 1)
    along = np.maximum(rest @ across, 0.0)
    power, trusted = (np.maximum(span**2 @ weights, 1.0)[:, None, :] for weights in (np.ones(3), TRUST))
    residual = (rest**2).sum(axis=2)[..., None] - along**2 / power
    coverage = ((rest * TRUST) @ across) / trusted
    return coverage, residual


def _components(solid: np.ndarray) -> list[np.ndarray]:
    """The connected parts of ``solid`` that are large enough to be an object: masks bool [h w]."""
    labels = np.zeros(solid.shape, dtype=np.int32)
    ndimage.label(solid, structure=EIGHT, output=labels)
    areas = np.bincount(labels.ravel())
    return [labels == label for label in range(1, len(areas)) if areas[label] >= MIN_AREA * solid.size]


def _recognise(core: np.ndarray, solid: np.ndarray, coverage: np.ndarray, residual: np.ndarray) -> Found | None:
    """Name the component ``core``. Its soft edge lies within 1/32 of the image, and in no other component."""
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
    """Area in squared radii, and how far below the centre the centroid lies in radii, of the ideal ``shape``."""
    points = (np.arange(1000) + 0.5) / 500 - 1.0
    rows = inside(shape, points[None, :], points[:, None]).mean(axis=1)
    return float(rows.mean() * 4.0), float(rows @ points / rows.sum())


def _match(shape: str, share: np.ndarray, size: int) -> float:
    """IoU of the coverage ``share`` [h w] with that of ``shape``, sharp or blurred, of its area and centroid."""
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
