"""The recipes of the paper's tasks, small enough for tests: the parts are theirs, the sizes are not."""

from dataclasses import replace
from typing import Any

from crossflow.losses import ImageReconstruction
from crossflow.modalities.clip_text import CLIPTextConfig
from crossflow.model.crossflow import FlowConfig
from crossflow.networks.transformer import TransformerConfig
from crossflow.recipes import CONFIGS
from crossflow.recipes.recipe import TrainConfig
from crossflow.sources.image import ImageEncoderConfig

SIZES: dict[str, tuple[tuple[int, int, int], tuple[int, int, int], int]] = {
    "text": ((3, 32, 32), (2, 4, 4), 1),
    "depth": ((3, 16, 24), (1, 16, 24), 8),
    "image": ((3, 8, 8), (3, 32, 32), 8),
}
"""What is read, the latents, and the latent cells of a token's side, by what a model gives."""


def small_of_text(name: str = "own-t2i", steps: int = 4) -> TrainConfig:
    """A recipe of text to images of one's own in a few steps, at 16 pixels."""
    recipe = CONFIGS[name]
    model = recipe.model
    fields: dict[str, Any] = {
        "shape": (6, 2, 2),
        "target": replace(model.target, components=6),
        "backbone": replace(model.backbone, width=16, depth=1, heads=2),
        "sampling": replace(model.sampling, steps=1),
    }
    if isinstance(model, FlowConfig):
        fields["source"] = replace(model.source, width=16, heads=2)
    return replace(
        recipe.in_steps(steps),
        model=replace(model, **fields),
        data=replace(recipe.data, size=(16, 16)),
        batch_size=4,
        log_every=1,
        save_every=2,
        sample_every=4,
    )


def small(name: str, steps: int = 4, **changes: Any) -> TrainConfig:
    """A recipe of the paper's in a few steps; ``changes`` are of the training."""
    recipe = CONFIGS[name]
    model, target = recipe.model, recipe.model.target
    reads, shape, cells = SIZES[target.name]
    target = CLIPTextConfig(width=16, depth=1, heads=2) if target.kind == "clip-text" else target
    backbone = TransformerConfig(width=16, depth=1, heads=2, patch=cells)
    fields: dict[str, Any] = {
        "shape": shape,
        "reads": replace(model.reads, shape=reads),
        "target": target,
        "backbone": backbone,
        "sampling": replace(model.sampling, steps=2),
    }
    if isinstance(model, FlowConfig):
        if isinstance(model.source, ImageEncoderConfig):
            fields["source"] = ImageEncoderConfig(width=16, depth=1, heads=2, patch=8)
        losses = (replace(term, patch=8) if isinstance(term, ImageReconstruction) else term for term in model.losses)
        fields["losses"] = tuple(losses)
    size = shape[1:] if target.name == "image" else reads[1:]
    return replace(
        recipe.in_steps(steps),
        model=replace(model, **fields),
        data=replace(recipe.data, size=size),
        batch_size=4,
        warmup=1,
        log_every=1,
        save_every=2,
        sample_every=4,
        **changes,
    )
