"""Walks and sums of sources: the authors' formulas, and files that hold what a pipeline draws."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_pipelines import drawer

from crossflow.errors import CrossFlowError
from crossflow.model.settings import Override, Sampling
from crossflow.sampling.latent_space import Sum, arithmetic, before_and_after, draw_sum, draw_walk, interpolate
from crossflow.sampling.text_to_image import TextToImage, prompt_seed

SAMPLING = Sampling(solver="euler", steps=2)
OVERRIDE = Override(solver="euler", steps=2)


@pytest.fixture(scope="module")
def pipeline() -> TextToImage:
    return drawer("crossflow")


def latents(count: int) -> torch.Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@given(st.integers(2, 60))
def test_a_walk_is_evenly_spaced_from_end_to_end(frames):
    """Both ends to the last bit; what is between to float64 rounding."""
    first, last = latents(2)
    walk = interpolate(first, last, frames)
    assert torch.equal(walk[0], first)
    assert torch.allclose(walk[-1], last, rtol=0, atol=1e-15)
    steps = walk.diff(dim=0)
    assert torch.allclose(steps, ((last - first) / (frames - 1)).expand_as(steps), rtol=0, atol=1e-14)


def test_a_walk_is_not_rescaled():
    """Half way between opposite sources there is nothing."""
    assert not interpolate(latents(1)[0], -latents(1)[0], 3)[1].any()


def test_a_walk_has_two_ends():
    with pytest.raises(CrossFlowError, match="frames is 1"):
        interpolate(*latents(2), 1)


def test_a_prompt_less_itself_leaves_nothing():
    [base] = latents(1)
    with pytest.raises(CrossFlowError, match="Nothing is left of the sum"):
        arithmetic(base, (), [base])


@pytest.mark.parametrize(("added", "subtracted", "scale"), [(1, 1, 1.0), (2, 0, 0.25), (0, 2, 3.0), (0, 0, 1.0)])
def test_a_sum_is_brought_to_mean_zero_and_unbiased_deviation_one(added, subtracted, scale):
    base, *rest = latents(1 + added + subtracted)
    total = arithmetic(base, rest[:added], rest[added:], scale)
    raw = base.numpy() + scale * sum(part.numpy() for part in rest[:added])
    raw = raw - scale * sum(part.numpy() for part in rest[added:])
    np.testing.assert_allclose(total.numpy(), (raw - raw.mean()) / raw.std(ddof=1), rtol=0, atol=1e-13)
    assert total.mean().abs() < 1e-15
    assert total.numpy().std(ddof=1) == pytest.approx(1, abs=1e-14)


def test_a_walk_in_files(pipeline, tmp_path):
    """Its ends are the images of the two prompts; the animation goes there and back, each end once."""
    ends = ("a photo of a ball", "a photo of a ring")
    shown = draw_walk(pipeline, ends, 4, SAMPLING, 5, tmp_path / "walk")
    assert shown == tmp_path / "walk" / "grid.png"
    frames = [f"frame-00{k}.png" for k in range(4)]
    assert sorted(path.name for path in (tmp_path / "walk").glob("[!.]*")) == [*frames, "grid.png", "walk.gif"]
    images = [read(tmp_path / "walk" / name) for name in frames]
    drawn = pipeline.generate(ends, [prompt_seed(5, prompt) for prompt in ends], OVERRIDE)
    assert np.array_equal([images[0], images[-1]], drawn)
    assert len({image.tobytes() for image in images}) == 4
    with Image.open(shown.with_name("walk.gif")) as moving:
        assert (moving.n_frames, moving.size, moving.info["loop"]) == (6, (32, 32), 0)
    tiles = read(shown)[1::3, 1::3]
    assert tiles.shape == (32, 4 * 34 - 2, 3)
    assert np.array_equal(tiles[:, 34:66], images[1])


def test_a_walk_is_between_the_sources_that_images_are_drawn_from(pipeline, tmp_path):
    """Without noise these are the middles of the posteriors, whatever the seed."""
    ends = ("a photo of a ball", "a photo of a ring")
    draw_walk(pipeline, ends, 2, replace(SAMPLING, noise=0.0), 5, tmp_path)
    drawn = pipeline.generate(ends, [1, 2], replace(OVERRIDE, noise=0.0))
    assert np.array_equal([read(tmp_path / f"frame-00{k}.png") for k in range(2)], drawn)


def test_a_sum_in_files(pipeline, tmp_path):
    """Each prompt by itself as it is always drawn, then the image of the sum."""
    terms = Sum(base="a ball", add=("a ring",), subtract=("a cone", "a box"), scale=0.5)
    shown = draw_sum(pipeline, terms, SAMPLING, 3, tmp_path)
    names = ["base", "add-0", "subtract-0", "subtract-1", "sum"]
    assert {path.stem for path in tmp_path.glob("[!.]*")} == {*names, "grid"}
    images = [read(tmp_path / f"{name}.png") for name in names]
    seeds = [prompt_seed(3, prompt) for prompt in terms.prompts]
    assert np.array_equal(images[:4], pipeline.generate(terms.prompts, seeds, OVERRIDE))
    base, add, *subtract = pipeline.source(terms.prompts, seeds)
    total = arithmetic(base, [add], subtract, 0.5)
    assert np.array_equal(images[4], pipeline.from_source(total[None], SAMPLING)[0])
    assert np.array_equal(read(shown)[1::3, 1::3][:, 4 * 34 :], images[4])


def test_other_images_are_never_overwritten(pipeline, tmp_path):
    draw_sum(pipeline, Sum(base="a ball"), SAMPLING, 3, tmp_path)
    before = (tmp_path / "base.png").read_bytes()
    with pytest.raises(CrossFlowError, match=r"base\.png is there already, and is not replaced"):
        draw_sum(pipeline, Sum(base="a ring"), SAMPLING, 3, tmp_path)
    assert (tmp_path / "base.png").read_bytes() == before
    with pytest.raises(CrossFlowError, match=r"grid\.png is there already"):
        draw_walk(pipeline, ("a ball", "a ring"), 2, SAMPLING, 3, tmp_path)


def test_noise_has_no_source(tmp_path):
    """Of the baseline, which starts from it, neither can be drawn."""
    with pytest.raises(CrossFlowError, match="no source of a prompt"):
        draw_walk(drawer("baseline"), ("a ball", "a ring"), 3, SAMPLING, 0, tmp_path)


def test_a_sum_is_read_from_words():
    words = "a ball and a box + a ring - a box + a cone"
    expected = Sum(base="a ball and a box", add=("a ring", "a cone"), subtract=("a box",), scale=2.0)
    assert Sum.of_text(words, 2.0) == expected
    assert Sum.of_text("a ball") == Sum(base="a ball")


def test_images_before_and_after_are_those_of_the_drawn_sum(pipeline, tmp_path):
    sums = [Sum(base="a ball", add=("a box",)), Sum(base="a ball and a box", add=("a ring",), subtract=("a box",))]
    pairs = before_and_after(pipeline, sums, [3, 4], SAMPLING)
    for terms, seed, pair in zip(sums, (3, 4), pairs, strict=True):
        draw_sum(pipeline, terms, SAMPLING, seed, tmp_path / str(seed))
        for name, image in zip(("base", "sum"), pair, strict=True):
            assert np.array_equal(read(tmp_path / str(seed) / f"{name}.png"), image)
