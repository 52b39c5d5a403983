"""The recipes of the paper's tasks: their sizes, on the meta device, and the schedules that the paper prints."""

import pytest
import torch

from crossflow.model.crossflow import CrossFlow
from crossflow.recipes import CONFIGS

PUBLISHED = {
    "paper-caption": 351,
    "paper-depth-kitti": 527,
    "paper-depth-nyuv2": 527,
    "paper-depth-zeroshot": 527,
    "paper-sr": 505,
}
"""Millions of parameters of the flow's network (the paper's appendix)."""


def millions(name):
    """Parameters of the network, and of network and encoder together."""
    with torch.device("meta"):
        model = CONFIGS[name].model.build(training=False)
    parts = [model.backbone, *([model.encoder] if isinstance(model, CrossFlow) else [])]
    counts = [sum(each.numel() for each in part.parameters()) / 1e6 for part in parts]
    return counts[0], sum(counts)


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_have_the_papers_sizes_and_baselines_those_of_network_and_encoder(name):
    network, whole = millions(name)
    assert network == pytest.approx(PUBLISHED[name], rel=0.03)
    assert millions(f"{name}-standard")[1] == pytest.approx(whole, rel=0.03)
    network, whole = millions(f"{name}-small")
    assert network == pytest.approx(30, rel=0.05)
    assert millions(f"{name}-small-standard")[1] == pytest.approx(whole, rel=0.03)


def test_schedules_are_those_that_the_paper_prints():
    caption = CONFIGS["paper-caption"]
    assert (caption.epochs, caption.warmup_epochs, caption.batch_size, caption.learning_rate) == (100, 5, 256, 2e-4)
    assert caption.steps == round(100 * 113_287 / 256)
    for name, items in (("kitti", 23_158), ("nyuv2", 24_231)):
        depth = CONFIGS[f"paper-depth-{name}"]
        assert (depth.epochs, depth.batch_size, depth.decay, depth.on(items).steps) == (50, 64, "cosine", depth.steps)
        assert depth.rate(0) == pytest.approx(1e-4)
        assert depth.rate(depth.steps - 1) == pytest.approx(1e-8)
    for name, steps in (("paper-depth-zeroshot", 150_000), ("paper-sr", 1_000_000)):
        recipe = CONFIGS[name]
        assert (recipe.steps, recipe.batch_size, recipe.warmup) == (steps, 512, 5_000)
        assert recipe.rate(steps - 1) == recipe.rate(5_000) == 1e-4


def test_augmentations_are_none_but_what_marigold_has():
    """Marigold mirrors; a wide image of Virtual KITTI is cut at random, because a square part of it is trained on."""
    augmented = {name: (CONFIGS[name].data.crop, CONFIGS[name].data.flip) for name in PUBLISHED}
    assert augmented.pop("paper-depth-zeroshot") == ("random", 0.5)
    assert set(augmented.values()) == {("center", 0.0)}
