"""The folders that this package keeps things in."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder ``CROSSFLOW_CACHE``, by default ~/.cache/crossflow."""
    return Path(os.environ.get("CROSSFLOW_CACHE", Path.home() / ".cache" / "crossflow"))
