"""Guidance as an object of the config: none, the indicator, and a worse version of the model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_config import flow

from crossflow.errors import CrossFlowError
from crossflow.flow.guidance import Autoguidance, Indicator, NoGuidance
from crossflow.model.checkpoint import load_checkpoint, save_checkpoint
from crossflow.model.settings import Override, Sampling
from crossflow.recipes import CONFIGS
from crossflow.sampling.text_to_image import TextToImage

SHAPE = (3, 4, 4)
X0, T = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0)), torch.tensor([0.2, 0.7])


def model(seed: int, **fields: object):
    torch.manual_seed(seed)
    made = flow(**fields).build(training=False).eval()
    torch.nn.init.normal_(made.backbone.patches.out.weight)  # zero at first, and so would be every velocity
    return made


def test_without_guidance_the_velocity_is_the_conditional_one():
    one = model(0, guidance=NoGuidance())
    expected = one.backbone(X0, T, torch.ones(2, dtype=torch.bool))
    assert torch.equal(one.velocity(1.0)(X0, T), expected)
    with pytest.raises(CrossFlowError, match="trained without guidance"):
        one.velocity(2.0)


def test_the_indicator_is_the_object_of_most_recipes():
    one = model(0, guidance=Indicator(null_rate=0.1))
    yes, no = (one.backbone(X0, T, torch.full((2,), given)) for given in (True, False))
    assert torch.allclose(one.velocity(3.0)(X0, T), no + 3 * (yes - no), atol=1e-5)


def saved(folder: Path) -> Path:
    save_checkpoint(folder / "worse.safetensors", model(1, guidance=NoGuidance()))
    good = model(0, guidance=Autoguidance(checkpoint="worse.safetensors"))
    save_checkpoint(folder / "good.safetensors", good)
    return folder / "good.safetensors"


def test_a_worse_version_guides(tmp_path):
    one = load_checkpoint(saved(tmp_path))
    worse = load_checkpoint(tmp_path / "worse.safetensors")
    with torch.no_grad():
        good, bad = one.velocity(1.0)(X0, T), worse.velocity(1.0)(X0, T)
        assert torch.allclose(one.velocity(2.5)(X0, T), bad + 2.5 * (good - bad), atol=1e-5)
    assert not torch.allclose(good, bad)


def test_the_worse_version_stays_a_file_of_its_own(tmp_path):
    path = saved(tmp_path)
    save_checkpoint(tmp_path / "again.safetensors", load_checkpoint(path))
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_a_worse_version_that_is_not_there_is_named(tmp_path):
    path = saved(tmp_path)
    (tmp_path / "worse.safetensors").unlink()
    with pytest.raises(CrossFlowError, match=r"There is no file .*worse\.safetensors"):
        load_checkpoint(path)


def test_a_worse_version_of_other_latents_is_refused(tmp_path):
    path = saved(tmp_path)
    other = flow(shape=(3, 2, 2), guidance=NoGuidance()).build(training=False)
    save_checkpoint(tmp_path / "worse.safetensors", other)
    with pytest.raises(CrossFlowError, match="is no weaker version of"):
        load_checkpoint(path)


def test_a_model_may_name_itself_without_end(tmp_path):
    save_checkpoint(tmp_path / "self.safetensors", model(0, guidance=Autoguidance(checkpoint="self.safetensors")))
    one = load_checkpoint(tmp_path / "self.safetensors")
    with torch.no_grad():
        assert torch.allclose(one.velocity(3.0)(X0, T), one.velocity(1.0)(X0, T), atol=1e-5)


def test_images_are_drawn_by_it_and_know_both_files(tmp_path):
    config = CONFIGS["scenes-tiny"].model
    none = replace(config, guidance=NoGuidance(), sampling=Sampling(solver="euler", steps=2))
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "worse.safetensors", none.build(training=False))
    guided = replace(none, guidance=Autoguidance(checkpoint="worse.safetensors"))
    torch.manual_seed(1)
    save_checkpoint(tmp_path / "good.safetensors", guided.build(training=False))
    pipeline = TextToImage.from_checkpoint(tmp_path / "good.safetensors")
    assert len(pipeline.identity["autoguidance_sha256"]) == 64
    prompts = ["a photo of a red ball"]
    for scale in (1.0, 2.0):
        images = pipeline.generate(prompts, [0], Override(guidance_scale=scale))
        assert images[0].shape == (32, 32, 3)
