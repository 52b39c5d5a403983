"""Guidance as an object of the config: none, the indicator, and a worse version of the model."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_config import flow
from tiny_pipelines import baseline_of
from typer.testing import CliRunner

from crossflow.cli import app
from crossflow.errors import CrossFlowError
from crossflow.files.hashes import file_sha256
from crossflow.flow.guidance import Autoguidance, Indicator, NoGuidance
from crossflow.modalities.tokens import TokensConfig
from crossflow.model.checkpoint import load_checkpoint, load_model, save_checkpoint
from crossflow.model.config import ModelConfig
from crossflow.model.settings import OWN, Override, Sampling
from crossflow.networks.dit import DiTConfig
from crossflow.recipes import CONFIGS
from crossflow.sampling.text_to_image import TextToImage
from crossflow.scenes import example, render

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
    with pytest.raises(CrossFlowError, match=r"There is no file .*worse\.safetensors, which guides .*: keep it beside"):
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


TINY = replace(
    CONFIGS["scenes-tiny"].model, guidance=NoGuidance(), sampling=Sampling(solver="euler", steps=2), losses=()
)
DIT = replace(TINY, backbone=DiTConfig(width=16, depth=1, heads=2, patch=2))


def checkpoint(path: Path, seed: int, config: ModelConfig = TINY, pca: float = 0.01) -> Path:
    torch.manual_seed(seed)
    made = config.build(training=False)
    for parameter in made.backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    if made.autoencoder.fits:
        torch.nn.init.constant_(made.autoencoder.basis, pca)
    save_checkpoint(path, made)
    return path


@pytest.fixture
def pair(tmp_path) -> tuple[Path, Path]:
    """A model that was trained without guidance, and an earlier version of it."""
    return checkpoint(tmp_path / "good.safetensors", 0), checkpoint(tmp_path / "early.safetensors", 1)


@pytest.mark.parametrize("guidance", [NoGuidance(), Indicator(null_rate=0.1), Autoguidance(checkpoint="gone")])
def test_a_weaker_version_that_is_given_guides_whatever_was_trained(tmp_path, pair, guidance):
    """Both velocities are conditional ones; the file of the model stays as it is."""
    good = checkpoint(tmp_path / "other.safetensors", 0, replace(TINY, guidance=guidance))
    before = good.read_bytes()
    guided = load_model(good, weaker=pair[1])
    alone, weak = (load_model(path) for path in pair)
    x = torch.randn(2, *TINY.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        better, worse = alone.velocity(1.0)(x, T), weak.velocity(1.0)(x, T)
        assert torch.allclose(guided.velocity(2.0)(x, T), worse + 2 * (better - worse), atol=1e-5)
    assert good.read_bytes() == before


def test_the_identity_knows_the_weaker_version_and_no_other_changes(pair):
    alone = TextToImage.from_checkpoint(pair[0]).identity
    guided = TextToImage.from_checkpoint(pair[0], weaker=pair[1]).identity
    assert guided == {**alone, "autoguidance_sha256": file_sha256(pair[1])}


def test_a_weaker_version_without_a_scale_is_not_left_unused_silently(pair):
    pipeline = TextToImage.from_checkpoint(pair[0], weaker=pair[1])
    with pytest.raises(CrossFlowError, match=r"own guidance_scale is 1, at which .*early\.safetensors is not used"):
        pipeline.settings(OWN, pair[1])
    assert pipeline.settings(Override(guidance_scale=1.0), pair[1]) == TINY.sampling


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"reads": TokensConfig(model="clip")}, "input"),
        ({"path": "sincos"}, "path"),
        ({"target": replace(TINY.target, sd=1.0)}, "autoencoder"),
    ],
)
def test_a_file_that_is_no_version_of_the_model_is_refused(tmp_path, pair, change, differs):
    other = checkpoint(tmp_path / "other.safetensors", 1, replace(TINY, **change))
    with pytest.raises(CrossFlowError, match=f"is no weaker version of .*: its {differs} is not that of the model"):
        load_model(pair[0], weaker=other)


def test_an_autoencoder_that_was_fitted_to_other_images_is_refused(tmp_path, pair):
    other = checkpoint(tmp_path / "other.safetensors", 1, pca=0.02)
    with pytest.raises(CrossFlowError, match="its autoencoder is not that of the model"):
        load_model(pair[0], weaker=other)


def test_the_baseline_neither_guides_nor_is_guided(tmp_path, pair):
    baseline = checkpoint(tmp_path / "baseline.safetensors", 0, baseline_of(TINY))
    with pytest.raises(CrossFlowError, match="it holds the baseline"):
        load_model(pair[0], weaker=baseline)
    with pytest.raises(CrossFlowError, match="which no weaker version guides"):
        load_model(baseline, weaker=pair[1])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_fast_sampler_is_guided_by_it(tmp_path, precision):
    """The latents of float64 to the rounding of the precision; another weaker model gives others."""
    good, early, earlier = (checkpoint(tmp_path / f"{seed}.safetensors", seed, DIT) for seed in range(3))
    override = Override(guidance_scale=3.0, steps=3)
    images = [render(example("val", index).scene) for index in range(2)]
    found = {}
    for name, kind, weaker in (("exact", "float64", early), ("fast", precision, early), ("else", precision, earlier)):
        pipeline = TextToImage.from_checkpoint(good, precision=kind, batch_size=2, weaker=weaker)
        assert pipeline.model.tabulates
        found[name] = pipeline.to_source(images, pipeline.settings(override)).float()
    bound = {"float32": 1e-5, "bfloat16": 5e-2}[precision] * found["exact"].abs().max()
    assert (found["fast"] - found["exact"]).abs().max() < bound
    assert (found["else"] - found["exact"]).abs().max() > 2 * bound


def test_a_network_that_predicts_targets_has_no_fast_form(tmp_path):
    """Its velocity needs the time itself, of which a table keeps only the row."""
    target = checkpoint(tmp_path / "target.safetensors", 0, replace(DIT, parameterisation="target"))
    assert not load_model(target).tabulates
    with pytest.raises(CrossFlowError, match="gains nothing from bfloat16"):
        TextToImage.from_checkpoint(target, precision="bfloat16")


def test_the_command_draws_with_it(tmp_path, pair):
    given = ["sample", "--ckpt", str(pair[0]), "--weaker", str(pair[1]), "--prompt", "a ball", "--device", "cpu"]
    done = CliRunner().invoke(app, [*given, "--guidance-scale", "2", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    settings = json.loads((tmp_path / "out" / "samples.jsonl").read_text())["settings"]
    assert (settings["guidance_scale"], settings["autoguidance_sha256"]) == (2.0, file_sha256(pair[1]))
    refused = CliRunner().invoke(app, [*given, "--out", str(tmp_path / "other")])
    assert refused.exit_code == 2 and "is not used: give another." in refused.output


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
