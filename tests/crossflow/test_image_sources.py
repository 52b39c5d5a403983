"""Models whose sources are images: encoders, targets, losses, training and answers, against their definitions."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from typer.testing import CliRunner

from crossflow.backbone.transformer import TransformerConfig
from crossflow.checkpoint import load_model
from crossflow.cli import app
from crossflow.configs import CONFIGS
from crossflow.encoder import ImageEncoder, ImageEncoderConfig, Reconstructor, Upsample, UpsampleConfig
from crossflow.errors import CrossFlowError
from crossflow.flow_config import Sampling
from crossflow.from_image import GRAIN, FromImage
from crossflow.image_pairs import scene_image_pairs
from crossflow.losses import draw
from crossflow.maps import DepthConfig, LogDepth, Pixels, grey
from crossflow.model import Batch, CrossFlow, StandardFlow, build_model
from crossflow.pipeline import TextToImage
from crossflow.recipe import SceneData, TrainConfig
from crossflow.scene_configs import WORDS
from crossflow.scenes.caption import describe
from crossflow.scenes.depth import depth_map, low_res
from crossflow.scenes.render import render
from crossflow.scenes.spec import CELLS
from crossflow.scenes.splits import example
from crossflow.text_autoencoder import TextAutoencoder, TextAutoencoderConfig
from crossflow.train import train

TASKS = ("caption", "depth", "sr")
ROWS = [f"scenes-{task}{row}" for task in TASKS for row in ("", "-standard")]


def small(name: str) -> TrainConfig:
    """A recipe with the sizes of its networks and data cut down, the rest as it is."""
    recipe = CONFIGS[name]
    model = recipe.model
    backbone = TransformerConfig(width=16, depth=1, heads=2, patch=model.backbone.patch)
    model = replace(model, backbone=backbone)
    if isinstance(model.encoder, ImageEncoderConfig):
        model = replace(model, encoder=replace(model.encoder, width=16, depth=1, heads=2))
    if isinstance(model.autoencoder, TextAutoencoderConfig):
        model = replace(model, autoencoder=replace(model.autoencoder, width=16, heads=2))
    data = replace(recipe.data, count=24)
    return replace(recipe, model=model, data=data, steps=4, batch_size=4, log_every=1, save_every=2, sample_every=4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """Every recipe, small, trained for four steps."""
    root = tmp_path_factory.mktemp("trained")
    return {name: train(small(name), root / name, device="cpu") for name in ROWS}


def sources(task: str, count: int = 5) -> list[np.ndarray]:
    scenes = [example("val", index).scene for index in range(count)]
    return [low_res(scene, 64)[0] if task == "sr" else render(scene) for scene in scenes]


# What stands at the two ends


def test_upsampling_is_pillows():
    image = sources("sr", 1)[0]
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
    images = torch.from_numpy(np.stack(sources("caption")))
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


# Text as a target


@pytest.fixture(scope="module")
def text() -> TextAutoencoder:
    torch.manual_seed(0)
    sizes = {"count": 32, "width": 16, "depth": 1, "heads": 2}
    return TextAutoencoder(TextAutoencoderConfig(words=WORDS, kl_weight=1e-3, scale=0.35, **sizes), (4, 2, 2))


def test_every_caption_of_the_world_has_its_numbers(text):
    for index in range(120):
        item = example("train", index)
        for caption in (*item.captions, describe(item.scene)):
            numbers = text.number([caption])[0]
            words = [text.config.words[number - 1] for number in numbers if number]
            assert " ".join(words).replace(" ,", ",") == caption


def test_the_longest_description_fits_the_recipe():
    own = CONFIGS["scenes-caption"].model
    autoencoder = TextAutoencoder(own.autoencoder, own.shape)
    four = next(e.scene for e in (example("train", i) for i in range(200)) if len(e.scene.objects) == 4)
    assert autoencoder.number([describe(four)]).count_nonzero() == 17


@pytest.mark.parametrize(
    ("caption", "said"), [("a red ghost", "'ghost' is not in"), ("a " * 33, "has 33 words, and this model's have")]
)
def test_captions_that_do_not_fit(text, caption, said):
    with pytest.raises(CrossFlowError, match=said):
        text.number([caption])


def test_the_autoencoders_loss_is_its_definition(text):
    words = text.number(["a red ball by day", "a pink box, a blue ring and a cone"])
    noise = torch.randn(2, 4, 2, 2)
    posterior = text.encode(words)
    latents = posterior.mean + (posterior.log_var / 2).exp() * noise
    kl = 0.5 * (posterior.mean**2 + posterior.log_var.exp() - 1 - posterior.log_var).sum((1, 2, 3)).mean()
    scores = text.decoder(latents).log_softmax(-1)
    entropy = -scores.gather(2, words[..., None]).mean()
    learned = text.learn(words, noise)
    assert torch.allclose(learned.loss, entropy + 1e-3 * kl, atol=1e-6)
    assert torch.allclose(learned.latents, 0.35 * latents)
    assert not learned.latents.requires_grad


def test_a_plain_encoder_has_no_variance(text):
    plain = TextAutoencoder(replace(text.config, kl_weight=None), (4, 2, 2))
    words = plain.number(["a red ball"])
    one, other = (plain.learn(words, noise) for noise in torch.randn(2, 1, 4, 2, 2))
    assert torch.equal(one.latents, other.latents)
    assert torch.isfinite(one.loss)


def test_padding_is_not_read(text):
    """What stands after a text's end changes no posterior."""
    words = text.number(["a red ball"])
    before = text.encode(words).mean
    with torch.no_grad():
        text.embed.weight[0] += 1.0
    assert torch.equal(text.encode(words).mean, before)


