"""PSNR and SSIM against scikit-image and torchmetrics, luma against its definition, and bad input."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.image import PeakSignalNoiseRatio

from crossflow.errors import CrossFlowError
from crossflow_eval.metrics.restoration import CHANNELS, MEASURES, Restoration, luma, psnr, ssim, uniform_ssim
from crossflow_eval.peers.restoration import padded_ssim as torchmetrics
from crossflow_eval.peers.restoration import ssim as scikit_image
from crossflow_eval.types import Example, Metric

VALUES = ["psnr_rgb", "psnr_y", "ssim_rgb", "ssim_y", "ssim_padded_rgb", "ssim_padded_y"]


def pair(height: int = 40, width: int = 56, seed: int = 0, noise: float = 12.0) -> tuple[np.ndarray, np.ndarray]:
    """A smooth image and a noisy copy, uint8 RGB, with flat parts at black and at white."""
    generator = np.random.default_rng(seed)
    smooth = gaussian_filter(generator.normal(128, 900, size=(height, width, 3)), (3, 3, 0))
    original = smooth.clip(0, 255).astype(np.uint8)
    return (original + generator.normal(0, noise, size=original.shape)).clip(0, 255).astype(np.uint8), original


@given(st.integers(11, 40), st.integers(11, 40), st.integers(0, 1000), st.floats(0.5, 60))
def test_ssim_is_scikit_images(height, width, seed, noise):
    """Oracle, to 1e-9 (1e-6 is promised): colour and luma, odd and even sizes, down to a single window."""
    image, original = pair(height, width, seed, noise)
    assert ssim(image, original) == pytest.approx(scikit_image(image, original), abs=1e-9)
    y, target = luma(image), luma(original)
    assert ssim(y, target) == pytest.approx(scikit_image(y, target), abs=1e-9)


@pytest.mark.parametrize("size", [(11, 11), (40, 56), (64, 33)])
def test_padded_ssim_is_torchmetrics_and_another_number(size):
    """Oracle, to 1e-9; and the two definitions lie apart by more than tables are printed to."""
    image, original = pair(*size)
    padded = ssim(image, original, padded=True)
    assert padded == pytest.approx(torchmetrics(image, original), abs=1e-9)
    assert abs(padded - ssim(image, original)) > 5e-4


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 1000))
def test_psnr_is_scikit_images(height, width, seed):
    image, original = pair(height, width, seed)
    image[0, 0] ^= 1
    assert psnr(image, original) == pytest.approx(peak_signal_noise_ratio(original, image, data_range=255), rel=1e-12)


def test_psnr_is_what_it_is_by_hand():
    """One level off everywhere is 20 log10(255) dB; uint8 differences do not wrap round."""
    low, high = np.full((4, 4, 3), 3, np.uint8), np.full((4, 4, 3), 4, np.uint8)
    assert psnr(low, high) == psnr(high, low) == pytest.approx(20 * math.log10(255), rel=1e-12)
    assert psnr(low, low) == math.inf


def test_ssim_of_an_image_with_itself_is_1_and_of_two_flat_ones_is_their_luminance_term():
    image, _ = pair()
    assert ssim(image, image) == pytest.approx(1, abs=1e-12)
    first, second, c1 = 100.0, 150.0, (0.01 * 255) ** 2
    expected = (2 * first * second + c1) / (first**2 + second**2 + c1)
    flat = (np.full((20, 20), level) for level in (first, second))
    assert ssim(*flat) == pytest.approx(expected, rel=1e-9)


def test_luma_is_bt601_in_studio_swing():
    """By hand: black 16, white 235, and MATLAB's weights for the primaries."""
    colors = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert luma(colors)[0] == pytest.approx([16, 235, 16 + 65.481, 16 + 128.553, 16 + 24.966], rel=1e-12)


