"""CrossFlow: flow matching from one modality to another, with no noise source and no cross-attention."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossflow.files.folders import shipped
    from crossflow.model.checkpoint import load_checkpoint, save_checkpoint
    from crossflow.model.crossflow import CrossFlow
    from crossflow.model.settings import Override
    from crossflow.sampling.text_to_image import TextToImage

__version__ = "0.1.0"
__all__ = ["CrossFlow", "Override", "TextToImage", "load_checkpoint", "save_checkpoint", "shipped"]
_HOME = {
    "CrossFlow": "crossflow.model.crossflow",
    "Override": "crossflow.model.settings",
    "TextToImage": "crossflow.sampling.text_to_image",
    "load_checkpoint": "crossflow.model.checkpoint",
    "save_checkpoint": "crossflow.model.checkpoint",
    "shipped": "crossflow.files.folders",
}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that ``crossflow --help`` does not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'crossflow' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
