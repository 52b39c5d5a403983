"""The embedded world: a procedural data set of scenes with images, captions, depth, an exact reader and two judges."""

from crossflow.scenes.parse import Found, read
from crossflow.scenes.render import render
from crossflow.scenes.spec import COLORS, SHAPES, VERSION, Scene
from crossflow.scenes.splits import SPLITS, SceneExample, example

__all__ = ["COLORS", "SHAPES", "SPLITS", "VERSION", "Found", "Scene", "SceneExample", "example", "read", "render"]
