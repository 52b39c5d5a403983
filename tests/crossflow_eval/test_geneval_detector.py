"""The detector against mmdetection's own detections, and what its pre- and post-processing promise."""

import json

import numpy as np
import pytest
from golden_files import golden_file
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file

from crossflow.errors import CrossFlowError
from crossflow_eval.judges.geneval import checkpoint
from crossflow_eval.judges.geneval.detector import DEVIATION, FIT, GREY, MEAN, extent, object_names, prepare
from crossflow_eval.metrics.geneval import Detector

CASES = json.loads(golden_file("mask2former_small.json").read_text())["results"]
IMAGES = load_file(golden_file("mask2former_small.images.safetensors"))


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.from_checkpoint(golden_file("mask2former_small.pth"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["image"])
def test_every_golden_detection_is_the_original_one(detector, case):
    """Same classes in the same order, boxes and masks to the pixel, scores to float32's rounding (1e-4 asked)."""
    found = detector(IMAGES[case["image"]], tuple(case["resize_to_fit"]))
    expected = case["detections"]
    assert len(found) == len(expected) == 100
    assert [each.label for each in found] == [object_names()[each["label"]] for each in expected]
    assert [list(each.box) for each in found] == [each["box"] for each in expected]
    assert [int(each.mask.sum()) for each in found] == [each["mask_pixels"] for each in expected]
    assert [each.score for each in found] == pytest.approx([each["score"] for each in expected], abs=1e-5)
    assert all(each.mask.shape == IMAGES[case["image"]].shape[:2] for each in found)


def test_the_order_of_patch_merging_is_seen_by_the_goldens(monkeypatch):
    """Without the reordering every shape fits and the detections are others."""
    monkeypatch.setattr(checkpoint, "place_first", lambda tensor: tensor)
    case = CASES[1]
    found = Detector.from_checkpoint(golden_file("mask2former_small.pth"))(
        IMAGES[case["image"]], tuple(case["resize_to_fit"])
    )
    assert max(abs(a.score - b["score"]) for a, b in zip(found, case["detections"], strict=True)) > 1e-3


@pytest.mark.parametrize(
    ("height", "width", "padded", "seen"),
    [
        (512, 512, (800, 800), (800, 800)),
        (1024, 1024, (800, 800), (800, 800)),
        (480, 640, (800, 1088), (800, 1067)),
        (427, 640, (800, 1216), (800, 1199)),
        (100, 400, (352, 1344), (333, 1333)),
    ],
)
def test_an_image_is_scaled_to_fit_and_padded_with_grey(height, width, padded, seen):
    """The sizes are mmdetection's; the padding is grey before it is normalised."""
    image = np.zeros((height, width, 3), np.uint8)
    pixels, inside = prepare(image, FIT)
    assert pixels.shape == (3, *padded)
    assert inside == seen
    black, grey = ((np.array([level]) - MEAN) / DEVIATION for level in (0, GREY))
    for part, level in (
        (pixels[:, : seen[0], : seen[1]], black),
        (pixels[:, seen[0] :], grey),
        (pixels[:, :, seen[1] :], grey),
    ):
        np.testing.assert_allclose(part, np.broadcast_to(level[:, None, None], part.shape), rtol=1e-6)


@settings(max_examples=40)
@given(arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 6))))
def test_a_box_is_the_smallest_that_holds_the_mask(mask):
    left, top, right, bottom = extent(mask)
    assert mask[top:bottom, left:right].sum() == mask.sum()
    if mask.any():
        cut = mask[top:bottom, left:right]
        assert cut[0].any() and cut[-1].any() and cut[:, 0].any() and cut[:, -1].any()
    else:
        assert (left, top, right, bottom) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.uint8), np.zeros((0, 8, 3), np.uint8)]
)
def test_what_is_no_image_is_refused(detector, image):
    with pytest.raises(CrossFlowError, match="uint8"):
        detector(image)


def test_the_weights_stand_in_the_protocol(detector):
    assert detector.protocol["weights_sha256"] == detector.weights_sha256
    with pytest.raises(CrossFlowError, match="expected 743b7d99"):
        Detector.from_checkpoint(golden_file("mask2former_small.pth"), "743b7d99")
