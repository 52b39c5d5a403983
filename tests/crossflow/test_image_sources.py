"""Models whose sources are images: encoders, targets, losses, training and answers, against their definitions."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_image_recipes import small
from torch.nn import functional as F
from typer.testing import CliRunner

from crossflow.cli import app
from crossflow.errors import CrossFlowError
from crossflow.flow.batch import Batch, Item
from crossflow.flow.losses import draw
from crossflow.modalities.depth import DepthConfig, LogDepth, RelativeDepthConfig
from crossflow.modalities.tokens import TokensConfig
from crossflow.model.checkpoint import load_model
from crossflow.model.crossflow import CrossFlow
from crossflow.model.settings import Sampling
from crossflow.model.standard import StandardFlow
from crossflow.recipes import CONFIGS
from crossflow.sampling import from_image
from crossflow.sampling.from_image import GRAIN, FromImage
from crossflow.sampling.text_to_image import TextToImage
from crossflow.scenes.caption import describe
from crossflow.scenes.depth import low_res
from crossflow.scenes.render import render
from crossflow.scenes.splits import example
from crossflow.sources.upsample import UpsampleConfig
from crossflow.training.train import train

TASKS = ("caption", "depth", "sr")
ENDS = {"caption": ("image", "text"), "depth": ("image", "depth"), "sr": ("small image", "image")}
ROWS = [f"scenes-{task}{row}" for task in TASKS for row in ("", "-standard")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """Every recipe, small, trained for four steps."""
    root = tmp_path_factory.mktemp("trained")
    return {name: train(small(name), root / name, device="cpu") for name in ROWS}


def sources(task: str, count: int = 5) -> list[np.ndarray]:
    scenes = [example("val", index).scene for index in range(count)]
    return [low_res(scene, 64)[0] if task == "sr" else render(scene) for scene in scenes]


# The loss


def test_the_loss_of_super_resolution_is_its_definition():
    config = small("scenes-sr").model
    torch.manual_seed(0)
    model = config.build()
    torch.nn.init.normal_(model.backbone.patches.out.weight, std=0.1)
    low, high = torch.rand(3, 3, 16, 16), torch.rand(3, 3, 64, 64)
    draws = draw(3, (3, 64, 64), 0.0, torch.Generator().manual_seed(0), times="uniform")
    x0 = F.interpolate(low, scale_factor=4, mode="bicubic", antialias=True)
    t = draws.t[:, None, None, None]
    xt = (1 - (1 - 1e-5) * t) * x0 + t * high
    expected = (model.backbone(xt, draws.t, draws.conditional) - (high - (1 - 1e-5) * x0)).square().mean()
    found = model(Batch({"small image": Item(low), "image": Item(high)}, torch.arange(3)), draws)
    assert torch.allclose(found["total"], expected, rtol=1e-5)
    assert "kl" not in found and found["posterior_sd"] == 0


@torch.no_grad()
def test_a_flow_trained_at_the_source_alone_is_a_regression():
    """Law: its loss is the squared error of what it gives, one Euler step, up to the path's sigma_min of 1e-5."""
    config = CONFIGS["scenes-sr-regression"].model
    assert replace(config, times="uniform", sampling=CONFIGS["scenes-sr"].model.sampling) == CONFIGS["scenes-sr"].model
    config = replace(config, backbone=replace(config.backbone, width=32, depth=1, heads=1))
    torch.manual_seed(0)
    model = config.build()
    torch.nn.init.normal_(model.backbone.patches.out.weight, std=0.1)
    low, high = torch.rand(3, 3, 16, 16), torch.rand(3, 3, 64, 64)
    draws = draw(3, (3, 64, 64), 0.0, torch.Generator().manual_seed(0), times=config.times)
    assert not draws.t.any()
    loss = model(Batch({"small image": Item(low), "image": Item(high)}, torch.arange(3)), draws)["total"]
    given = model.generate(low, None, draws.noise, config.sampling)
    assert torch.allclose(loss, (given - high).square().mean(), rtol=1e-4)