def test_a_text_autoencoder_learns_to_read_itself():
    torch.manual_seed(1)
    model = TextAutoencoder(TextAutoencoderConfig(words=WORDS, count=10, width=32, depth=1, heads=2), (8, 2, 2))
    captions = ["a red ball by day", "two boxes", "a picture of a pink cone, at night"]
    words = model.number(captions)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model.learn(words, torch.randn(3, 8, 2, 2)).loss.backward()
        optimizer.step()
    assert model.decode(model.encode(words).mean) == captions


# The pairs and the loss


def test_descriptions_are_read_row_by_row():
    for index in range(60):
        scene = example("val", index).scene
        places = [(int(item.y * CELLS), int(item.x * CELLS)) for item in scene.objects]
        order = [scene.objects[i] for i in np.lexsort(np.array(places).T[::-1])]
        words = describe(scene).replace(",", "").split()
        named = [(words[i - 1], words[i]) for i in range(1, len(words)) if words[i] in {o.shape for o in order}]
        assert named == [(item.color, item.shape) for item in order]
        assert words[-1] == ("night" if scene.night else "day")


@pytest.mark.parametrize("task", TASKS)
def test_pairs_are_the_worlds(tmp_path, task):
    config = small(f"scenes-{task}")
    model = build_model(config.model)
    pairs = scene_image_pairs(config, model, tmp_path, lambda line: None)
    scenes = [example("train", index).scene for index in range(24)]
    assert np.array_equal(pairs.sources[7], low_res(scenes[7], 64)[0] if task == "sr" else render(scenes[7]))
    if task == "caption":
        assert torch.equal(pairs.targets, model.autoencoder.number([describe(scene) for scene in scenes]))
    elif task == "depth":
        expected = np.clip(depth_map(scenes[7]), 1.5, 80)
        assert np.allclose(model.autoencoder.decode(pairs.targets[7:8])[0], expected, rtol=1e-5)
    else:
        assert np.array_equal(pairs.targets[7], render(scenes[7], 64))
    again = scene_image_pairs(config, model, tmp_path, lambda line: pytest.fail("made again"))
    assert all(torch.equal(one, other) for one, other in zip(vars(pairs).values(), vars(again).values(), strict=True))