def examples(folder, n: int = 3) -> tuple[list[Example], list[np.ndarray]]:
    made, outputs = [], []
    for index in range(n):
        image, original = pair(seed=index, noise=4.0 + 10 * index)
        Image.fromarray(original).save(folder / f"{index}.png")
        made.append(Example(id=f"e{index}", source="", target=folder / f"{index}.png"))
        outputs.append(image)
    return made, outputs


def test_a_suite_is_the_mean_of_its_images_whatever_the_batches(tmp_path):
    """The mean of decibels, which is not the decibels of the mean error."""
    of, outputs = examples(tmp_path)
    whole, parts = Restoration(), Restoration()
    assert isinstance(whole, Metric)
    rows = whole.update(of, outputs)
    for example, output in zip(of, outputs, strict=True):
        parts.update([example], [output])
    values = whole.compute()
    assert parts.compute() == values
    assert list(values) == list(whole.higher_is_better) == VALUES
    originals = [np.asarray(Image.open(example.target)) for example in of]
    pairs = list(zip(outputs, originals, strict=True))
    decibels = [psnr(*each) for each in pairs]
    assert values["psnr_rgb"].mean == pytest.approx(np.mean(decibels), rel=1e-12)
    error = np.mean([10 ** (-each / 10) for each in decibels])
    assert abs(values["psnr_rgb"].mean - -10 * math.log10(error)) > 0.5
    assert rows[1]["ssim_y"] == ssim(luma(outputs[1]), luma(originals[1]))
    assert values["ssim_padded_rgb"].mean == pytest.approx(np.mean([torchmetrics(*each) for each in pairs]), abs=1e-9)
    assert values["ssim_rgb"].n == 3


def test_an_output_that_equals_its_original_has_no_psnr_and_says_so(tmp_path):
    of, outputs = examples(tmp_path)
    outputs[1] = np.asarray(Image.open(of[1].target))
    metric = Restoration()
    rows = metric.update(of, outputs)
    values = metric.compute()
    assert rows[1]["psnr_rgb"] is None
    assert rows[1]["ssim_rgb"] == pytest.approx(1, abs=1e-12)
    assert list(values) == VALUES[2:]
    assert metric.protocol["warning"] == "PSNR is infinite, for 1 of 3 outputs equal their originals"


def test_outputs_of_another_size_are_refused(tmp_path):
    of, outputs = examples(tmp_path, 1)
    for wrong in (outputs[0][:-1], outputs[0][..., 0]):
        with pytest.raises(CrossFlowError, match=r"e0: two images of one size .* got \[.*\] and \[40, 56, 3\]"):
            Restoration().update(of, [wrong])
    with pytest.raises(CrossFlowError, match="at least 11 pixels a side"):
        ssim(outputs[0][:10], outputs[0][:10])
    for metric in (ssim, psnr):
        with pytest.raises(CrossFlowError, match=r"got \[40, 56, 3\] and \[1, 56, 3\]"):
            metric(outputs[0], outputs[0][:1])


@given(st.integers(7, 40), st.integers(7, 40), st.integers(0, 1000))
def test_uniform_ssim_is_scikit_images_default(height, width, seed):
    """Oracle, to 1e-9: colour and luma; the Gaussian one is another number."""
    image, original = pair(height, width, seed)
    expected = structural_similarity(image, original, data_range=255, channel_axis=2)
    assert uniform_ssim(image, original) == pytest.approx(expected, abs=1e-9)
    y, target = luma(image), luma(original)
    assert uniform_ssim(y, target) == pytest.approx(structural_similarity(y, target, data_range=255), abs=1e-9)


def restored(tmp_path, **how) -> tuple[Restoration, list[dict]]:
    """Three noisy images under a convention, and its rows."""
    metric, examples, outputs = Restoration(**how), [], []
    for seed in range(3):
        image, original = pair(seed=seed, noise=4.0 + 9 * seed)
        Image.fromarray(original).save(tmp_path / f"{seed}.png")
        examples.append(Example(id=str(seed), source="x", target=tmp_path / f"{seed}.png"))
        outputs.append(image)
    return metric, metric.update(examples, outputs)


