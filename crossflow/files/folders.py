"""Where this package keeps its cache and its shipped weights."""

import os
from pathlib import Path

from crossflow.errors import CrossFlowError, named


def cache_folder() -> Path:
    """The folder in the environment variable ``CROSSFLOW_CACHE``, by default ~/.cache/crossflow.

    CrossFlowError where the variable is not set and nobody's home is known, as in some containers.
    """
    if given := os.environ.get("CROSSFLOW_CACHE"):
        return Path(given)
    try:
        return Path.home() / ".cache" / "crossflow"
    except RuntimeError as error:
        raise CrossFlowError("There is no home folder for a cache: set CROSSFLOW_CACHE to a folder.") from error


WEIGHTS = Path(__file__).parents[1] / "weights"
"""The folder of the weights that come with the package."""
TASKS = ("t2i", "caption", "depth", "sr", "any")


def shipped(task: str) -> Path:
    """The checkpoint shipped for a task: t2i, caption, depth, sr or any. CrossFlowError for another name."""
    return WEIGHTS / f"scenes-{named('shipped model', task, dict.fromkeys(TASKS, task))}.safetensors"