def test_a_damaged_cache_is_said(tmp_path):
    config = small("scenes-depth")
    model = build_model(config.model)
    scene_image_pairs(config, model, tmp_path, lambda line: None)
    next(tmp_path.iterdir()).write_bytes(b"damaged")
    with pytest.raises(CrossFlowError, match="remove it, and it is made again"):
        scene_image_pairs(config, model, tmp_path, lambda line: None)


def test_null_items_are_carried_to_their_donors():
    """The target of an unconditional item is that of another; its source stays."""
    config = small("scenes-sr")
    pairs_of = replace(config, data=SceneData(count=24, size=64))
    model = build_model(config.model)
    picks = torch.arange(6)[:, None]
    draws = draw(6, (3, 64, 64), 0.9, torch.Generator().manual_seed(0))
    images = [low_res(example("train", i).scene, 64) for i in range(6)]
    from crossflow.image_pairs import ImagePairs

    low, high = (torch.from_numpy(np.stack(each)) for each in zip(*images, strict=True))
    batch = ImagePairs(low, high).load(picks, draws, 0, 6)
    assert not draws.conditional.all()
    assert torch.equal(batch.goal, Pixels().encode(high)[draws.donor])
    assert torch.equal(batch.source, Pixels().encode(low))
    assert isinstance(model, CrossFlow) and pairs_of.data.size == 64


def test_the_loss_of_super_resolution_is_its_definition():
    config = small("scenes-sr").model
    torch.manual_seed(0)
    model = build_model(config)
    torch.nn.init.normal_(model.backbone.patches.out.weight, std=0.1)
    low, high = torch.rand(3, 3, 16, 16), torch.rand(3, 3, 64, 64)
    draws = draw(3, (3, 64, 64), 0.0, torch.Generator().manual_seed(0), times="uniform")
    x0 = F.interpolate(low, scale_factor=4, mode="bicubic", antialias=True)
    t = draws.t[:, None, None, None]
    xt = (1 - (1 - 1e-5) * t) * x0 + t * high
    expected = (model.backbone(xt, draws.t, draws.conditional) - (high - (1 - 1e-5) * x0)).square().mean()
    found = model(Batch(high, low, None, torch.arange(3)), draws)
    assert torch.allclose(found.total, expected, rtol=1e-5)
    assert found.kl == 0 and found.posterior_sd == 0


def test_the_loss_of_depth_has_a_reconstruction():
    config = small("scenes-depth").model
    torch.manual_seed(0)
    model = build_model(config)
    image, depth = torch.rand(3, 3, 32, 32), torch.rand(3, 1, 32, 32)
    draws = draw(3, (1, 32, 32), 0.0, torch.Generator().manual_seed(0))
    found = model(Batch(depth, image, None, torch.arange(3)), draws)
    x0 = model.encoder(image).sample(draws.noise)
    error = (model.reconstructor(x0) - image).square().mean()
    assert torch.allclose(found.reconstruction, 0.1 * error)
    assert torch.allclose(found.total, found.flow + found.reconstruction + config.kl_weight * found.kl)


def test_the_flow_does_not_move_the_texts_latents():
    """The text autoencoder learns by its own loss alone."""
    config = small("scenes-caption").model
    torch.manual_seed(0)
    model = build_model(config)
    torch.nn.init.normal_(model.backbone.patches.out.weight, std=0.1)
    words = model.autoencoder.number(["a red ball by day", "a blue box at night"])
    draws = draw(2, (8, 4, 4), 0.0, torch.Generator().manual_seed(0), sampled_targets=True)
    found = model(Batch(words, torch.rand(2, 3, 32, 32), None, torch.arange(2)), draws)
    found.total.backward()
    together = [part.grad.clone() for part in model.autoencoder.parameters()]
    model.zero_grad()
    model.autoencoder.learn(words, draws.target_noise).loss.backward()
    for one, other in zip(together, (part.grad for part in model.autoencoder.parameters()), strict=True):
        assert torch.allclose(one, other, atol=1e-7)


