"""Colours against open_clip's own zero-shot classifier and Pillow's own cutting, on a tiny random CLIP."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image

from crossflow.errors import CrossFlowError
from crossflow_eval.judges.geneval.colors import cut_out
from crossflow_eval.metrics.geneval import COLOR_ORDER, ColorClassifier, Detection

LABEL = "traffic light"


@pytest.fixture(scope="module")
def clip() -> open_clip.CLIP:
    torch.manual_seed(0)
    vision = {"layers": 1, "width": 64, "head_width": 64, "patch_size": 8, "image_size": 32}
    text = {"width": 64, "heads": 1, "layers": 1}
    model = open_clip.CLIP(16, vision_cfg=vision, text_cfg=text, quick_gelu=True)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


@pytest.fixture(scope="module")
def weights(clip, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "tiny.pt"
    torch.save(clip.state_dict(), path)
    return path


def picture(seed: int) -> tuple[np.ndarray, Detection]:
    """An object of random stripes on noise, detected."""
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, size=(40, 60, 3), dtype=np.uint8)
    image[:, ::2] = generator.integers(0, 256, size=3, dtype=np.uint8)
    mask = np.zeros((40, 60), bool)
    left, top = generator.integers(0, 30, size=2)
    mask[top : top + 9, left : left + 25] = generator.random((9, 25)) > 0.3
    return image, Detection(LABEL, 0.9, (int(left), int(top), int(left) + 25, int(top) + 9), mask=mask)


def test_an_object_is_cut_out_as_pillow_does_it():
    image, detection = picture(0)
    grey = Image.new("RGB", (60, 40), "#999")
    expected = Image.composite(Image.fromarray(image), grey, Image.fromarray(detection.mask)).crop(detection.box)
    assert (cut_out(image, detection) == np.asarray(expected)).all()


def test_a_detection_without_mask_is_an_error():
    with pytest.raises(ValueError, match="mask"):
        cut_out(picture(0)[0], Detection(LABEL, 1.0, (0, 0, 2, 2)))


def test_colors_are_those_of_open_clip(clip, weights):
    """Oracle: open_clip's transform, towers and zero-shot classifier with the three sentences of GenEval."""
    templates = [f"a photo of a {{}} {LABEL}", f"a photo of a {{}}-colored {LABEL}", "a photo of a {} object"]
    texts = open_clip.build_zero_shot_classifier(clip, open_clip.tokenize, COLOR_ORDER, templates)
    transform = image_transform(32, is_train=False)
    classifier = ColorClassifier.from_weights(weights)
    named, expected = [], []
    for seed in range(12):
        image, detection = picture(seed)
        cut = transform(Image.fromarray(cut_out(image, detection)))
        with torch.no_grad():
            scores = clip.encode_image(cut[None], normalize=True) @ texts
        expected.append(COLOR_ORDER[int(scores.argmax())])
        named += classifier(image, [detection], LABEL)
    assert named == expected
    assert len(set(named)) > 1


def test_several_objects_are_named_as_each_alone(weights):
    classifier = ColorClassifier.from_weights(weights)
    image, first = picture(1)
    second = picture(2)[1]
    assert classifier(image, [first, second], LABEL) == [*classifier(image, [first], LABEL),
                                                         *classifier(image, [second], LABEL)]  # fmt: skip


def test_the_protocol_says_how(weights):
    protocol = ColorClassifier.from_weights(weights).protocol
    assert protocol["activation"] == "QuickGELU"
    assert len(protocol["weights_sha256"]) == 64
    with pytest.raises(CrossFlowError, match="expected b8cca3fd"):
        ColorClassifier.from_weights(weights, "b8cca3fd")