def test_the_loss_of_depth_has_a_reconstruction():
    config = small("scenes-depth").model
    torch.manual_seed(0)
    model = config.build()
    image, depth = torch.rand(3, 3, 32, 32), torch.rand(3, 1, 32, 32)
    draws = draw(3, (1, 32, 32), 0.0, torch.Generator().manual_seed(0))
    found = model(Batch({"image": Item(image), "depth": Item(depth)}, torch.arange(3)), draws)
    x0 = model.encoder(image).sample(draws.noise)
    error = (model.terms["reconstruction"].decoder(x0) - image).square().mean()
    assert torch.allclose(found["reconstruction"], error)
    assert {term.name: term.weight for term in config.terms} == {"kl": 1e-5, "reconstruction": 0.1}
    assert torch.allclose(found["total"], found["flow"] + 0.1 * found["reconstruction"] + 1e-5 * found["kl"])


def test_the_flow_does_not_move_the_texts_latents():
    """The text autoencoder learns by its own loss alone."""
    config = small("scenes-caption").model
    torch.manual_seed(0)
    model = config.build()
    torch.nn.init.normal_(model.backbone.patches.out.weight, std=0.1)
    words = model.autoencoder.tokenize(["a red ball by day", "a blue box at night"])
    draws = draw(2, (8, 4, 4), 0.0, torch.Generator().manual_seed(0), sampled_targets=True)
    batch = Batch({"image": Item(torch.rand(2, 3, 32, 32)), "text": Item(words)}, torch.arange(2))
    model(batch, draws)["total"].backward()
    together = [part.grad.clone() for part in model.autoencoder.parameters()]
    model.zero_grad()
    model.autoencoder.reach(words, draws.target_noise).loss.backward()
    for one, other in zip(together, (part.grad for part in model.autoencoder.parameters()), strict=True):
        assert torch.allclose(one, other, atol=1e-7)


@pytest.mark.parametrize("name", ["scenes-caption-standard", "scenes-sr-standard"])
def test_the_baselines_see_their_condition(name):
    """Another image gives another velocity, from the same noise."""
    config = small(name).model
    torch.manual_seed(0)
    model = config.build()
    assert isinstance(model, StandardFlow)
    torch.nn.init.normal_(model.backbone.patches.out.weight, std=0.3)
    noise = torch.randn(2, *config.shape)
    one, other = (model.generate(torch.rand(2, *config.reads.shape), None, noise, Sampling(steps=1)) for _ in range(2))
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("task", TASKS)
def test_recipe_and_baseline_are_of_like_size(task):
    ours, theirs = (
        sum(part.numel() for part in CONFIGS[f"scenes-{task}{row}"].model.build(training=False).parameters())
        for row in ("", "-standard")
    )
    assert theirs / 1.5 < ours < theirs * 1.1
    one, other = CONFIGS[f"scenes-{task}"], CONFIGS[f"scenes-{task}-standard"]
    assert replace(one, model=other.model) == other


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("scenes-depth", {"reads": TokensConfig()}),
        ("scenes-depth", {"source": CONFIGS["scenes-t2i"].model.source}),
        ("scenes-depth-standard", {"reads": TokensConfig()}),  # its condition is in channels
        ("scenes-depth", {"source": UpsampleConfig(factor=1)}),  # it has no variance for the KL
    ],
)
def test_parts_that_do_not_fit_are_refused(name, change):
    with pytest.raises(CrossFlowError):
        replace(CONFIGS[name].model, **change)


# Training and answering


