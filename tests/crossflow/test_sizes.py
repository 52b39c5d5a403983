"""Images of any size by a model of one: tiles that agree where they overlap join to what the whole would be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from crossflow.sampling.sizes import shrunk, tiled


def brightness(images, seeds):
    """In the place of a model of depth: the red channel."""
    return [image[..., 0].astype(np.float32) for image in images]


def twice_as_large(images, seeds):
    """In the place of a model of super-resolution."""
    return [image.repeat(2, 0).repeat(2, 1) for image in images]


def picture(height, width):
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


@given(height=st.integers(1, 40), width=st.integers(1, 40))
def test_a_function_of_the_pixels_is_that_of_the_whole_image(height, width):
    """Law: tiles cover every pixel, and an average of equal values is the value, whatever its weights.

    So it is where an image is smaller than a tile, and its edges are repeated.
    """
    image = picture(height, width)
    (found,) = tiled(brightness, [image], [0], (6, 9), resize=False)
    assert np.allclose(found, image[..., 0], atol=1e-4)
    assert found.dtype == np.float32
    (larger,) = tiled(twice_as_large, [image], [0], (6, 9), resize=False)
    assert np.array_equal(larger, image.repeat(2, 0).repeat(2, 1))


def test_an_image_of_the_models_size_is_the_models_output_itself():
    image = picture(6, 9)
    made = []
    (found,) = tiled(lambda images, seeds: made.extend(brightness(images, seeds)) or made, [image], [3], (6, 9), True)
    assert found is made[0]


def test_every_tile_of_an_image_has_its_seed():
    asked = []

    def generate(images, seeds):
        asked.append((len(images), list(seeds)))
        return brightness(images, seeds)

    tiled(generate, [picture(6, 18), picture(6, 9), picture(7, 10)], [5, 6, 7], (6, 9), resize=True)
    assert asked == [(9, [5, 5, 5, 5, 6, 7, 7, 7, 7])]


@pytest.mark.parametrize(
    ("own", "size", "tiles"),
    [
        ((352, 1216), (352, 1216), 1),
        ((352, 1216), (375, 1242), 4),
        ((48, 64), (96, 128), 9),
        ((48, 64), (480, 640), 1),
        ((48, 64), (2000, 3000), 2),
        ((48, 64), (10, 20), 2),
    ],
)
def test_large_and_small_images_are_resized_to_just_cover_a_tile_and_back(own, size, tiles):
    """KITTI's 375 x 1242 is not resized by a model of the benchmark crop: four tiles at the scale trained on."""
    asked = []

    def level(images, seeds):
        asked.append(len(images))
        assert {image.shape for image in images} == {(*own, 3)}
        return [np.full(image.shape[:2], 7, np.float32) for image in images]

    (found,) = tiled(level, [picture(*size)], [0], own, resize=True)
    assert found.shape == size
    assert np.allclose(found, 7)
    assert asked == [tiles]


def test_seams_are_weighted_from_one_tile_to_the_next():
    """Two tiles that overlap by half, one of them 0 and the other 1: the average rises from one to the other."""
    values = iter((0.0, 1.0))

    def steps(images, seeds):
        return [np.full(image.shape[:2], next(values), np.float32) for image in images]

    (found,) = tiled(steps, [picture(4, 30)], [0], (4, 20), resize=False)
    assert np.all(found[:, :10] == 0)
    assert np.all(found[:, 20:] == 1)
    assert np.all(np.diff(found[0, 9:21]) > 0)


def test_tiles_overlap_by_half_and_weigh_most_in_their_middle():
    """By hand on a line of three tiles, each of one grey."""
    greys = iter((0, 90, 30))

    def grey(images, seeds):
        return [np.full((4, 4, 3), next(greys), np.uint8) for _ in images]

    (made,) = tiled(grey, [np.zeros((4, 8, 3), np.uint8)], [0], (4, 4), resize=False)
    assert made[1, :, 0].tolist() == [0, 0, 30, 60, 70, 50, 30, 30]


def test_an_original_is_shrunk_as_pillow_shrinks_and_rounded_up():
    image = picture(32, 24)
    assert np.array_equal(shrunk(image, 4), np.asarray(Image.fromarray(image).resize((6, 8), Image.Resampling.BICUBIC)))
    assert shrunk(image[:29, :23], 4).shape == (8, 6, 3)
