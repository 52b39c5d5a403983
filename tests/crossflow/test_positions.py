"""Position embeddings of the scale of the content."""

from dataclasses import asdict, replace

import pytest
import torch

from crossflow.errors import CrossFlowError
from crossflow.losses import Contrast
from crossflow.losses.towers import LatentTower
from crossflow.networks.blocks import PatchTokens
from crossflow.recipes import CONFIGS

SHAPE = (3, 4, 4)


@pytest.mark.parametrize(("start", "scale"), [("small", 0.02), ("unit", 1.0)])
def test_positions_start_at_the_scale_that_their_name_says(start, scale):
    torch.manual_seed(0)
    embedding = PatchTokens(SHAPE, 1, 128, start).position
    assert embedding.square().mean().sqrt().item() == pytest.approx(scale, rel=0.1)
    assert embedding.requires_grad


def test_a_tower_has_the_positions_of_its_contrast():
    torch.manual_seed(0)
    tower = Contrast(positions="unit").build((5, 6), SHAPE).tower
    assert isinstance(tower, LatentTower)
    assert tower.patches.position.std().item() == pytest.approx(1.0, rel=0.1)
    with pytest.raises(CrossFlowError, match="positions of its own"):
        Contrast(tower="features", positions="unit")


def test_positions_change_no_name_and_no_shape_of_a_weight():
    model = CONFIGS["scenes-tiny"].model
    other = replace(model, backbone=replace(model.backbone, positions="unit"))
    shapes = [{name: part.shape for name, part in each.build().state_dict().items()} for each in (model, other)]
    assert shapes[0] == shapes[1]
    assert asdict(model)["backbone"]["positions"] == "small"
