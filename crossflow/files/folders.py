"""Where this package keeps its cache and its shipped weights."""

import os
from pathlib import Path

from crossflow.errors import named


def cache_folder() -> Path:
    """The folder in the environment variable ``CROSSFLOW_CACHE``, by default ~/.cache/crossflow."""
    return Path(os.environ.get("CROSSFLOW_CACHE", Path.home() / ".cache" / "crossflow"))


WEIGHTS = Path(__file__).parents[1] / "weights"
"""The folder of the weights that come with the package."""
TASKS = ("t2i", "caption", "depth", "sr", "any")


def shipped(task: str) -> Path:
    """The checkpoint shipped for a task: t2i, caption, depth, sr or any. CrossFlowError for another name."""
    return WEIGHTS / f"scenes-{named('shipped model', task, dict.fromkeys(TASKS, task))}.safetensors"
