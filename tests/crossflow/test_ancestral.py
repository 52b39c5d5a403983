"""Ancestral sampling: exact for Gaussians, Euler's method without noise, and each image a matter of its own seed."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from tiny_pipelines import drawer, model_of
from torch import Tensor

from crossflow.anytoany.anchor import AnchorConfig
from crossflow.anytoany.rivals import DirectConfig
from crossflow.errors import CrossFlowError
from crossflow.flow.ancestral import euler_ancestral
from crossflow.flow.path import LinearPath, Path, SinCosPath
from crossflow.flow.solver import ANCESTRAL, euler
from crossflow.model.settings import Override, Sampling
from crossflow.networks import TransformerConfig
from crossflow.sampling.text_to_image import seeded_noise, seeded_noises

each_path = pytest.mark.parametrize("path", [LinearPath(), SinCosPath()], ids=repr)
MEAN, SD, GOAL, GOAL_SD = 1.5, 0.8, -2.0, 0.3


def draws(seed: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(shape, generator=generator, dtype=torch.float64)


def between_gaussians(path: Path):
    """The exact velocity from N(MEAN, SD^2) to an independent N(GOAL, GOAL_SD^2): the mean of all pairs through x."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        a, b = (part[:, None] for part in (path.gained(t), path.left(t)))
        unlikely = (x - a * GOAL - b * MEAN) / ((a * GOAL_SD) ** 2 + (b * SD) ** 2)
        x0, x1 = MEAN + b * SD**2 * unlikely, GOAL + a * GOAL_SD**2 * unlikely
        return path.sample(x0, x1, t).velocity

    return velocity


@each_path
@pytest.mark.parametrize("stop", [0.5, 1.0])
def test_with_the_exact_velocity_every_point_has_the_distribution_of_the_path(path, stop):
    steps, shape, seen = 200, (20_000, 1), {}
    noise = draws(0, shape)

    def watched(x: Tensor, t: Tensor) -> Tensor:
        seen[round(float(t[0]), 6)] = x
        return between_gaussians(path)(x, t)

    x0 = MEAN + SD * next(noise)
    end = euler_ancestral(watched, path, x0, torch.full(shape, MEAN), torch.full(shape, SD), noise, steps)
    found, t = (end if stop == 1 else seen[stop]), torch.tensor(stop, dtype=torch.float64)
    a, b = float(path.gained(t)), float(path.left(t))
    assert found.mean().item() == pytest.approx(a * GOAL + b * MEAN, abs=0.03)
    assert found.std().item() == pytest.approx(((a * GOAL_SD) ** 2 + (b * SD) ** 2) ** 0.5, abs=0.02)


def test_new_noise_is_drawn_about_what_the_source_says():
    """Two sources that began at one point come to where their means are."""
    path, shape = LinearPath(), (2, 1)
    x0 = torch.zeros(shape, dtype=torch.float64)
    mean = torch.tensor([[3.0], [-3.0]], dtype=torch.float64)
    field = lambda x, t: x.sign() - x  # noqa: E731
    one, other = euler_ancestral(field, path, x0, mean, torch.ones_like(x0), draws(1, shape), 8)
    assert one > 0 > other


def test_a_source_without_variance_is_followed_by_eulers_method():
    x0 = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    field = lambda x, t: torch.cos(x) * (1 + t)[:, None]  # noqa: E731
    found = euler_ancestral(field, LinearPath(), x0, x0, 0 * x0, draws(0, (3, 2)), 1)
    torch.testing.assert_close(found, euler(field, x0, 1), rtol=0, atol=1e-4)


def test_the_last_step_ends_in_the_target_that_is_predicted():
    seen = []

    def field(x: Tensor, t: Tensor) -> Tensor:
        velocity = (torch.full_like(x, 7.0) - x) / (1 - t)[:, None]
        seen.append(float(t[0]))
        return velocity

    x0 = torch.zeros(4, 1, dtype=torch.float64)
    end = euler_ancestral(field, LinearPath(0.0), x0, x0, x0 + 1, draws(0, (4, 1)), 5)
    assert torch.allclose(end, torch.full_like(end, 7.0)) and seen == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


@pytest.mark.parametrize("kind", ["crossflow", "baseline", "dit"])
def test_an_image_is_a_matter_of_its_own_seed(kind, cache_folder):
    drawn = drawer(kind, precision="float64", batch_size=2)
    override = Override(solver=ANCESTRAL, steps=4, guidance_scale=2.0)
    images = drawn.generate(["x", "y", "z"], [0, 1, 2], override)
    assert np.array_equal(drawn.generate(["z", "x"], [2, 0], override), [images[2], images[0]])
    assert not np.array_equal(drawn.generate(["x"], [5], override)[0], images[0])
    assert not np.array_equal(drawn.generate(["x"], [0], Override(solver="euler", steps=4))[0], images[0])


def test_further_draws_follow_the_first():
    shape = (2, 4, 4)
    drawn = seeded_noises([5, 6], shape)
    first, second = next(drawn), next(drawn)
    assert torch.equal(first, torch.stack([seeded_noise(seed, shape) for seed in (5, 6)]))
    generator = torch.Generator().manual_seed(6)
    torch.randn(shape, generator=generator)
    assert torch.equal(second[1], torch.randn(shape, generator=generator))


def test_latents_of_no_known_source_go_by_eulers_method(cache_folder):
    drawn = drawer("crossflow", precision="float64", batch_size=2)
    source = drawn.source(["x", "y"], [0, 1])
    ancestral, plain = (drawn.defaults.but(Override(solver=each, steps=3)) for each in (ANCESTRAL, "euler"))
    assert np.array_equal(drawn.from_source(source, ancestral), drawn.from_source(source, plain))
    assert ancestral.of_latents() == plain and plain.of_latents() is plain


def test_what_ancestral_sampling_cannot_do_is_said(cache_folder):
    still = Sampling(solver=ANCESTRAL, steps=2)
    with pytest.raises(CrossFlowError, match="was given none: use another solver"):
        model = model_of("crossflow")
        model.generate(torch.zeros(1, 16, 384), torch.ones(1, 16).bool(), torch.zeros(1, 48, 4, 4), still)
    network = TransformerConfig(width=16, depth=1, heads=2)
    for build in (partial(AnchorConfig, modalities=("image",)), DirectConfig):
        with pytest.raises(CrossFlowError, match="this flow runs backward: choose another solver"):
            build(shape=(1, 4, 4), backbone=network, sampling=still)
    with pytest.raises(CrossFlowError, match="in float32 or float64 and is not compiled: give the precision, or"):
        drawer("dit", precision="bfloat16", batch_size=1).generate(["x"], [0], Override(solver=ANCESTRAL))
    with pytest.raises(CrossFlowError, match="at least 1 step"):
        euler_ancestral(lambda x, t: x, LinearPath(), *[torch.zeros(1, 1)] * 3, draws(0, (1, 1)), 0)
