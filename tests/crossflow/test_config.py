"""A config says what a model is, builds it, and refuses in one sentence what cannot be."""

from dataclasses import asdict, replace
from importlib import metadata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from crossflow.errors import CrossFlowError
from crossflow.flow.guidance import Autoguidance, Indicator, NoGuidance
from crossflow.losses import KL, Contrast, ImageReconstruction, TextContrast, TextReconstruction
from crossflow.modalities.clip_text import CLIPTextConfig
from crossflow.modalities.depth import DepthConfig, RelativeDepthConfig
from crossflow.modalities.latents import LatentsConfig
from crossflow.modalities.patch_pca import PatchPCAConfig
from crossflow.modalities.pixels import ImageConfig, PixelsConfig
from crossflow.modalities.text_autoencoder import TextAutoencoderConfig
from crossflow.modalities.tokens import TokensConfig
from crossflow.model.config import ModelConfig
from crossflow.model.crossflow import FlowConfig
from crossflow.model.settings import Sampling
from crossflow.model.standard import StandardConfig
from crossflow.networks.dimr import DiMRConfig, Stage
from crossflow.networks.transformer import TransformerConfig
from crossflow.recipes import CONFIGS, recipe_named
from crossflow.sources.codec import CodecConfig
from crossflow.sources.fixed import DeterministicConfig, FixedNoiseConfig
from crossflow.sources.image import ImageEncoderConfig
from crossflow.sources.upsample import UpsampleConfig
from crossflow.sources.variational import VariationalConfig
from crossflow.training.data.scenes import of_scene

TEXT = VariationalConfig(width=8, depth=1, heads=1)
IMAGE = ImageEncoderConfig(width=8, depth=1, heads=1, patch=4)
READS = (
    TokensConfig(count=4, width=6),
    ImageConfig(shape=(3, 8, 8), name="photo"),
    LatentsConfig(shape=(3, 4, 4), name="depth"),
)
SOURCES = (
    TEXT,
    IMAGE,
    UpsampleConfig(factor=1),
    DeterministicConfig(mean_of=TEXT),
    FixedNoiseConfig(mean_of=IMAGE, sd=0.5),
    CodecConfig(sd=0.5),
)
TARGETS = (
    PatchPCAConfig(patch=2, components=3),
    PixelsConfig(),
    DepthConfig(),
    TextAutoencoderConfig(words=("a", "b"), count=3, width=8, depth=1, heads=1),
    RelativeDepthConfig(),
    CLIPTextConfig(width=8, depth=1, heads=1, known=(320, 1929)),
    LatentsConfig(shape=(3, 4, 4), name="audio"),
)
LOSSES = (
    KL(weight=1e-3),
    Contrast(weight=0.1),
    Contrast(weight=0.1, tower="features"),
    TextContrast(weight=0.1, width=8, heads=1),
    TextReconstruction(weight=0.1, width=8, heads=1),
    ImageReconstruction(weight=0.1, patch=4),
)
GUIDANCES = (NoGuidance(), Indicator(null_rate=0.1), Autoguidance(checkpoint="worse.safetensors"))
BACKBONE = TransformerConfig(width=8, depth=1, heads=1, patch=2)


def flow(**fields: Any) -> FlowConfig:
    """A text-to-image model with ``fields`` in place of its own."""
    own = {
        "shape": (3, 4, 4),
        "reads": READS[0],
        "source": TEXT,
        "target": TARGETS[0],
        "backbone": BACKBONE,
        "losses": (KL(weight=1e-3),),
    }
    return FlowConfig(**(own | fields))


def refused(**fields: Any) -> str:
    with pytest.raises(CrossFlowError) as caught:
        flow(**fields)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(READS),
    st.sampled_from(SOURCES),
    st.sampled_from(TARGETS),
    st.lists(st.sampled_from(LOSSES), max_size=3, unique_by=lambda term: term.name),
    st.sampled_from(GUIDANCES),
    st.sampled_from([1.0, 2.0]),
)
def test_a_config_either_is_refused_in_a_sentence_or_builds(reads, source, target, losses, guidance, scale):
    """And whatever stands never has a loss that is infinite, or a term that cannot see what it reads."""
    try:
        shape = (1, 4, 4) if target.kind == "depth" else (3, 4, 4)
        config = flow(
            shape=shape,
            reads=reads,
            source=source,
            target=target,
            losses=tuple(losses),
            guidance=guidance,
            sampling=Sampling(guidance_scale=scale),
        )
        model = config.build()
    except CrossFlowError as error:
        assert str(error).endswith(".")
        assert "\n" not in str(error)
        return
    assert source.accepts == reads.kind
    assert scale == 1 or guidance.kind != "none"
    assert all(term.name != "kl" or source.variance == "learned" for term in losses)
    assert {name.split(".")[0] for name in config.build(training=False).state_dict()}.isdisjoint({"terms"})
    assert set(model.terms) == {term.name for term in losses}
    assert TypeAdapter(ModelConfig).validate_python(asdict(config)) == config


def test_a_kl_needs_a_variance_that_is_learned():
    photo = ImageConfig(shape=(3, 4, 4), name="photo")
    assert "learned" in refused(reads=photo, source=UpsampleConfig(factor=1))
    assert "learned" in refused(source=DeterministicConfig(mean_of=TEXT))
    assert "learned" in refused(source=FixedNoiseConfig(mean_of=TEXT, sd=0.3))


def test_a_source_reads_what_it_accepts():
    assert refused(source=IMAGE) == "The source image reads image, not tokens."
    assert refused(reads=READS[1]) == "The source variational reads tokens, not image."


