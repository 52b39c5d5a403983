"""The embedded world: a seeded scene of one to four flat shapes before a ground plane and a sky.

A scene is data. The camera is a pinhole ``height`` metres above the ground, pitched down by ``pitch`` radians; image
coordinates are fractions of the image side, x to the right and y down. Objects are billboards that face the camera:
each has an image position and radius, and a metric depth that never puts it below the ground.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

VERSION = 1
SHAPES = ("ball", "box", "cone", "cross", "ring", "pillar")
COLORS = {
    "red": (220, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (240, 220, 40),
    "green": (40, 170, 60),
    "cyan": (40, 200, 210),
    "blue": (40, 80, 220),
    "purple": (140, 60, 200),
    "pink": (240, 90, 170),
}
HELD_OUT = (
    ("ball", "green"),
    ("box", "pink"),
    ("cone", "blue"),
    ("cross", "yellow"),
    ("ring", "red"),
    ("pillar", "cyan"),
)
"""One (shape, color) pair per shape that occurs only in the split ``test_heldout``."""

FOCAL = 1.0
"""Focal length in image sides: a field of view of 53 degrees."""
NIGHT = 0.65
"""Brightness of an object at night, relative to day."""
CELLS = 4
"""Each object is wholly inside its own cell of a CELLS x CELLS grid; no two occupied cells share an edge."""


@dataclass(frozen=True, kw_only=True)
class Object:
    """One shape: centre (x, y) and radius in image sides, depth in metres along the optical axis."""

    shape: str
    color: str
    x: float
    y: float
    radius: float
    depth: float


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera ``height`` metres above the ground, pitched down by ``pitch`` radians (negative looks up)."""

    height: float
    pitch: float

    @property
    def horizon(self) -> float:
        """The image row, in image sides from the top, where the ground meets the sky."""
        return 0.5 - FOCAL * math.tan(self.pitch)

    def ground_depth(self, y: np.ndarray) -> np.ndarray:
        """Depth in metres of the ground seen at image rows ``y``; inf at and above the horizon."""
        slope = (np.asarray(y, dtype=np.float64) - 0.5) / FOCAL * math.cos(self.pitch) + math.sin(self.pitch)
        return np.where(slope > 0, self.height / np.where(slope > 0, slope, 1.0), np.inf)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A scene: objects, camera, day or night, and the colours of sky and ground (RGB, 0 to 255)."""

    objects: tuple[Object, ...]
    camera: Camera
    night: bool
    sky: tuple[float, float, float]
    ground: tuple[float, float, float]


def sample_scene(rng: np.random.Generator, looks: list[tuple[str, str]], cells: list[tuple[int, int]]) -> Scene:
    """Sample a scene; its i-th object has the (shape, color) ``looks[i]`` and is in ``cells[i]``, (row, column)."""
    camera = Camera(height=float(rng.uniform(1.2, 2.0)), pitch=float(rng.uniform(-0.12, 0.12)))
    night = bool(rng.random() < 0.3)
    light = 0.45 if night else 1.0
    sky = np.array([205.0, 218.0, 235.0]) * (0.16 if night else 1.0) + rng.uniform(-8, 8)
    ground = (np.array([150.0, 141.0, 128.0]) + rng.uniform(-14, 14) + rng.uniform(-6, 6, 3)) * light
    objects = tuple(_place(rng, camera, shape, color, cell) for (shape, color), cell in zip(looks, cells, strict=True))
    return Scene(objects=objects, camera=camera, night=night, sky=_rgb(sky), ground=_rgb(ground))


def _rgb(color: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = (float(channel) for channel in color)
    return red, green, blue


def _place(rng: np.random.Generator, camera: Camera, shape: str, color: str, cell: tuple[int, int]) -> Object:
    row, column = cell
    jitter = rng.uniform(-0.3, 0.3, 2) / 32
    x, y = (column + 0.5) / CELLS + float(jitter[0]), (row + 0.5) / CELLS + float(jitter[1])
    radius = float(rng.uniform(3.0, 3.5)) / 32
    ground = float(camera.ground_depth(np.array(y + radius)))
    depth = min(float(rng.uniform(3.0, 12.0)), ground)
    return Object(shape=shape, color=color, x=x, y=y, radius=radius, depth=depth)