@pytest.mark.parametrize("name", ["scenes-caption-standard", "scenes-sr-standard"])
def test_the_baselines_see_their_condition(name):
    """Another image gives another velocity, from the same noise."""
    config = small(name).model
    torch.manual_seed(0)
    model = build_model(config)
    assert isinstance(model, StandardFlow)
    torch.nn.init.normal_(model.backbone.patches.out.weight, std=0.3)
    noise = torch.randn(2, *config.shape)
    one, other = (model.generate(torch.rand(2, *config.image), None, noise, Sampling(steps=1)) for _ in range(2))
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("task", TASKS)
def test_recipe_and_baseline_are_of_like_size(task):
    ours, theirs = (
        sum(part.numel() for part in build_model(CONFIGS[f"scenes-{task}{row}"].model, training=False).parameters())
        for row in ("", "-standard")
    )
    assert theirs / 1.5 < ours < theirs * 1.1
    one, other = CONFIGS[f"scenes-{task}"], CONFIGS[f"scenes-{task}-standard"]
    assert replace(one, model=other.model) == other


@pytest.mark.parametrize(
    "change",
    [
        {"image": None},
        {"encoder": CONFIGS["scenes-t2i"].model.encoder},
        {"encoder": None, "image": None, "condition": "channels"},
        {"encoder": UpsampleConfig(factor=1)},  # it has nothing to reconstruct from
    ],
)
def test_parts_that_do_not_fit_are_refused(change):
    with pytest.raises(CrossFlowError):
        replace(CONFIGS["scenes-depth"].model, **change)


# Training and answering


@pytest.mark.parametrize("name", ROWS)
def test_what_was_trained_answers(trained, name):
    task = name.split("-")[1]
    model = FromImage.from_checkpoint(trained[name])
    assert model.task == task
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
    assert isinstance(model, CrossFlow) and model.reconstructor is None


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    config = small("scenes-caption")
    whole = train(config, tmp_path / "whole", device="cpu").read_bytes()
    train(replace(config, steps=4), tmp_path / "part", device="cpu", progress=_stopped_at(2))
    assert train(config, tmp_path / "part", device="cpu", resume=True).read_bytes() == whole


def _stopped_at(step: int):
    class Stop(Exception):
        pass

    def progress(line: str) -> None:
        if line.startswith(f"step {step + 1}:"):
            raise Stop

    return progress


def test_previews_are_left_in_the_run(trained):
    folder = trained["scenes-sr"].parent / "samples"
    assert Image.open(folder / "step-000004.png").size == ((64 * 8 + 14), (64 * 3 + 4))
    text = (trained["scenes-caption"].parent / "samples" / "step-000004.txt").read_text()
    assert f"    {describe(example('val', 0).scene)}\n" in text


def test_models_are_not_taken_for_one_another(trained):
    with pytest.raises(CrossFlowError, match="load it with FromImage"):
        TextToImage.from_checkpoint(trained["scenes-depth"])
    with pytest.raises(CrossFlowError, match="load it with TextToImage"):
        FromImage(build_model(CONFIGS["scenes-tiny"].model))


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
    if task == "caption":
        assert result.stdout.splitlines() == [row["caption"] for row in rows]
    else:
        assert all(Path(row["output"]).exists() for row in rows)
        assert Image.open(tmp_path / "out" / "0.png").size == ((64, 64) if task == "sr" else (32, 32))


def test_the_command_refuses_names_that_collide(trained, tmp_path):
    (tmp_path / "other").mkdir()
    for path in (tmp_path / "a.png", tmp_path / "other" / "a.png"):
        Image.fromarray(sources("depth", 1)[0]).save(path)
    files = [str(tmp_path / "a.png"), str(tmp_path / "other" / "a.png")]
    command = ["from-image", *files, "--ckpt", str(trained["scenes-depth"]), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2 and "have one name" in result.stderr