def test_both_ends_have_names_of_their_own():
    assert "another name" in refused(reads=ImageConfig(shape=(3, 8, 8)), source=IMAGE)


def test_guidance_is_trained_or_not_asked_for():
    assert "guidance_scale is 2.0" in refused(guidance=NoGuidance(), sampling=Sampling(guidance_scale=2.0))
    with pytest.raises(CrossFlowError, match="null_rate is 0"):
        Indicator(null_rate=0.0)


@pytest.mark.parametrize(
    "name", ["../worse.safetensors", "/worse.safetensors", "", "..", "runs/worse.safetensors", "worse\0"]
)
def test_autoguidance_names_a_file_beside_the_models_own(name):
    with pytest.raises(CrossFlowError, match="in the folder of the model's own"):
        Autoguidance(checkpoint=name)


def test_a_contrast_sees_the_items_own_targets():
    text = TARGETS[3]
    assert "null items" in refused(
        reads=READS[1], source=IMAGE, target=text, losses=(Contrast(weight=0.1),), guidance=Indicator()
    )
    assert "tower latents" in refused(
        reads=READS[1], source=IMAGE, target=text, losses=(Contrast(tower="features"),), guidance=NoGuidance()
    )
    assert "Hard negatives" in refused(
        reads=READS[1], source=IMAGE, losses=(Contrast(hard_negatives=True),), guidance=NoGuidance()
    )


def test_a_model_may_compare_by_places_and_as_a_whole():
    """Each with a loss of its own name; two of one name are refused."""
    whole, places = Contrast(), Contrast(tower="places")
    assert set(flow(losses=(whole, places)).build().terms) == {"contrastive", "contrastive_places"}
    assert "Two terms of the loss have one name" in refused(losses=(places, places))


def test_a_network_of_several_resolutions_predicts_velocities():
    low = Stage(block="transformer", width=8, hidden=8, depth=1, patch=2)
    dimr = DiMRConfig(stages=(low, Stage(block="convnext", width=8, hidden=8, depth=1, patch=1)))
    weights = {"backbone": dimr, "stage_weights": (0.25, 1.0)}
    assert flow(**weights).backbone.resolutions == 2
    assert "predicts velocities" in refused(**weights, parameterisation="target")
    assert "stage_weights" in refused(backbone=dimr)


def test_a_condition_in_channels_is_an_image():
    with pytest.raises(CrossFlowError, match="in channels is an image, not tokens"):
        StandardConfig(shape=(3, 4, 4), reads=READS[0], target=TARGETS[0], backbone=BACKBONE, condition="channels")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_recipes_config_is_its_own_json(name):
    config = CONFIGS[name].model
    assert TypeAdapter(ModelConfig).validate_python(asdict(config)) == config


def test_one_term_a_name():
    assert "one name in the log" in refused(losses=(KL(weight=1e-3), KL(weight=1e-2)))


def test_sampling_settings_are_overridden_as_one():
    from crossflow.model.settings import Override

    own = Sampling(solver="euler", steps=3, guidance_scale=2.0, noise=0.5)
    assert own.but(Override()) == own
    assert own.but(Override(steps=7, noise=0.0)) == replace(own, steps=7, noise=0.0)
    with pytest.raises(CrossFlowError, match="noise is 2"):
        own.but(Override(noise=2.0))


@pytest.mark.parametrize(
    "change",
    [
        *({name: 0} for name in ("steps", "batch_size", "accumulate", "warmup", "log_every", "save_every")),
        {"learning_rate": float("nan")}, {"weight_decay": -0.1}, {"betas": (0.9, 1.0)}, {"ema": 1.0}, {"clip": 0.0},
    ],
)  # fmt: skip
def test_a_number_that_a_training_would_stumble_over_is_named(change):
    with pytest.raises(CrossFlowError, match=f"{next(iter(change))} (is|are) "):
        replace(CONFIGS["scenes-tiny"], **change)


def test_an_unknown_recipe_is_answered_by_the_nearest_and_not_by_all():
    with pytest.raises(CrossFlowError, match=r"Did you mean 'codi'\? Available: .* and \d+ more") as caught:
        recipe_named("cody")
    assert len(str(caught.value)) < 1500


def test_a_package_of_others_that_is_broken_is_in_nobodys_way_but_its_own(monkeypatch):
    entries = [metadata.EntryPoint("mine", "no.such.module:Config", "crossflow.sources")]
    monkeypatch.setattr(metadata, "entry_points", lambda group: entries if group == "crossflow.sources" else [])
    tiny = CONFIGS["scenes-tiny"].model
    assert TypeAdapter(ModelConfig).validate_python(asdict(tiny)) == tiny
    with pytest.raises(CrossFlowError, match=r"'mine' of crossflow\.sources cannot be imported from no\.such\.module"):
        TypeAdapter(ModelConfig).validate_python(asdict(tiny) | {"source": {"kind": "mine"}})


def test_pairs_in_a_folder_are_of_texts():
    recipe = CONFIGS["t2i-tiny"]
    reads = ImageConfig(shape=(3, 32, 32), name="small image")
    source = ImageEncoderConfig(width=16, depth=1, heads=2, patch=8)
    with pytest.raises(CrossFlowError, match="this model reads image"):
        replace(recipe, model=replace(recipe.model, reads=reads, source=source))


def test_a_scene_has_no_sound():
    with pytest.raises(CrossFlowError, match="Unknown modality of scenes 'audio'"):
        of_scene("audio", [], 32, CONFIGS["scenes-tiny"].model)
