"""Exact depth maps of scenes, and super-resolution pairs."""

from __future__ import annotations

import numpy as np

from crossflow.scenes.render import object_masks, render
from crossflow.scenes.spec import Scene


def depth_map(scene: Scene, size: int = 32) -> np.ndarray:
    """Depth along the optical axis at pixel centres: float32 [size size], in metres, inf in the sky.

    The ground is a plane seen by a pinhole camera. An object has constant depth over the pixels that it covers by half
    or more, and nearer objects occlude farther ones.
    """
    rows = (np.arange(size) + 0.5) / size
    depth = np.repeat(scene.camera.ground_depth(rows)[:, None], size, axis=1)
    masks = object_masks(scene, size)
    for i in sorted(range(len(masks)), key=lambda i: -scene.objects[i].depth):
        depth[masks[i]] = scene.objects[i].depth
    return depth.astype(np.float32)


def low_res(scene: Scene, size: int = 128, factor: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """A super-resolution pair of ``scene``: uint8 images [size/factor ...] and [size ...] (h w 3).

    The low-resolution image is the mean of the other over factor x factor pixels, rounded to the nearest integer,
    without other filters, noise or compression. ValueError if ``factor`` does not divide ``size``.
    """
    if factor < 1 or size % factor:
        raise ValueError(f"factor must divide the size, got size {size} and factor {factor}")
    high = render(scene, size)
    cells = high.reshape(size // factor, factor, size // factor, factor, 3)
    return np.rint(cells.mean(axis=(1, 3))).astype(np.uint8), high
