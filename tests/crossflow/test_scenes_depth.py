"""Depth against the camera's geometry solved in three dimensions, and pairs against their own average."""

import numpy as np
import pytest

from crossflow.scenes import example, render
from crossflow.scenes.depth import depth_map, low_res
from crossflow.scenes.render import object_masks
from crossflow.scenes.spec import FOCAL


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("index", range(12))
def test_the_ground_lies_the_cameras_height_below_it(index, size):
    """Law: a pixel's ray, gone to its depth along the optical axis, ends ``height`` metres under a level camera."""
    scene = example("test", index).scene
    depth = depth_map(scene, size).astype(np.float64)
    free = ~object_masks(scene, size).any(axis=0) & np.isfinite(depth)
    depth[~free] = 1.0
    down = ((np.arange(size) + 0.5) / size - 0.5)[:, None] / FOCAL * depth
    below = down * np.cos(scene.camera.pitch) + depth * np.sin(scene.camera.pitch)
    np.testing.assert_allclose(below[free], scene.camera.height, rtol=1e-5)


def test_the_sky_is_infinitely_far_exactly_above_the_horizon():
    for index in range(30):
        scene = example("test", index).scene
        rows = (np.arange(32) + 0.5) / 32
        free = ~object_masks(scene).any(axis=0)
        sky = np.isinf(depth_map(scene))
        expected = np.repeat((rows < scene.camera.horizon)[:, None], 32, axis=1)
        assert (sky == expected)[free].all()


def test_an_object_has_its_own_depth_and_none_lies_under_the_ground():
    for index in range(30):
        scene = example("test", index).scene
        depth, masks = depth_map(scene), object_masks(scene)
        for item, mask in zip(scene.objects, masks, strict=True):
            assert mask.sum() > 10
            assert (depth[mask] == np.float32(item.depth)).all()
            foot = scene.camera.ground_depth(np.array(item.y + item.radius))
            assert item.depth <= foot + 1e-9


def test_no_single_map_fits_every_scene():
    """The median map is no oracle: its error on ground pixels is far above that of the exact map."""
    maps = np.stack([depth_map(example("test", i).scene) for i in range(200)])
    median = np.median(maps, axis=0)
    seen = np.isfinite(maps) & np.isfinite(median)
    error = (abs(np.where(seen, median, 1.0) - np.where(seen, maps, 1.0)) / np.where(seen, maps, 1.0))[seen].mean()
    assert error > 0.1, error


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_a_pair_is_one_scene_and_its_area_mean(factor):
    scene = example("test", 3).scene
    low, high = low_res(scene, 64, factor)
    assert (high == render(scene, 64)).all()
    assert low.shape == (64 // factor, 64 // factor, 3) and low.dtype == np.uint8
    for row, column in [(0, 0), (5, 9), (64 // factor - 1, 7)]:
        cell = high[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
        assert abs(cell.reshape(-1, 3).astype(float).mean(axis=0) - low[row, column]).max() <= 0.5
    assert abs(low.astype(int) - render(scene, 64 // factor).astype(int)).mean() < 0.5


def test_a_factor_that_does_not_divide_is_an_error():
    with pytest.raises(ValueError, match="must divide"):
        low_res(example("test", 0).scene, 32, 3)