@pytest.mark.parametrize("name", ROWS)
def test_what_was_trained_answers(trained, name):
    task = name.split("-")[1]
    model = FromImage.from_checkpoint(trained[name])
    assert model.ends == ENDS[task]
    answers = model.generate(sources(task), range(5))
    if task == "caption":
        assert all(isinstance(answer, str) for answer in answers)
    elif task == "depth":
        assert all((answer.shape, answer.dtype) == ((32, 32), np.float32) for answer in answers)
        assert all(answer.min() >= 1.5 and answer.max() <= 80 for answer in answers)
    else:
        assert all((answer.shape, answer.dtype) == ((64, 64, 3), np.uint8) for answer in answers)


@pytest.mark.parametrize("name", ["scenes-depth", "scenes-sr", "scenes-caption"])
def test_an_answer_depends_on_its_image_and_seed_alone(trained, name):
    task = name.split("-")[1]
    images, model = sources(task), FromImage.from_checkpoint(trained[name], batch_size=2)
    whole = FromImage.from_checkpoint(trained[name]).generate(images, range(5))
    turned = model.generate(images[::-1], range(5)[::-1])[::-1]
    for one, other in zip(whole, turned, strict=True):
        assert one == other if isinstance(one, str) else np.array_equal(one, other)
        if task == "depth":
            assert np.array_equal(one * GRAIN, np.rint(one * GRAIN))


def test_only_what_sampling_needs_is_shipped(trained):
    model = load_model(trained["scenes-depth"])
    assert isinstance(model, CrossFlow) and len(model.terms) == 0


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    config = small("scenes-caption")
    whole = train(config, tmp_path / "whole", device="cpu").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "part", device="cpu", progress=_stopped)
    assert train(config, tmp_path / "part", device="cpu", resume=True).read_bytes() == whole


def _stopped(line: str) -> None:
    """Ctrl-C after the third step, whose state is not saved."""
    if line.startswith("step 3:"):
        raise KeyboardInterrupt


def test_previews_are_left_in_the_run(trained):
    folder = trained["scenes-sr"].parent / "samples"
    assert Image.open(folder / "step-000004.png").size == ((64 * 8 + 14), (64 * 3 + 4))
    text = (trained["scenes-caption"].parent / "samples" / "step-000004.txt").read_text()
    assert f"    {describe(example('val', 0).scene)}\n" in text


def test_models_are_not_taken_for_one_another(trained):
    with pytest.raises(CrossFlowError, match="load it with FromImage"):
        TextToImage.from_checkpoint(trained["scenes-depth"])
    with pytest.raises(CrossFlowError, match="load it with TextToImage"):
        FromImage(CONFIGS["scenes-tiny"].model.build())


@pytest.mark.parametrize(
    ("image", "seeds", "said"),
    [
        (np.zeros((16, 16, 3), np.uint8), [0], "32 x 32"),
        (np.zeros((32, 32), np.uint8), [0], "32 x 32"),
        (np.zeros((32, 32, 3), np.float32), [0], "float32"),
        (np.zeros((32, 32, 3), np.uint8), [0, 1], "one seed an image"),
    ],
)
def test_images_that_do_not_fit(trained, image, seeds, said):
    with pytest.raises(CrossFlowError, match=said):
        FromImage.from_checkpoint(trained["scenes-depth"]).generate([image], seeds)


@pytest.mark.parametrize("task", TASKS)
def test_the_command(trained, tmp_path, task):
    for index, image in enumerate(sources(task, 2)):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    files = [str(tmp_path / "0.png"), str(tmp_path / "1.png")]
    command = ["from-image", *files, "--ckpt", str(trained[f"scenes-{task}"]), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "out" / "outputs.jsonl").read_text().splitlines()]
    assert [row["image"] for row in rows] == ["0.png", "1.png"]
    assert [row.get("unit") for row in rows] == ["metres" if task == "depth" else None] * 2
    if task == "caption":
        assert result.stdout.splitlines() == [row["caption"] for row in rows]
    else:
        assert all(Path(row["output"]).exists() for row in rows)
        assert Image.open(tmp_path / "out" / "0.png").size == ((64, 64) if task == "sr" else (32, 32))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2 and "outputs.jsonl is there already, and is not replaced" in again.stderr
    if task != "caption":
        over = CliRunner().invoke(app, [*command[:-1], str(tmp_path)])
        assert over.exit_code == 2 and "0.png is there already, and is not replaced" in over.stderr
    assert {path: path.read_bytes() for path in before} == before


