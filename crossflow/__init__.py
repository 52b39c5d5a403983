"""CrossFlow: flow matching from one modality to another, with no noise source and no cross-attention."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossflow.errors import CrossFlowError
    from crossflow.files.folders import shipped
    from crossflow.model.checkpoint import load_checkpoint, save_checkpoint
    from crossflow.model.crossflow import CrossFlow, FlowConfig
    from crossflow.model.settings import Override
    from crossflow.recipes import recipe_named
    from crossflow.recipes.recipe import TrainConfig
    from crossflow.sampling.any_to_any import AnyToAnySampler
    from crossflow.sampling.from_image import FromImage
    from crossflow.sampling.text_to_image import TextToImage
    from crossflow.training.train import train

__version__ = "0.1.0"
__all__ = [
    "AnyToAnySampler",
    "CrossFlow",
    "CrossFlowError",
    "FlowConfig",
    "FromImage",
    "Override",
    "TextToImage",
    "TrainConfig",
    "load_checkpoint",
    "recipe_named",
    "save_checkpoint",
    "shipped",
    "train",
]
_HOME = {
    "AnyToAnySampler": "crossflow.sampling.any_to_any",
    "CrossFlow": "crossflow.model.crossflow",
    "CrossFlowError": "crossflow.errors",
    "FlowConfig": "crossflow.model.crossflow",
    "FromImage": "crossflow.sampling.from_image",
    "Override": "crossflow.model.settings",
    "TextToImage": "crossflow.sampling.text_to_image",
    "TrainConfig": "crossflow.recipes.recipe",
    "load_checkpoint": "crossflow.model.checkpoint",
    "recipe_named": "crossflow.recipes",
    "save_checkpoint": "crossflow.model.checkpoint",
    "shipped": "crossflow.files.folders",
    "train": "crossflow.training.train",
}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that ``crossflow --help`` does not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'crossflow' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """What there is, with the names that are not imported yet, as notebooks complete them."""
    return sorted({*globals(), *__all__})
