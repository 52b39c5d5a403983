"""What the suites of the embedded world and their references have in common: tasks, sides of images, depths."""

from __future__ import annotations

from typing import Literal

SIDE = 32
"""Pixels a side of the images that are captioned and whose depth is asked for."""
FACTOR, HIGH = 4, 64
"""Super-resolution goes from HIGH / FACTOR pixels a side to HIGH."""
NEAREST, FARTHEST = 1e-3, 80.0
"""Metres between which depth is judged."""

Task = Literal["caption", "depth", "sr"]
