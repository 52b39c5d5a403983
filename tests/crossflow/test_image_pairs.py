"""Pairs whose source is an image, against the world that they are drawn from."""

import numpy as np
import pytest
import torch
from small_image_recipes import small

from crossflow.errors import CrossFlowError
from crossflow.files.progress import silent
from crossflow.flow.losses import draw
from crossflow.modalities.pixels import Pixels
from crossflow.scenes.caption import describe
from crossflow.scenes.depth import depth_map, low_res
from crossflow.scenes.render import render
from crossflow.scenes.spec import CELLS
from crossflow.scenes.splits import example
from crossflow.training.data.scenes import ImagePairs, image_pairs


def test_descriptions_are_read_row_by_row():
    for index in range(60):
        scene = example("val", index).scene
        places = [(int(item.y * CELLS), int(item.x * CELLS)) for item in scene.objects]
        order = [scene.objects[i] for i in np.lexsort(np.array(places).T[::-1])]
        words = describe(scene).replace(",", "").split()
        named = [(words[i - 1], words[i]) for i in range(1, len(words)) if words[i] in {o.shape for o in order}]
        assert named == [(item.color, item.shape) for item in order]
        assert words[-1] == ("night" if scene.night else "day")


@pytest.mark.parametrize("task", ["caption", "depth", "sr"])
def test_pairs_are_the_worlds(tmp_path, task):
    config = small(f"scenes-{task}")
    model = config.model.build()
    pairs = image_pairs(config, model, tmp_path, silent)
    scenes = [example("train", index).scene for index in range(24)]
    assert np.array_equal(pairs.sources[7], low_res(scenes[7], 64)[0] if task == "sr" else render(scenes[7]))
    if task == "caption":
        assert torch.equal(pairs.targets, model.autoencoder.tokenize([describe(scene) for scene in scenes]))
    elif task == "depth":
        expected = np.clip(depth_map(scenes[7]), 1.5, 80)
        assert np.allclose(model.autoencoder.decode(pairs.targets[7:8])[0], expected, rtol=1e-5)
    else:
        assert np.array_equal(pairs.targets[7], render(scenes[7], 64))
    again = image_pairs(config, model, tmp_path, lambda *_: pytest.fail("made again"))
    assert torch.equal(pairs.sources, again.sources)
    assert torch.equal(pairs.targets, again.targets)


def test_a_damaged_cache_is_said(tmp_path):
    config = small("scenes-depth")
    model = config.model.build()
    image_pairs(config, model, tmp_path, silent)
    next(tmp_path.iterdir()).write_bytes(b"damaged")
    with pytest.raises(CrossFlowError, match="remove it, and it is made again"):
        image_pairs(config, model, tmp_path, silent)


def test_null_items_are_carried_to_their_donors():
    """The target of an unconditional item is that of another; its source stays."""
    draws = draw(6, (3, 64, 64), 0.9, torch.Generator().manual_seed(0))
    images = [low_res(example("train", i).scene, 64) for i in range(6)]
    low, high = (torch.from_numpy(np.stack(each)) for each in zip(*images, strict=True))
    pairs = ImagePairs("small image", "image", Pixels(), Pixels(), low, high)
    batch = pairs.load(torch.arange(6)[:, None], draws, 0, 6)
    assert not draws.conditional.all()
    assert torch.equal(batch.goal, Pixels().encode(high)[draws.donor])
    assert torch.equal(batch["small image"].values, Pixels().encode(low))
