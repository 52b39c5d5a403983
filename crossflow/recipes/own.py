"""Recipes for images of one's own: each task, with its baseline, at a size that a CPU trains without any download.

What belongs to an image lies beside it (``training/data/sets/images.py``). Ends and networks are those of the embedded
world's and of the paper's recipes, at sizes between the two; nothing was tuned. Larger are ``paper-*-small`` with
``crossflow train --layout images``.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from crossflow.losses import KL, ImageReconstruction
from crossflow.modalities.clip_text import CLIPTextConfig
from crossflow.modalities.depth import DepthConfig
from crossflow.modalities.patch_pca import PatchPCAConfig
from crossflow.modalities.tokens import TokensConfig
from crossflow.recipes.paper_tasks import TASKS, VARIED, Task
from crossflow.recipes.recipe import SetData, TrainConfig
from crossflow.recipes.scenes import SCENES

DRAWN, SEEN = 64, 128
"""Pixels a side of the images that are made of a text, and of those of the other tasks."""
TOKENS = 32
"""Tokens of a caption that are read; people write about fifteen of a photograph."""
NETWORK = {"width": 192, "heads": 6, "depth": 6}
"""The sizes of the flow's network."""
SCHEDULE: Mapping[str, Any] = {
    "steps": 4_000,
    "optimizer": "muon",
    "learning_rate": 2e-3,
    "final_learning_rate": 0.02,
    "warmup": 100,
    "betas": (0.9, 0.95),
    "weight_decay": 0.01,
    "clip": 1.0,
    "ema": 0.999,
    "precision": "auto",
    "save_every": 500,
    "sample_every": 1_000,
}
"""That of the embedded world's recipes."""


def _of_text(name: str, depth: int) -> TrainConfig:
    """A recipe of scenes, of photographs: 64 patches of 48 principal components, which are fitted to the images."""
    recipe = SCENES[name]
    model = replace(
        recipe.model,
        shape=(48, DRAWN // 8, DRAWN // 8),
        reads=TokensConfig(count=TOKENS),
        target=PatchPCAConfig(patch=8, components=48, sd=0.35),
        backbone=replace(recipe.model.backbone, **{**NETWORK, "depth": depth}),
    )
    data = SetData(layouts=("images",), size=(DRAWN, DRAWN))
    return replace(recipe, model=model, data=data, **SCHEDULE)


def _of_images(name: str, standard: int, **changes: Any) -> dict[str, TrainConfig]:
    """One of the paper's tasks on images of ``SEEN`` pixels, and its baseline of ``standard`` blocks."""
    whole = TASKS[name]
    data = SetData(layouts=("images",), size=(SEEN, SEEN))
    sizes = {"reads": replace(whole.reads, shape=(3, SEEN, SEEN)), "standard": (standard, standard), **NETWORK}
    training = {"data": data, "steps": 1, "batch_size": 16}
    task: Task = replace(whole, **{**sizes, "training": training, **changes})
    own = name.replace("paper-", "own-").removesuffix("-nyuv2")
    return {recipe: replace(config, **SCHEDULE) for recipe, config in task.pair(own).items()}


OWN: Mapping[str, TrainConfig] = {
    "own-t2i": _of_text("scenes-t2i-short", 6),
    "own-t2i-standard": _of_text("scenes-t2i-short-standard", 5),
    **_of_images(
        "paper-caption",
        8,
        shape=(8, 8, 8),
        target=CLIPTextConfig(count=TOKENS, width=128, depth=2, heads=4, varied=VARIED),
    ),
    **_of_images(
        "paper-depth-nyuv2",
        10,
        shape=(1, SEEN, SEEN),
        target=DepthConfig(nearest=0.1, farthest=100.0),
        cells=8,
        patch=8,
        losses=(KL(weight=1e-5), ImageReconstruction(weight=0.1, patch=8)),
    ),
    **_of_images(
        "paper-sr",
        6,
        reads=replace(TASKS["paper-sr"].reads, shape=(3, SEEN // 4, SEEN // 4)),
        shape=(3, SEEN, SEEN),
    ),
}
"""Recipe name -> recipe."""
