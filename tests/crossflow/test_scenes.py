"""The data set is a pure function of its version: bytes are frozen, splits keep their promises, captions are true."""

import hashlib
import re
from collections import Counter

import numpy as np
import pytest

from crossflow.scenes import COLORS, SHAPES, SPLITS, VERSION, example, render
from crossflow.scenes.caption import TASKS
from crossflow.scenes.render import object_masks
from crossflow.scenes.spec import CELLS, HELD_OUT

RENDERS = {32: "86eda4eaecf5b787", 64: "4e6c8bba0e7b4d90", 128: "70145b442738b82b", 256: "21f8cd7e8f636183"}
CAPTIONS = "3071a2a119826207"


@pytest.mark.parametrize("size", RENDERS)
def test_renders_of_version_one_never_change(size):
    assert VERSION == 1, "a new version of the world needs new golden digests"
    data = b"".join(render(example(split, i).scene, size).tobytes() for split in SPLITS for i in range(3))
    assert hashlib.sha256(data).hexdigest()[:16] == RENDERS[size]


def test_captions_of_version_one_never_change():
    lines = [caption for split in SPLITS for i in range(60) for caption in example(split, i).captions]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == CAPTIONS


def test_an_example_does_not_depend_on_the_others_drawn():
    alone = example("train", 37)
    assert [example("train", i) for i in range(35, 40)][2] == alone
    assert alone.id == "train-000037"


def test_splits_and_indices_differ():
    prompts = {split: [example(split, i).scene for i in range(60)] for split in SPLITS}
    scenes = [scene for drawn in prompts.values() for scene in drawn]
    assert len({str(scene) for scene in scenes}) == len(scenes)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_held_out_pairs_are_seen_in_no_other_split(split):
    looks = {(item.shape, item.color) for i in range(1200) for item in example(split, i).scene.objects}
    assert not looks & set(HELD_OUT)
    assert len(looks) == len(SHAPES) * len(COLORS) - len(HELD_OUT), "every other pair is seen"


def test_every_held_out_prompt_names_a_held_out_pair():
    seen = Counter()
    for i in range(300):
        item = example("test_heldout", i)
        named = {(clause["class"], clause["color"]) for clause in item.specification["include"]}
        assert named & set(HELD_OUT), item.prompt
        seen.update(named & set(HELD_OUT))
    assert set(seen) == set(HELD_OUT)


def test_tasks_go_round_and_prompts_take_their_six_forms():
    number = "(two|three|four)"
    shape, color = rf"({'|'.join(SHAPES)})", rf"({'|'.join(COLORS)})"
    forms = {
        "single_object": rf"a photo of a {shape}",
        "two_object": rf"a photo of a {shape} and a {shape}",
        "counting": rf"a photo of {number} {shape}(s|es)",
        "colors": rf"a photo of an? {color} {shape}",
        "position": rf"a photo of a {shape} (left of|right of|above|below) a {shape}",
        "color_attr": rf"a photo of an? {color} {shape} and an? {color} {shape}",
    }
    for i in range(300):
        item = example("val", i)
        assert item.task == item.specification["tag"] == TASKS[i % 6]
        assert item.prompt == item.specification["prompt"]
        assert re.fullmatch(forms[item.task], item.prompt), item.prompt


def test_five_captions_differ_and_name_every_object():
    for i in range(300):
        item = example("train", i)
        assert len(set(item.captions)) == 5, item.captions
        assert item.captions[0] == item.prompt
        for caption in item.captions[1:]:
            words = Counter(caption.replace(",", "").split())
            for name, count in Counter(item.color for item in item.scene.objects).items():
                assert words[name] == count, caption
            for name, count in Counter(item.shape for item in item.scene.objects).items():
                assert words[name] == count, caption
        assert ("night" in item.captions[1]) == item.scene.night


def test_objects_are_whole_and_apart():
    """Law of the world: every object lies inside its own cell, and no two objects' cells share an edge."""
    for i in range(600):
        items = example("train", i).scene.objects
        assert 1 <= len(items) <= 4
        places = [(int(item.y * CELLS), int(item.x * CELLS)) for item in items]
        for item, (row, column) in zip(items, places, strict=True):
            assert row / CELLS <= item.y - item.radius and item.y + item.radius <= (row + 1) / CELLS
            assert column / CELLS <= item.x - item.radius and item.x + item.radius <= (column + 1) / CELLS
        steps = [abs(a - c) + abs(b - d) for k, (a, b) in enumerate(places) for c, d in places[:k]]
        assert min(steps, default=2) >= 2


@pytest.mark.parametrize("size", [64, 128])
def test_a_large_render_averages_to_the_small_one(size):
    for i in range(6):
        scene = example("test", i).scene
        factor = size // 32
        mean = render(scene, size).reshape(32, factor, 32, factor, 3).mean(axis=(1, 3))
        assert abs(mean - render(scene, 32)).mean() < 1.0


def test_an_object_is_painted_in_its_own_colour_where_it_covers_a_pixel():
    for i in range(60):
        scene = example("test", i).scene
        image, light = render(scene, 64), 0.65 if scene.night else 1.0
        for item, mask in zip(scene.objects, object_masks(scene, 64), strict=True):
            hit = abs(image[mask] - np.rint(np.array(COLORS[item.color]) * light)).max(axis=1) <= 1
            assert hit.mean() > 0.45, item


def test_an_unknown_split_is_an_error_that_names_the_splits():
    with pytest.raises(ValueError, match="the splits are train, val, test, test_heldout"):
        example("dev", 0)
