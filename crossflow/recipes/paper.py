"""The recipes of the paper, in the sizes of its Figure 3."""

from collections.abc import Mapping
from dataclasses import replace

from crossflow.losses import KL, Contrast
from crossflow.model.authors_models import stages, text_to_image
from crossflow.networks.dimr import DiMRConfig
from crossflow.recipes.authors import authors_schedule
from crossflow.recipes.recipe import TrainConfig


def _paper(backbone: DiMRConfig) -> TrainConfig:
    """The paper's recipe at 256 pixels: the standard KL at weight 1e-4, a learned temperature, 300,000 steps."""
    model = text_to_image(backbone, 256, "clip-vit-l14")
    losses = (KL(weight=1e-4, form="standard"), Contrast(weight=1.0, tower="siglip-l16", scale="exp"))
    model = replace(model, losses=losses)
    return replace(authors_schedule(model, 1e-4), steps=300_000)


PAPER: Mapping[str, TrainConfig] = {
    "paper-70m": _paper(stages(384, 33, 2, heads=6)),
    "paper-150m": _paper(stages(512, 41, 2, heads=8)),
    "paper-300m": _paper(stages(640, 53, 2, heads=10)),
    "paper-500m": _paper(stages(768, 61, 2, heads=12)),
    "paper-1b": _paper(stages(1024, 65, 2)),
}
"""The sizes of the paper's Figure 3. It gives no layer sizes: these are ours, in the 1B model's proportions."""
