"""An image depends on its own prompt and seed, and on nothing that is drawn beside it."""

import numpy as np
import pytest
import torch
from tiny_pipelines import drawer

from crossflow.errors import CrossFlowError
from crossflow.modalities.minilm import MiniLM
from crossflow.model.settings import Override, Sampling
from crossflow.recipes import CONFIGS
from crossflow.sampling import text_to_image as module
from crossflow.sampling.sampler import Sampler
from crossflow.sampling.text_to_image import TextToImage, dtype_named, prompt_seed, seeded_noise
from crossflow.scenes import example, render

PROMPTS = ["a photo of a ball", "a photo of two rings", "a photo of a red box and a blue cone", ""] * 3


@pytest.fixture(scope="module")
def pipeline(cache_folder) -> TextToImage:
    return drawer("crossflow", MiniLM())


@pytest.fixture(scope="module")
def baseline(cache_folder) -> TextToImage:
    return drawer("baseline", MiniLM())


@pytest.fixture(scope="module", params=[("dimr", "float32"), ("dit", "bfloat16"), ("crossflow", "float32")])
def filled(cache_folder, request) -> TextToImage:
    """Batches of three, always."""
    name, precision = request.param
    return drawer(name, precision=precision, batch_size=3)


@pytest.mark.parametrize("kind", ["pipeline", "baseline"])
@pytest.mark.parametrize("solver, guidance_scale", [("midpoint", 1.0), ("heun", 3.0)])
def test_images_are_byte_equal_alone_in_batches_and_in_any_order(kind, solver, guidance_scale, request, monkeypatch):
    drawer = request.getfixturevalue(kind)
    seeds = list(range(len(PROMPTS)))
    override = Override(solver=solver, steps=3, guidance_scale=guidance_scale)
    drawn = drawer.generate(PROMPTS, seeds, override)
    assert all(image.shape == (32, 32, 3) and image.dtype == np.uint8 for image in drawn)
    assert len({image.tobytes() for image in drawn}) == len(PROMPTS)
    order = np.random.default_rng(0).permutation(len(PROMPTS))
    mixed = drawer.generate([PROMPTS[i] for i in order], [seeds[i] for i in order], override)
    for place, i in enumerate(order):
        assert np.array_equal(mixed[place], drawn[i])
    monkeypatch.setattr(drawer, "batch_size", 5)
    assert np.array_equal(drawer.generate(PROMPTS, seeds, override), drawn)
    [alone] = drawer.generate(PROMPTS[2:3], seeds[2:3], override)
    assert np.array_equal(alone, drawn[2])


def test_filled_batches_make_images_independent(filled):
    """At its place an image is byte-equal whatever stands beside it; at another it is within one grey level."""
    drawn = filled.generate(PROMPTS[:4], range(4), Override(guidance_scale=3.0))
    assert len({image.tobytes() for image in drawn}) == 4
    alone = filled.generate(PROMPTS[3:4], [3], Override(guidance_scale=3.0))
    assert np.array_equal(alone, drawn[3:])
    beside = filled.generate([PROMPTS[0], "x", "y"], [0, 8, 9], Override(guidance_scale=3.0))
    assert np.array_equal(beside[0], drawn[0])
    [moved] = filled.generate(PROMPTS[2:3], [2], Override(guidance_scale=3.0))
    assert np.abs(moved.astype(int) - drawn[2]).max() <= 1


def test_the_parts_of_drawing_fill_their_batches_too(filled):
    """Prompts to sources to images, in pieces of any size, are the images drawn at once."""
    override = Override(solver="euler", steps=2, guidance_scale=3.0)
    drawn = filled.generate(PROMPTS[:4], range(4), override)
    source = filled.source(PROMPTS[:4], range(4))
    assert torch.equal(filled.source(PROMPTS[:2], range(2)), source[:2])
    again = filled.from_source(source, filled.defaults.but(override))
    assert np.array_equal(again, drawn)


def test_what_can_change_an_image_is_in_the_identity(pipeline, filled):
    assert pipeline.identity == {"weights_sha256": "crossflow", "precision": "float64"}
    assert (filled.identity["batch_size"], filled.identity["precision"]) == ("3", str(filled.dtype)[6:])
    assert drawer("dimr", precision="float32", compiled=True).identity["compiled"] == "blocks"


@pytest.mark.parametrize("name", ["dimr", "dit"])
def test_precisions_agree(cache_folder, name):
    """float32 to one grey level of float64; bfloat16 to 30 dB of it, in images with the range of a byte."""
    override = Override(solver="heun", steps=4)
    exact, single, half = (
        np.array(drawer(name, precision=precision, batch_size=4).generate(PROMPTS[:4], range(4), override))
        for precision in ("float64", "float32", "bfloat16")
    )
    assert np.abs(single.astype(int) - exact).max() <= 1
    assert exact.std() > 10
    assert 10 * np.log10(255**2 / np.square(half.astype(float) - exact).mean()) > 30
    assert not np.array_equal(half, exact)


def test_a_sampler_is_made_once_for_the_same_settings(cache_folder, monkeypatch):
    made = []

    class Counted(Sampler):
        def __init__(self, *arguments: object, **options: object) -> None:
            made.append(options["backward"])
            super().__init__(*arguments, **options)

    monkeypatch.setattr(module, "Sampler", Counted)
    drawn = drawer("dimr", precision="float32", batch_size=1)
    one, two = drawn.generate(PROMPTS[:2], [0, 1])
    assert made == [False]
    drawn.to_source([one], Sampling(steps=2))
    assert np.array_equal(drawn.generate(PROMPTS[1:2], [1]), [two])
    assert made == [False, True, False]


