"""What is trained, by name: ``CONFIGS[name]`` holds a model and all that decides how its weights come out.

``scenes`` has the embedded world, ``authors`` the authors' program, ``paper`` the paper.
"""

from dataclasses import replace
from importlib import metadata

from crossflow.errors import named
from crossflow.recipes.authors import AUTHORS, TINY
from crossflow.recipes.paper import PAPER
from crossflow.recipes.recipe import TrainConfig
from crossflow.recipes.scenes import SCENES


def _with_image_features(recipe: TrainConfig) -> TrainConfig:
    """Contrast with image features that were computed once, in place of a SigLIP trained from random weights."""
    kl, contrast = recipe.model.terms
    losses = (kl, replace(contrast, tower="features"))
    return replace(recipe, model=replace(recipe.model, losses=losses))


CONFIGS: dict[str, TrainConfig] = {
    **SCENES,
    "t2i-tiny": TINY,
    **AUTHORS,
    **PAPER,
    **{f"{name}-image-features": _with_image_features(recipe) for name, recipe in {**AUTHORS, **PAPER}.items()},
}
"""Recipe name -> recipe.

``t2i-*`` are the authors' program, ``paper-*`` the paper; either with ``-image-features`` is another recipe.

The two of Table 1 differ in the source and in where the text comes in; they match exactly in steps and within 5 % in
parameters, the encoder counted. ``scenes-tiny``, and ``t2i-tiny`` for pairs in a folder, are for tests and first steps:
they run in seconds and learn nothing.
"""
ENTRY_POINTS = "crossflow.recipes"


def recipe_named(name: str) -> TrainConfig:
    """The recipe of that name, ours or an installed package's (an entry point). CrossFlowError for another name."""
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        if entry.name == name and name not in CONFIGS:
            CONFIGS[name] = entry.load()
    return named("config", name, CONFIGS)
