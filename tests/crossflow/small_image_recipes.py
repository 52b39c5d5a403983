"""The recipes whose sources are images, small enough for tests."""

from dataclasses import replace

from crossflow.modalities.text_autoencoder import TextAutoencoderConfig
from crossflow.model.crossflow import FlowConfig
from crossflow.networks.transformer import TransformerConfig
from crossflow.recipes import CONFIGS
from crossflow.recipes.recipe import TrainConfig
from crossflow.sources.image import ImageEncoderConfig


def small(name: str) -> TrainConfig:
    """A recipe with the sizes of its networks and data cut down, the rest as it is."""
    recipe = CONFIGS[name]
    model = recipe.model
    backbone = TransformerConfig(width=16, depth=1, heads=2, patch=model.backbone.patch)
    model = replace(model, backbone=backbone)
    if isinstance(model, FlowConfig) and isinstance(model.source, ImageEncoderConfig):
        model = replace(model, source=replace(model.source, width=16, depth=1, heads=2))
    if isinstance(model.target, TextAutoencoderConfig):
        model = replace(model, target=replace(model.target, width=16, heads=2))
    data = replace(recipe.data, count=24)
    return replace(recipe, model=model, data=data, steps=4, batch_size=4, log_every=1, save_every=2, sample_every=4)
