"""The embedded world: seeded scenes with exact images, captions, depth and an exact reader. No downloads."""

from crossflow.scenes.parse import Found, read
from crossflow.scenes.render import render
from crossflow.scenes.spec import COLORS, SHAPES, VERSION, Scene
from crossflow.scenes.splits import SPLITS, SceneExample, example

__all__ = ["COLORS", "SHAPES", "SPLITS", "VERSION", "Found", "Scene", "SceneExample", "example", "read", "render"]
