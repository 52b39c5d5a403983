"""The exact reader against the scenes it reads, under degradation, and on images that no scene could have made."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from crossflow.scenes import COLORS, SHAPES, example, read, render
from crossflow.scenes.render import background, object_masks
from crossflow.scenes.spec import Object, Scene

DAY = {"night": False, "sky": (205.0, 218.0, 235.0), "ground": (150.0, 141.0, 128.0)}
NIGHT = {"night": True, "sky": (33.0, 35.0, 38.0), "ground": (67.0, 63.0, 57.0)}
EMPTY = replace(example("test", 0).scene, objects=(), **DAY)


def draw(*items: tuple[str, str, float, float, float]) -> Scene:
    """A day scene of (shape, color, x, y, radius), in pixels of 32."""
    objects = (Object(shape=s, color=c, x=x / 32, y=y / 32, radius=r / 32, depth=3.0) for s, c, x, y, r in items)
    return replace(EMPTY, objects=tuple(objects))


def names(items) -> list[tuple[str, str]]:
    return sorted((item.shape, item.color) for item in items)


def agreeing(split, indices, size, degrade=lambda image, rng: image) -> float:
    right = []
    for i in indices:
        scene = example(split, i).scene
        image = degrade(render(scene, size), np.random.default_rng(i))
        right.append(names(read(image)) == names(scene.objects))
    return float(np.mean(right))


def noisy(image, rng):
    return np.clip(np.rint(image + rng.normal(0.0, 4.0, image.shape)), 0, 255).astype(np.uint8)


def jpeg(image, rng):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("split", ["test", "test_heldout"])
def test_every_object_of_clean_renders_is_named(split):
    assert agreeing(split, range(5000, 5300), 32) >= 0.995


@pytest.mark.parametrize(("size", "count"), [(64, 60), (128, 24), (256, 6)])
def test_it_reads_every_size(size, count):
    assert agreeing("test", range(5000, 5000 + count), size) == 1.0


def test_noise_of_four_grey_levels_costs_nothing():
    assert agreeing("test", range(5000, 5200), 32, noisy) >= 0.99


def test_jpeg_costs_little_though_it_halves_the_colours_resolution():
    assert agreeing("test", range(5000, 5200), 32, jpeg) >= 0.90
    assert agreeing("test", range(5000, 5060), 64, jpeg) >= 0.98


def test_boxes_and_masks_are_those_of_the_scene():
    overlaps, edges = [], []
    for i in range(5000, 5200):
        scene = example("test", i).scene
        found = {(item.shape, item.color): item for item in read(render(scene, 32))}
        for item, mask in zip(scene.objects, object_masks(scene, 32), strict=True):
            seen = found[item.shape, item.color]
            overlaps.append((seen.mask & mask).sum() / (seen.mask | mask).sum())
            rows, columns = np.nonzero(mask)
            truth = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            edges.append(abs(np.subtract(seen.box, truth)).max())
            rows, columns = np.nonzero(seen.mask)
            assert seen.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert np.mean(overlaps) > 0.96
    assert max(edges) <= 1


@pytest.mark.parametrize("night", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_in_every_colour_at_both_ends_of_its_size(shape, night):
    rng = np.random.default_rng(0)
    for color in COLORS:
        for radius in (3.0, 3.5):
            x, y = rng.uniform(6.0, 26.0, 2)
            scene = draw((shape, color, x, y, radius))
            if night:
                scene = replace(scene, **NIGHT)
            assert names(read(render(scene, 32))) == [(shape, color)]


@pytest.mark.parametrize("split_index", range(20))
def test_an_empty_world_holds_nothing(split_index):
    scene = replace(example("test", split_index).scene, objects=())
    assert read(render(scene, 32)) == []
    assert read(noisy(render(scene, 32), np.random.default_rng(0))) == []


def test_specks_are_no_objects():
    image = render(EMPTY, 32)
    image[10:12, 10:13] = COLORS["red"]
    assert read(image) == []


def test_pure_noise_holds_nothing():
    rng = np.random.default_rng(0)
    assert sum(len(read(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))) for _ in range(50)) == 0


def test_one_flat_colour_holds_nothing():
    for color in (*COLORS.values(), (0, 0, 0), (255, 255, 255)):
        assert read(np.full((32, 32, 3), color, dtype=np.uint8)) == []


def test_objects_of_two_colours_that_touch_are_two():
    scene = draw(("box", "red", 9.0, 16.0, 3.5), ("box", "cyan", 15.3, 16.0, 3.5))
    assert names(read(render(scene, 32))) == [("box", "cyan"), ("box", "red")]


def test_objects_of_one_colour_that_touch_are_not_two():
    scene = draw(("ball", "red", 9.0, 16.0, 3.5), ("ball", "red", 15.0, 16.0, 3.5))
    assert len(read(render(scene, 32))) <= 1


def test_blur_of_half_a_pixel_changes_no_answer():
    def blur(image, rng):
        return np.rint(ndimage.gaussian_filter(image.astype(float), (0.5, 0.5, 0))).astype(np.uint8)

    assert agreeing("test", range(5000, 5100), 32, blur) >= 0.98


def test_a_faded_object_is_not_read():
    scene = draw(("ball", "red", 16.0, 16.0, 3.5))
    image, empty = render(scene, 32).astype(float), background(EMPTY, 32)
    assert names(read(np.rint(empty + 0.8 * (image - empty)).astype(np.uint8))) == [("ball", "red")]
    assert read(np.rint(empty + 0.3 * (image - empty)).astype(np.uint8)) == []


@pytest.mark.parametrize("image", [np.zeros((32, 32)), np.zeros((32, 32, 3)), np.zeros((3, 32, 32), np.uint8)])
def test_another_layout_is_an_error(image):
    with pytest.raises(ValueError, match=r"uint8 \[h w 3\]"):
        read(image)
