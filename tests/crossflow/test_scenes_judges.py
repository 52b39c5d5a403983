"""The shipped judges against real renders, the truth they are measured by, and the files they refuse."""

import json

import numpy as np
import pytest
import torch

from crossflow.errors import CrossFlowError
from crossflow.scenes import example, render
from crossflow.scenes.judge_quality import clip_quality, feature_quality
from crossflow.scenes.judges import (
    WEIGHTS,
    ClipConfig,
    ClipNet,
    FeatureConfig,
    load_clip,
    load_features,
    save_judge,
)
from crossflow.scenes.spec import COLORS, SHAPES
from crossflow.scenes.train_judges import foil, main, matching_loss
from crossflow.scenes.truth import claims, facts, holds

IMAGES = [render(example("test", i).scene) for i in range(8)]


def test_the_feature_judge_names_the_attributes_of_real_renders():
    quality = feature_quality(load_features(), count=300)
    assert quality["attributes"] >= 0.95, quality
    assert min(quality["shape_of_objects"], quality["color_of_objects"], quality["night"]) >= 0.95, quality


def test_the_dual_encoder_finds_an_image_that_its_caption_is_true_of():
    quality = clip_quality(load_clip(), count=300)
    assert quality["text_to_image"] >= 0.90, quality
    assert quality["image_to_text"] >= 0.90, quality
    assert quality["cosine_true"] > quality["cosine_false"] + 0.3, quality


def test_the_feature_judge_says_which_look_an_image_has():
    """Law: probabilities of 48 looks, the likeliest one an object's of the image, and nearly all of it theirs."""
    judge = load_features()
    drawn = [example("test", index).scene for index in range(60)]
    looks = judge.looks(judge([render(scene) for scene in drawn]))
    assert looks.shape == (60, 48)
    np.testing.assert_allclose(looks.sum(axis=1), 1.0, atol=1e-12)
    shares = []
    for scene, found in zip(drawn, looks, strict=True):
        own = {8 * SHAPES.index(item.shape) + list(COLORS).index(item.color) for item in scene.objects}
        assert found.argmax() in own
        shares.append(found[list(own)].sum())
    assert np.mean(shares) > 0.9


@pytest.mark.parametrize("load", [load_features, load_clip])
def test_a_vector_depends_on_its_own_image_alone(load):
    judge = load()
    together, alone = judge(IMAGES), np.concatenate([judge([image]) for image in IMAGES])
    assert together.shape == (8, judge.dim) and together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_large_renders_look_like_small_ones_to_the_judges():
    judge = load_clip()
    large = judge([render(example("test", i).scene, 128) for i in range(8)])
    assert ((large * judge(IMAGES)).sum(axis=1) > 0.95).all()


def test_clip_vectors_have_unit_length():
    judge = load_clip()
    for vectors in (judge(IMAGES), judge.embed_texts(["a photo of a ring", "words never seen"])):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("split", ["test", "test_heldout"])
def test_every_caption_is_true_of_its_own_scene(split):
    for i in range(300):
        item = example(split, i)
        assert holds(facts(item.scene)[None], *claims(item)).all(), item.captions


def test_a_wrong_description_is_false_unless_it_says_the_same():
    rng, false = np.random.default_rng(0), 0
    for i in range(300):
        item = example("test", i)
        wrong = foil(item, rng)
        if sorted((o.shape, o.color) for o in wrong.scene.objects) == sorted(
            (o.shape, o.color) for o in item.scene.objects
        ):
            continue
        assert not holds(facts(item.scene)[None], *claims(wrong))[0, 1:].any(), (item.captions, wrong.captions)
        false += 1
    assert false > 200


def test_matching_loss_is_zero_for_certainty_and_log_n_for_ignorance():
    true = torch.eye(4, dtype=torch.bool)
    assert matching_loss(torch.eye(4) * 100.0, true).item() == pytest.approx(0.0, abs=1e-6)
    assert matching_loss(torch.zeros(4, 4), true).item() == pytest.approx(np.log(4.0), abs=1e-6)


def test_two_true_captions_share_the_mass():
    true = torch.tensor([[True, True, False], [False, False, True]])
    logits = torch.where(true, 50.0, -50.0)
    assert matching_loss(logits, true).item() == pytest.approx(0.0, abs=1e-6)


def test_the_header_says_how_and_how_well():
    for judge in (load_features(), load_clip()):
        assert judge.header["command"].startswith("python -m crossflow.scenes.train_judges ")
        assert json.loads(judge.header["quality"])
        assert len(judge.weights_sha256) == 64
    assert sum((WEIGHTS / f"scenes-{name}.safetensors").stat().st_size for name in ("features", "clip")) < 5_000_000
    assert sum(path.stat().st_size for path in WEIGHTS.glob("*.safetensors")) < 80_000_000


def test_a_saved_judge_loads_as_it_was(tmp_path):
    net = ClipNet(ClipConfig(vocabulary=("a", "ring"), features=FeatureConfig(widths=(4, 4, 4, 4), dim=8)))
    save_judge(tmp_path / "clip.safetensors", net, {"command": "none"})
    loaded = load_clip(tmp_path / "clip.safetensors")
    assert loaded.net.config == net.config
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(loaded.net.state_dict()[name], tensor, atol=2e-3, rtol=2e-3)


def test_bad_files_are_refused_with_the_command_that_makes_a_good_one(tmp_path):
    whole = (WEIGHTS / "scenes-features.safetensors").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text").write_bytes(b"not weights")
    (tmp_path / "whole").write_bytes(whole)
    for load, name, said in [
        (load_features, "none", "There is no judge"),
        (load_features, "cut", "not a whole safetensors file"),
        (load_clip, "text", "not a whole safetensors file"),
        (load_clip, "whole", "no judge of kind clip"),
    ]:
        with pytest.raises(CrossFlowError, match=rf"{said}.*train_judges"):
            load(tmp_path / name)


def test_another_layout_of_image_and_an_empty_text_are_errors():
    with pytest.raises(CrossFlowError, match=r"uint8 \[h w 3\]"):
        load_features()([np.zeros((32, 32), dtype=np.uint8)])
    with pytest.raises(CrossFlowError, match="no word"):
        load_clip().embed_texts([""])


@pytest.mark.parametrize("judge", ["features", "clip"])
def test_the_training_command_runs_and_repeats_itself(judge, tmp_path):
    for name in ("a", "b"):
        main([judge, "--steps", "3", "--examples", "64", "--measured", "100", "--out", str(tmp_path / name)])
    tensors = [(tmp_path / name / f"scenes-{judge}.safetensors").read_bytes() for name in ("a", "b")]
    loaded = [(load_features if judge == "features" else load_clip)(p) for p in tmp_path.glob("*/*")]
    assert len(tensors[0]) > 1000
    for name, tensor in loaded[0].net.state_dict().items():
        assert torch.equal(tensor, loaded[1].net.state_dict()[name])