def test_a_border_is_cut_before_anything_is_compared(tmp_path):
    """Oracle: scikit-image on BasicSR's convention for a factor of 4 (border 4, luma not rounded)."""
    _, rows = restored(tmp_path, measures=("psnr", "ssim"), channels=("y",), border=4)
    for seed, row in enumerate(rows):
        image, original = (luma(array)[4:-4, 4:-4] for array in pair(seed=seed, noise=4.0 + 9 * seed))
        assert row["psnr_y_border4"] == pytest.approx(
            peak_signal_noise_ratio(original, image, data_range=255), abs=1e-9
        )
        assert row["ssim_y_border4"] == pytest.approx(scikit_image(image, original), abs=1e-9)


def test_lumas_are_matlabs_and_jpegs(tmp_path):
    """MATLAB's rgb2ycbcr of uint8 is round(16 + 65.481 r + ...) of r from 0 to 1; full swing is OpenCV's in float32."""
    _, rows = restored(tmp_path, measures=("psnr",), channels=("y", "y_rounded", "y_full"))
    for seed, row in enumerate(rows):
        images = pair(seed=seed, noise=4.0 + 9 * seed)
        rounded = [np.round(16 + (array / 255) @ [65.481, 128.553, 24.966]) for array in images]
        assert row["psnr_y_rounded"] == pytest.approx(psnr(*rounded), abs=1e-3)
        full = [cv2.cvtColor(array.astype(np.float32), cv2.COLOR_RGB2GRAY) for array in images]
        assert row["psnr_y_full"] == pytest.approx(psnr(*full), abs=1e-4)
        assert len({round(value, 4) for value in row.values()}) == 3


def test_pooled_psnr_has_no_interval_where_nearly_all_outputs_are_exact(tmp_path):
    """Of one error among 60 outputs a jackknife's group without it has none, whose decibels are infinite."""
    image, original = pair(24, 24)
    Image.fromarray(original).save(tmp_path / "o.png")
    metric = Restoration(measures=("psnr_pooled",), channels=("rgb",))
    examples = [Example(id=str(number), source="", target=tmp_path / "o.png") for number in range(60)]
    metric.update(examples, [image, *[original] * 59])
    value = metric.compute()["psnr_pooled_rgb"]
    assert value.ci_low is None and value.n == 60
    assert value.mean == pytest.approx(psnr(image, original) + 10 * math.log10(60))


def test_pooled_psnr_is_decibels_of_the_mean_error(tmp_path):
    """Oracle: torchmetrics pools its updates; the mean of dB is larger (Jensen)."""
    metric, _ = restored(tmp_path, measures=("psnr", "psnr_pooled"), channels=("rgb",))
    oracle = PeakSignalNoiseRatio(data_range=255.0)
    for seed in range(3):
        oracle.update(*(torch.from_numpy(array).double() for array in pair(seed=seed, noise=4.0 + 9 * seed)))
    values = metric.compute()
    assert values["psnr_pooled_rgb"].mean == pytest.approx(float(oracle.compute()), abs=1e-4)
    assert values["psnr_pooled_rgb"].mean < values["psnr_rgb"].mean - 1


def test_every_convention_has_a_name_and_a_fingerprint_of_its_own(tmp_path):
    metrics = [Restoration(measures=(m,), channels=(c,), border=b) for m in MEASURES for c in CHANNELS for b in (0, 4)]
    names = [name for metric in metrics for name in metric.higher_is_better]
    assert len(set(names)) == len(names) == len(MEASURES) * len(CHANNELS) * 2
    assert len({str(metric.protocol) for metric in metrics}) == len(metrics)
    with pytest.raises(CrossFlowError, match="y_rounded"):
        Restoration(channels=("y_round",))
