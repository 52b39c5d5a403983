"""The named recipes are those of the authors' program and of the paper, number by number."""

from dataclasses import replace

import pytest
import torch

from crossflow.errors import CrossFlowError
from crossflow.modalities.kl_autoencoder import KLConfig
from crossflow.modalities.patch_pca import PatchPCAConfig
from crossflow.model.crossflow import CrossFlow
from crossflow.networks.dimr import DiMR
from crossflow.recipes import CONFIGS
from crossflow.recipes.recipe import EventData, PairData, SceneData

RATES = {
    "t2i-256px-clip-dimr": 1e-5,
    "t2i-256px-t5-dimr": 5e-5,
    "t2i-512px-clip-dimr": 1e-5,
    "t2i-512px-t5-dimr": 1e-5,
    "t2i-512px-t5-dit": 2e-5,
    "t2i-training-demo": 1e-5,
}
SIZES = {"paper-70m": 70e6, "paper-150m": 150e6, "paper-300m": 300e6, "paper-500m": 500e6, "paper-1b": 0.95e9}
TOTALS = {
    "t2i-256px-clip-dimr": 1_397_879_531,
    "t2i-256px-t5-dimr": 1_452_920_459,
    "t2i-512px-clip-dimr": 1_420_681_467,
    "t2i-512px-t5-dimr": 1_465_629_851,
    "t2i-512px-t5-dit": 1_549_168_541,
    "t2i-training-demo": 824_143_755,
}
"""All that the authors' program trains, image tower and temperature counted."""


@pytest.mark.parametrize("name", RATES)
def test_the_authors_recipes(name):
    recipe = CONFIGS[name]
    model, size = recipe.model, 512 if "512" in name or "demo" in name else 256
    assert recipe.learning_rate == RATES[name]
    assert (recipe.optimizer, recipe.betas, recipe.weight_decay, recipe.clip) == ("adamw", (0.9, 0.9), 0.03, None)
    assert (recipe.warmup, recipe.steps, recipe.ema) == (5_000, 1_000_000, 0.9999)
    assert recipe.batch_size == (4 if "demo" in name else 1024)
    assert recipe.data == PairData(size=size)
    assert model.shape == (4, size // 8, size // 8)
    assert (model.reads.model, *model.reads.shape) == (
        ("t5-v1.1-xxl", 77, 4096) if "t5" in name else ("clip-vit-l14", 77, 768)
    )
    kl, contrast = model.losses
    assert (kl.form, kl.weight, contrast.weight) == ("official", 1e-2, 1.0)
    assert (contrast.scale, contrast.tower) == ("raw", "siglip-l16")
    assert model.guidance.null_rate == (0.15 if name.startswith("t2i-512px") and "dimr" in name else 0.1)
    stages = {"t2i-512px-t5-dit": (1.0,), "t2i-256px-clip-dimr": (0.25, 1.0), "t2i-256px-t5-dimr": (0.25, 1.0)}
    assert model.stage_weights == stages.get(name, (0.25, 0.5, 1.0))
    assert (model.sampling.solver, model.sampling.steps, model.sampling.guidance_scale) == ("euler_official", 50, 7.0)


@pytest.mark.parametrize("name", SIZES)
def test_the_papers_recipes(name):
    """The size is that of the backbone, within 3 %; the losses are the paper's."""
    recipe = CONFIGS[name]
    model = recipe.model
    with torch.device("meta"):
        backbone = DiMR(model.backbone, model.shape)
    assert sum(part.numel() for part in backbone.parameters()) == pytest.approx(SIZES[name], rel=0.03)
    kl, contrast = model.losses
    assert (kl.form, kl.weight, contrast.scale, model.guidance.null_rate) == ("standard", 1e-4, "exp", 0.1)
    assert (recipe.learning_rate, recipe.warmup, recipe.batch_size, recipe.steps) == (1e-4, 5_000, 1024, 300_000)
    assert (recipe.betas, recipe.weight_decay) == ((0.9, 0.9), 0.03)


@pytest.mark.parametrize("name", TOTALS)
def test_training_has_the_authors_parameters(name):
    with torch.device("meta"):
        training = CONFIGS[name].model.build()
    assert isinstance(training, CrossFlow)
    assert sum(part.numel() for part in training.parameters()) == TOTALS[name]


def test_image_features_are_another_recipe():
    """Named as one, and different in nothing but the tower."""
    for name in [*RATES, *SIZES]:
        recipe, other = CONFIGS[name], CONFIGS[f"{name}-image-features"]
        kl, contrast = other.model.losses
        assert contrast.tower == "features"
        losses = (kl, replace(contrast, tower=recipe.model.losses[1].tower))
        assert replace(other, model=replace(other.model, losses=losses)) == recipe


def test_the_rate_of_the_authors_rises_and_stays():
    recipe = CONFIGS["t2i-256px-clip-dimr"]
    rates = [recipe.rate(step) for step in (0, 2_499, 4_999, 5_000, 500_000, 999_999)]
    assert rates == pytest.approx([1e-5 / 5_000, 0.5e-5, 1e-5, 1e-5, 1e-5, 1e-5])


def test_parts_that_do_not_fit_are_refused():
    tiny, scenes = CONFIGS["t2i-tiny"], CONFIGS["scenes-tiny"]
    with pytest.raises(CrossFlowError, match="Images of 64 pixels do not have latents of"):
        replace(tiny, data=PairData(size=64))
    with pytest.raises(CrossFlowError, match="Pairs in a folder are encoded by the KL autoencoder"):
        replace(tiny, data=SceneData())
    with pytest.raises(CrossFlowError, match="Pairs in a folder are encoded by the KL autoencoder"):
        replace(scenes, model=replace(scenes.model, target=KLConfig()))
    with pytest.raises(CrossFlowError, match="Pairs in a folder are encoded by the KL autoencoder"):
        replace(tiny, model=replace(tiny.model, target=PatchPCAConfig(patch=8, components=4)))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SceneData(count=0), "count is 0"),
        (lambda: EventData(count=-1), "count is -1"),
        (lambda: SceneData(size=0), "size is 0"),
        (lambda: SceneData(captions=()), "captions are"),
        (lambda: SceneData(captions=(0, 6)), "indices from 0 to 5"),
    ],
)
def test_data_that_cannot_be_drawn_are_refused_where_they_are_written(make, said):
    with pytest.raises(CrossFlowError, match=said):
        make()


@pytest.mark.parametrize("name", [name for name in CONFIGS if "standard" in name])
def test_a_baseline_is_sampled_from_the_noise_that_it_is_trained_from(name):
    assert CONFIGS[name].model.sampling.noise == 1.0