def test_a_folder_is_its_images(trained, tmp_path):
    for name in ("photos/b.png", "photos/a/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(sources("depth", 1)[0]).save(tmp_path / name)
    command = ["from-image", str(tmp_path / "photos"), "--ckpt", str(trained["scenes-depth"]), "--out"]
    result = CliRunner().invoke(app, [*command, str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "out").glob("*.npy")} == {"b.npy", "c.npy"}
    (tmp_path / "photos" / "d.png").write_bytes(b"")
    result = CliRunner().invoke(app, [*command, str(tmp_path / "other")])
    assert result.exit_code == 2 and "d.png cannot be read (zero bytes)" in result.stderr
    assert not (tmp_path / "other").exists()


def test_a_command_that_is_stopped_keeps_the_captions_that_it_has(trained, tmp_path, monkeypatch):
    generate = FromImage.generate

    def stopped(self: FromImage, images: list[np.ndarray], *options: object) -> object:
        if len(images) < 2:
            raise KeyboardInterrupt
        return generate(self, images, *options)

    monkeypatch.setattr(from_image, "BATCH", 2)
    monkeypatch.setattr(FromImage, "generate", stopped)
    for index, image in enumerate(sources("caption", 3)):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    files = [str(tmp_path / f"{index}.png") for index in range(3)]
    ckpt = str(trained["scenes-caption"])
    result = CliRunner().invoke(app, ["from-image", *files, "--ckpt", ckpt, "--out", str(tmp_path / "out")])
    assert (result.exit_code, result.stderr) == (130, "Stopped. What is finished is kept.\n")
    rows = [json.loads(line) for line in (tmp_path / "out" / "outputs.jsonl").read_text().splitlines()]
    assert [row["image"] for row in rows] == ["0.png", "1.png"]


def test_an_image_that_does_not_fit_is_named_before_any_is_read(trained, tmp_path):
    Image.fromarray(sources("depth", 1)[0]).save(tmp_path / "a.png")
    Image.new("RGB", (40, 30)).save(tmp_path / "b.png")
    files = [str(tmp_path / name) for name in ("a.png", "b.png")]
    ckpt = str(trained["scenes-depth"])
    result = CliRunner().invoke(app, ["from-image", *files, "--ckpt", ckpt, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "reads images of 32 x 32 pixels, unlike b.png: resize them" in result.stderr
    assert not (tmp_path / "out").exists()


def test_what_depth_is_in_is_that_of_the_model():
    relative = RelativeDepthConfig().build((1, 32, 32))
    assert LogDepth(DepthConfig()).unit == "metres"
    assert relative.unit.startswith("relative")
    assert relative.decode(torch.full((1, 1, 2, 2), 3.0)).max() == 100


def test_a_caption_may_have_no_word(tmp_path, monkeypatch):
    """As one of a model that has hardly been trained."""
    Image.fromarray(sources("caption", 1)[0]).save(tmp_path / "a.png")
    monkeypatch.setattr(FromImage, "generate", lambda *_: [""])
    result = CliRunner().invoke(app, ["from-image", str(tmp_path / "a.png"), "--out", str(tmp_path / "out")])
    assert (result.exit_code, result.stdout) == (0, "\n"), result.output


def test_the_command_refuses_names_that_collide(trained, tmp_path):
    (tmp_path / "other").mkdir()
    for path in (tmp_path / "a.png", tmp_path / "other" / "a.png"):
        Image.fromarray(sources("depth", 1)[0]).save(path)
    files = [str(tmp_path / "a.png"), str(tmp_path / "other" / "a.png")]
    command = ["from-image", *files, "--ckpt", str(trained["scenes-depth"]), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2 and "have one name" in result.stderr
