"""What stands at the ends of flows from images: encoders of images, pixels and depth as latents."""

import numpy as np
import pytest
import torch
from PIL import Image

from crossflow.errors import CrossFlowError
from crossflow.losses.reconstruction import Reconstructor
from crossflow.modalities.depth import DepthConfig, LogDepth, grey
from crossflow.modalities.pixels import Pixels
from crossflow.scenes.depth import low_res
from crossflow.scenes.render import render
from crossflow.scenes.splits import example
from crossflow.sources.image import ImageEncoder, ImageEncoderConfig
from crossflow.sources.upsample import Upsample, UpsampleConfig


def test_upsampling_is_pillows():
    image = low_res(example("val", 0).scene, 64)[0]
    enlarged = Upsample(UpsampleConfig(factor=4))(Pixels().encode(torch.from_numpy(image)[None])).mean
    theirs = np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC)).astype(float)
    ours = Pixels().decode(enlarged)[0].numpy().astype(float)
    assert np.abs(ours - theirs).max() <= 1  # Pillow computes in whole numbers


def test_upsampling_draws_nothing():
    posterior = Upsample(UpsampleConfig(factor=2))(torch.rand(2, 3, 4, 4))
    assert torch.equal(posterior.sample(torch.randn(2, 3, 8, 8)), posterior.mean)


def test_an_image_encoder_answers_in_place():
    """A change inside one patch, with attention taken away, changes the moments of that patch alone."""
    encoder = ImageEncoder(ImageEncoderConfig(width=8, depth=1, heads=2, patch=4), (2, 8, 8), (3, 16, 16))
    encoder.blocks = torch.nn.ModuleList()
    image = torch.rand(1, 3, 16, 16)
    other = image.clone()
    other[..., 4:8, 8:12] += 1
    changed = (encoder(image).mean != encoder(other).mean)[0].any(0)
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:4, 4:6] = True
    assert torch.equal(changed, expected)


def test_an_image_encoder_that_does_not_fit_is_refused():
    with pytest.raises(CrossFlowError, match="evenly"):
        ImageEncoder(ImageEncoderConfig(width=8, depth=1, heads=2, patch=4), (2, 6, 6), (3, 16, 16))


def test_the_reconstructor_reads_each_patch_from_its_own_place():
    reconstructor = Reconstructor((2, 4, 4), (3, 16, 16), 8)
    x0 = torch.randn(1, 2, 4, 4)
    other = x0.clone()
    other[..., 2:, :2] += 1
    changed = (reconstructor(x0) != reconstructor(other))[0].any(0)
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[8:, :8] = True
    assert torch.equal(changed, expected)


def test_pixels_come_back():
    images = torch.from_numpy(np.stack([render(example("val", i).scene) for i in range(5)]))
    assert torch.equal(Pixels().decode(Pixels().encode(images)), images)


def test_depth_comes_back_within_its_range():
    codec = LogDepth(DepthConfig(nearest=2.0, farthest=50.0))
    depth = torch.tensor([[[1.0, 2.0, 7.5], [49.0, 60.0, torch.inf]]])
    latents = codec.encode(depth)
    assert latents.amin() == -1 and latents.amax() == 1
    expected = torch.tensor([[[2.0, 2.0, 7.5], [49.0, 50.0, 50.0]]])
    assert torch.allclose(codec.decode(latents), expected)


@pytest.mark.parametrize(("nearest", "farthest"), [(0.0, 1.0), (2.0, 2.0), (1.0, float("inf")), (float("nan"), 1.0)])
def test_ranges_of_depth_that_cannot_be(nearest, farthest):
    with pytest.raises(CrossFlowError, match="0 < nearest < farthest"):
        DepthConfig(nearest=nearest, farthest=farthest)


def test_grey_is_lighter_where_it_is_nearer():
    image = grey(np.array([[1.5, 10.0, np.inf]], dtype=np.float32))
    assert image[0, 0, 0] == 255 and image[0, 2, 0] == 0 and 0 < image[0, 1, 0] < 255
