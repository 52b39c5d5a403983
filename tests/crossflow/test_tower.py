"""The image towers read what they say, answer in the latent's shape, and scale as the paper or as the authors do."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from crossflow.errors import CrossFlowError
from crossflow.losses.towers import FeatureTower, FrozenSiglip, LatentTower, PlaceTower, SiglipTower

SHAPE = (4, 8, 8)


class Recorder(nn.Module):
    """In place of SigLIP: keeps what it is given, answers with the mean of every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 1024)
        self.checkpointing = None

    def set_grad_checkpointing(self, enable: bool) -> None:
        self.checkpointing = enable

    def forward(self, pixels):
        self.seen = pixels
        return self.mix(pixels.mean((2, 3)))


@pytest.fixture
def siglip(monkeypatch) -> SiglipTower:
    monkeypatch.setattr("open_clip.timm_model.TimmModel", lambda *given, **how: Recorder())
    torch.manual_seed(0)
    return SiglipTower(SHAPE, "raw")


def test_siglip_sees_pixels_from_minus_one_to_one(siglip):
    image = torch.randint(256, (2, 256, 256, 3), dtype=torch.uint8)
    image[0, 0, 0] = torch.tensor([0, 128, 255])
    assert siglip(image).shape == (2, *SHAPE)
    assert torch.allclose(siglip.visual.seen, image.permute(0, 3, 1, 2) / 127.5 - 1, atol=1e-6)
    assert siglip.visual.seen[0, :, 0, 0].tolist() == pytest.approx([-1, 128 / 127.5 - 1, 1], abs=1e-6)


def test_larger_images_are_brought_to_256(siglip):
    """Averaging: pairs of pixels of 512 meet in the middle of a smooth ramp."""
    ramp = (torch.arange(512) / 2).floor().to(torch.uint8)
    siglip(ramp[None, None, :, None].expand(1, 512, 512, 3))
    seen = (siglip.visual.seen[0, 0, 100] + 1) * 127.5
    assert torch.allclose(seen[2:-2], torch.arange(256.0)[2:-2], atol=0.5)


@pytest.mark.parametrize("kept", [True, False])
def test_siglip_keeps_no_activations_when_told(siglip, kept):
    siglip.checkpointing = not kept
    siglip(torch.zeros(1, 256, 256, 3, dtype=torch.uint8))
    assert siglip.visual.checkpointing is not kept


def test_siglip_is_the_authors_network():
    """SigLIP-L/16 of open_clip without its text side, with the head for 256 and for 512 pixels."""
    for shape, head in (((4, 32, 32), 20_987_904), ((4, 64, 64), 21_803_652)):
        with torch.device("meta"):
            tower = SiglipTower(shape, "raw")
        assert sum(part.numel() for part in tower.head.parameters()) == head
        assert sum(part.numel() for part in tower.parameters()) - head == 315_956_225


def test_a_frozen_siglip_is_open_clips_file(tmp_path, monkeypatch):
    """Its image side alone is read, and nothing else stands in for it."""
    monkeypatch.setattr("open_clip.timm_model.TimmModel", lambda *given, **how: Recorder())
    torch.manual_seed(0)
    trained = Recorder()
    state = {f"visual.{name}": part for name, part in trained.state_dict().items()} | {"logit_scale": torch.ones(1)}
    save_file(state, tmp_path / "open_clip_model.safetensors")
    images = torch.randint(0, 256, (2, 256, 256, 3), dtype=torch.uint8)
    found = FrozenSiglip(tmp_path / "open_clip_model.safetensors").features(images)
    assert torch.equal(found, trained(images.permute(0, 3, 1, 2) / 127.5 - 1).detach())
    save_file({"visual.other": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CrossFlowError, match=r"other\.safetensors does not hold the image side of .*: give open_clip"):
        FrozenSiglip(tmp_path / "other.safetensors")


def test_features_are_projected():
    torch.manual_seed(0)
    tower = FeatureTower(SHAPE, "raw")
    features = torch.randn(3, 1024)
    assert tower(features).shape == (3, *SHAPE)
    assert torch.allclose(tower(features)[1], tower(features[1:2])[0], atol=1e-6)


def test_a_place_is_compared_by_itself():
    """Law: what it says of a place is changed by that place alone, and is the same wherever the place is."""
    torch.manual_seed(0)
    tower = PlaceTower(SHAPE, "exp")
    target = torch.randn(2, *SHAPE)
    other = target.clone()
    other[:, :, 1, 2] += 1
    apart = (tower(target) - tower(other)).abs().amax((0, 1))
    assert apart[1, 2] > 0.01
    assert (apart > 0).sum() == 1
    torch.testing.assert_close(tower(target.roll(1, 3)), tower(target).roll(1, 3))


@pytest.mark.parametrize("kind", [LatentTower, PlaceTower, FeatureTower])
def test_the_scale_is_learned_in_both_forms(kind):
    """1/0.07 in the paper's form, never above 100; the logarithm itself in the authors'."""
    paper, authors = kind(SHAPE, "exp"), kind(SHAPE, "raw")
    assert paper.scale.item() == pytest.approx(1 / 0.07)
    assert authors.scale.item() == pytest.approx(math.log(1 / 0.07))
    for tower in (paper, authors):
        tower.scale.backward()
        assert tower.log_scale.grad.item() != 0
        tower.log_scale.data.fill_(5)
    assert paper.scale.item() == 100
    assert authors.scale.item() == 5
