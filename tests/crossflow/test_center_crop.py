"""A crop is ADM's: halved by a box filter, the rest bicubic, the middle kept."""

import numpy as np
from PIL import Image

from crossflow.modalities.kl_autoencoder import center_crop


def test_a_crop_keeps_the_middle():
    """A square of the middle keeps its pixels when nothing is to be resized."""
    pixels = np.random.default_rng(0).integers(0, 256, (10, 21, 3), dtype=np.uint8)
    assert np.array_equal(center_crop(Image.fromarray(pixels), 10), pixels[:, 5:15])
    assert np.array_equal(center_crop(Image.fromarray(pixels.swapaxes(0, 1)), 10), pixels[:, 5:15].swapaxes(0, 1))


def test_a_crop_halves_by_means():
    """Twice from 32 x 48, of two columns and then of two rows, each rounded, halves up."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    small = pixels.astype(float)
    for _ in range(2):
        small = np.floor((small[:, ::2] + small[:, 1::2]) / 2 + 0.5)
        small = np.floor((small[::2] + small[1::2]) / 2 + 0.5)
    assert np.array_equal(center_crop(Image.fromarray(pixels), 8), small[:, 2:10])


def test_the_rest_of_a_crop_is_bicubic():
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 45, 3), dtype=np.uint8))
    expected = np.asarray(pixels.resize((24, 16), Image.Resampling.BICUBIC))[:, 4:20]
    assert np.array_equal(center_crop(pixels, 16), expected)
    assert center_crop(pixels.convert("L"), 64).shape == (64, 64, 3)
