"""Recipes by name: ``recipe_named(name)`` is a model config, its training data and its training hyperparameters.

``CONFIGS`` are those of flows from one modality to another, ``ANY_TO_ANY`` the stages of the any-to-any system.

``scenes`` has the recipes of the embedded world, ``own`` those for images of one's own, ``authors`` those of the
authors' code, ``paper`` those of the paper's text to image and ``paper_tasks`` of its other tasks, ``ablations`` the
rows of its tables, ``anytoany`` stages.
"""

from dataclasses import replace
from importlib import metadata

from crossflow.errors import unknown
from crossflow.files.kinds import loaded
from crossflow.recipes.ablations import ABLATIONS
from crossflow.recipes.anytoany import ANY_TO_ANY, IN_ORDER
from crossflow.recipes.authors import AUTHORS, TINY
from crossflow.recipes.own import OWN
from crossflow.recipes.paper import PAPER
from crossflow.recipes.paper_tasks import PAPER_TASKS
from crossflow.recipes.recipe import TrainConfig
from crossflow.recipes.scenes import SCENES


def _with_image_features(recipe: TrainConfig) -> TrainConfig:
    """The recipe with precomputed image features in place of a SigLIP trained from random weights."""
    kl, contrast = recipe.model.terms
    losses = (kl, replace(contrast, tower="features"))
    return replace(recipe, model=replace(recipe.model, losses=losses))


CONFIGS: dict[str, TrainConfig] = {
    **SCENES,
    **OWN,
    "t2i-tiny": TINY,
    **AUTHORS,
    **PAPER,
    **PAPER_TASKS,
    **ABLATIONS,
    **{f"{name}-image-features": _with_image_features(recipe) for name, recipe in {**AUTHORS, **PAPER}.items()},
}
"""Recipe name -> recipe.

``t2i-*`` are of the authors' code, ``paper-*`` of the paper; of text to image either with ``-image-features`` is a
different recipe.

The tables at ``tiny`` start from ``scenes-t2i-short`` and ``scenes-t2i-short-standard``. They differ in the source and
in how the text enters; they have the same number of steps, and parameter counts, encoder included, within 5 %. So do
``scenes-t2i`` and ``scenes-t2i-standard``, which are trained nine times as long, and the two ``scenes-table1-*``, where
the search began. ``scenes-tiny`` and, for pairs in a folder, ``t2i-tiny`` are for tests and first tries: they run in
seconds and learn nothing.
"""
ENTRY_POINTS = "crossflow.recipes"


def recipe_named(name: str) -> TrainConfig:
    """The recipe of that name, ours or an installed package's entry point.

    CrossFlowError for another name; those of ``IN_ORDER``, such as codi, are several recipes.
    """
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        if entry.name == name and name not in CONFIGS:
            CONFIGS[name] = loaded(entry)
    known = {**CONFIGS, **ANY_TO_ANY}
    if name not in known:
        raise unknown("config", name, [*known, *IN_ORDER])
    return known[name]