@pytest.mark.parametrize(
    ("name", "on_cpu", "on_gpu"),
    [
        ("scenes-t2i", torch.float64, torch.float64),
        ("scenes-caption-standard", torch.float64, torch.float64),
        ("paper-sr-small", torch.float64, torch.float32),
        ("t2i-tiny", torch.float32, torch.bfloat16),
    ],
)
def test_auto_is_exact_but_for_large_models_on_a_gpu_and_released_ones(name, on_cpu, on_gpu):
    """The largest of the embedded world, and the smallest of the paper's tasks."""
    with torch.device("meta"):
        model = CONFIGS[name].model.build(training=False)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert (dtype_named("auto", model, cpu), dtype_named("auto", model, gpu)) == (on_cpu, on_gpu)
    assert dtype_named("float64", model, gpu) == torch.float64


def test_precisions_that_cannot_be(cache_folder):
    with pytest.raises(CrossFlowError, match="gains nothing from bfloat16"):
        drawer("crossflow", precision="bfloat16")
    with pytest.raises(CrossFlowError, match="Unknown precision 'float16'"):
        drawer("dimr", precision="float16")
    with pytest.raises(CrossFlowError, match="batch_size is 0"):
        drawer("dimr", batch_size=0)
    with pytest.raises(CrossFlowError, match="dopri5 chooses its times"):
        drawer("dimr", precision="bfloat16", batch_size=1).generate(["x"], [0], Override(solver="dopri5"))


def test_a_solver_that_chooses_its_times_draws_without_tables(cache_folder):
    """In float32 within two grey levels of many fixed steps: the tolerance of dopri5 is 1e-5 a step."""
    drawn = drawer("dit", precision="float32", batch_size=1)
    adaptive, fixed = (
        drawn.generate(["x"], [0], override)[0]
        for override in (Override(solver="dopri5"), Override(solver="heun", steps=40))
    )
    assert np.abs(adaptive.astype(int) - fixed).max() <= 2


def test_images_go_to_their_sources_and_back(cache_folder):
    """The way back undoes the way there with the error of a second-order method: a quarter at twice the steps."""
    drawn = drawer("dit", batch_size=2)
    scenes = [render(example("val", i).scene) for i in range(3)]
    latents = drawn.autoencoder.encode(torch.from_numpy(np.stack(scenes)))
    errors = []
    for steps in (4, 8, 16):
        sampling = Sampling(solver="midpoint", steps=steps)
        source = drawn.to_source(scenes, sampling)
        assert (source - latents).abs().max() > 0.1
        again = drawn.model.sample(source, "midpoint", steps, 1.0)
        errors.append((again - latents).square().mean().sqrt().item())
    assert errors[0] / errors[1] > 3.2
    assert errors[1] / errors[2] > 3.2
    images = drawn.from_source(source, sampling)
    lossless = drawn.autoencoder.decode(latents).numpy()
    assert np.abs(np.array(images).astype(int) - lossless).max() <= 1


def test_everything_runs_in_float64(pipeline):
    assert pipeline.dtype == torch.float64
    assert {part.dtype for part in pipeline.model.parameters()} == {torch.float64}


def test_the_model_it_was_given_is_left_alone():
    model = CONFIGS["scenes-tiny"].model.build().train()
    TextToImage(model, MiniLM())
    assert model.training
    assert {part.dtype for part in model.parameters()} == {torch.float32}


def test_settings_left_out_are_the_checkpoints_own(pipeline):
    assert pipeline.defaults.but(Override()) == pipeline.defaults == Sampling(solver="midpoint", steps=3)
    assert pipeline.defaults.but(Override(steps=7)) == Sampling(solver="midpoint", steps=7)
    every = Override(solver="midpoint", steps=3, guidance_scale=1.0, noise=1.0)
    own, said = pipeline.generate(["x"], [1]), pipeline.generate(["x"], [1], every)
    assert np.array_equal(own, said)
    assert not np.array_equal(own, pipeline.generate(["x"], [1], Override(guidance_scale=4.0)))


def test_no_prompts_are_no_images(pipeline):
    assert pipeline.generate([], []) == []


def test_wrong_calls(pipeline):
    with pytest.raises(CrossFlowError, match="give a list of one"):
        pipeline.generate("ab", [0, 1])
    with pytest.raises(CrossFlowError, match="2 prompts but 1 seeds"):
        pipeline.generate(["a", "b"], [1])
    with pytest.raises(CrossFlowError, match=r"Unknown solver 'eular'\. Did you mean 'euler'"):
        pipeline.generate(["a"], [1], Override(solver="eular"))
    with pytest.raises(CrossFlowError, match="guidance_scale is -1"):
        pipeline.generate(["a"], [1], Override(guidance_scale=-1.0))
    with pytest.raises(CrossFlowError, match="The image ended in numbers that are not finite"):
        pipeline.generate(["a"], [1], Override(guidance_scale=1e308))


def test_noise_and_seeds_are_what_they_ever_were():
    """Frozen numbers: another hash or generator would silently make every published sample another one."""
    assert prompt_seed(0, "a photo of a ball") == prompt_seed(0, "a photo of a ball", 0)
    assert len({prompt_seed(s, p, c) for s in (0, 1) for p in ("a", "b") for c in (0, 1)}) == 8
    assert prompt_seed(3, "a", 2) == int.from_bytes(__import__("hashlib").sha256(b"3\n2\na").digest()[:8], "big") >> 1
    assert torch.equal(seeded_noise(5, (2, 3, 4)), seeded_noise(5, (2, 3, 4)))
    assert seeded_noise(0, (1, 1, 1)).item() == pytest.approx(1.5409960746765137)
    assert torch.equal(seeded_noise(5, (2, 3, 4)), seeded_noise(np.int64(5), (2, 3, 4)))
