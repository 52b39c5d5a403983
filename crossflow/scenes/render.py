"""Rendering of scenes: every pixel is the mean of 8 x 8 point samples of the shapes over a smooth background."""

from __future__ import annotations

import numpy as np

from crossflow.scenes.spec import COLORS, NIGHT, Object, Scene

SAMPLES = 8
"""Point samples per pixel side."""
HAZE = np.array([20.0, 14.0, 6.0])
"""RGB by which the sky is lighter at the horizon than at the zenith, by day."""


def inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Whether points (u, v), in radii from the centre with v downwards, are inside ``shape``."""
    if shape == "ball":
        return u * u + v * v <= 1.0
    if shape == "box":
        return (abs(u) <= 0.9) & (abs(v) <= 0.9)
    if shape == "cone":
        return (v <= 0.95) & (abs(u) <= (v + 1.0) / 1.95)
    if shape == "cross":
        return ((abs(u) <= 0.36) & (abs(v) <= 1.0)) | ((abs(v) <= 0.36) & (abs(u) <= 1.0))
    if shape == "ring":
        squared = u * u + v * v
        return (squared <= 1.0) & (squared >= 0.3)
    if shape == "pillar":
        return (abs(u) <= 0.42) & (abs(v) <= 1.0)
    raise ValueError(f"unknown shape {shape!r}")


def coverage(item: Object, size: int) -> tuple[slice, slice, np.ndarray]:
    """The rows and columns that ``item`` can touch, and its coverage of each pixel there, in [0, 1]."""
    low_x, high_x = (int(np.clip((item.x + s * item.radius) * size + s, 0, size)) for s in (-1, 1))
    low_y, high_y = (int(np.clip((item.y + s * item.radius) * size + s, 0, size)) for s in (-1, 1))
    u = (_points(low_x, high_x) / size - item.x) / item.radius
    v = (_points(low_y, high_y) / size - item.y) / item.radius
    hit = inside(item.shape, u[None, :], v[:, None])
    share = hit.reshape(high_y - low_y, SAMPLES, high_x - low_x, SAMPLES).mean(axis=(1, 3))
    return slice(low_y, high_y), slice(low_x, high_x), share


def _points(low: int, high: int) -> np.ndarray:
    return low + (np.arange((high - low) * SAMPLES) + 0.5) / SAMPLES


def background(scene: Scene, size: int) -> np.ndarray:
    """The background, float64 [size size 3]: a sky that pales to the horizon, a ground that darkens to the camera."""
    rows = _points(0, size) / size
    horizon = scene.camera.horizon
    near = np.clip((rows - horizon) / (1.0 - horizon), 0.0, 1.0)[:, None]
    high = np.clip(rows / horizon, 0.0, 1.0)[:, None]
    sky = np.array(scene.sky) + high * HAZE * (0.3 if scene.night else 1.0)
    ground = np.array(scene.ground) * (1.08 - 0.22 * near)
    column = np.where(rows[:, None] > horizon, ground, sky).reshape(size, SAMPLES, 3).mean(axis=1)
    return np.repeat(column[:, None, :], size, axis=1)


def render(scene: Scene, size: int = 32) -> np.ndarray:
    """Render ``scene``: uint8 RGB [size size 3]. Any size works; the world is meant for 32, 64, 128 and 256."""
    image = background(scene, size)
    for item in sorted(scene.objects, key=lambda item: -item.depth):
        rows, columns, share = coverage(item, size)
        color = np.array(COLORS[item.color], dtype=np.float64) * (NIGHT if scene.night else 1.0)
        image[rows, columns] += share[..., None] * (color - image[rows, columns])
    return np.rint(np.clip(image, 0.0, 255.0)).astype(np.uint8)


def object_masks(scene: Scene, size: int = 32) -> np.ndarray:
    """The pixels that each object covers by half or more: bool [objects size size], in the scene's order."""
    masks = np.zeros((len(scene.objects), size, size), dtype=bool)
    for mask, item in zip(masks, scene.objects, strict=True):
        rows, columns, share = coverage(item, size)
        mask[rows, columns] = share >= 0.5
    return masks
