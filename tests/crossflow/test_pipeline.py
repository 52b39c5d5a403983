"""An image depends on its own prompt and seed to the last bit, and a folder of samples on no interruption."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossflow import pipeline as module
from crossflow import samples
from crossflow.backbone.transformer import TransformerConfig
from crossflow.configs import CONFIGS
from crossflow.data import scene_images
from crossflow.errors import CrossFlowError
from crossflow.latents import MiniLM
from crossflow.model import Sampling, build_model
from crossflow.pipeline import TextToImage, prompt_seed, seeded_noise
from crossflow.samples import draw_into, grid

PROMPTS = ["a photo of a ball", "a photo of two rings", "a photo of a red box and a blue cone", ""] * 3
TEN = ["a photo of a ball", "a photo of a cone", "word " * 40, "../../etc/passwd", "ünï 漢字"] * 2


def model_of(name: str, **changes: object):
    """A model whose images are not flat: its output layer is drawn, its latents those of scenes."""
    torch.manual_seed(0)
    config = replace(CONFIGS["scenes-tiny"].model, sampling=Sampling(solver="midpoint", steps=3), **changes)
    model = build_model(config)
    torch.nn.init.normal_(model.backbone.patches.out.weight, std=0.1)
    model.autoencoder.fit(scene_images("train", 30, 32))
    return TextToImage(model, MiniLM(), weights_sha256=name)


@pytest.fixture(scope="module")
def pipeline(cache_folder) -> TextToImage:
    return model_of("crossflow")


@pytest.fixture(scope="module")
def baseline(cache_folder) -> TextToImage:
    config = TransformerConfig(width=32, depth=1, heads=1)
    return model_of("standard", encoder=None, contrastive_weight=0.0, backbone=config)


@pytest.mark.parametrize("kind", ["pipeline", "baseline"])
@pytest.mark.parametrize("solver, guidance_scale", [("midpoint", 1.0), ("heun", 3.0)])
def test_images_are_byte_equal_alone_in_batches_and_in_any_order(kind, solver, guidance_scale, request, monkeypatch):
    drawer = request.getfixturevalue(kind)
    seeds = list(range(len(PROMPTS)))
    drawn = drawer.generate(PROMPTS, seeds, solver, 3, guidance_scale)
    assert all(image.shape == (32, 32, 3) and image.dtype == np.uint8 for image in drawn)
    assert len({image.tobytes() for image in drawn}) == len(PROMPTS)
    order = np.random.default_rng(0).permutation(len(PROMPTS))
    mixed = drawer.generate([PROMPTS[i] for i in order], [seeds[i] for i in order], solver, 3, guidance_scale)
    for place, i in enumerate(order):
        assert np.array_equal(mixed[place], drawn[i])
    monkeypatch.setattr(module, "CHUNK", 5)
    assert np.array_equal(drawer.generate(PROMPTS, seeds, solver, 3, guidance_scale), drawn)
    [alone] = drawer.generate(PROMPTS[2:3], seeds[2:3], solver, 3, guidance_scale)
    assert np.array_equal(alone, drawn[2])


def test_everything_runs_in_float64(pipeline):
    assert pipeline.dtype == torch.float64
    assert {part.dtype for part in pipeline.model.parameters()} == {torch.float64}


def test_the_model_it_was_given_is_left_alone():
    model = build_model(CONFIGS["scenes-tiny"].model).train()
    TextToImage(model, MiniLM())
    assert model.training
    assert {part.dtype for part in model.parameters()} == {torch.float32}


def test_settings_left_out_are_the_checkpoints_own(pipeline):
    assert pipeline.sampling() == pipeline.defaults == Sampling(solver="midpoint", steps=3)
    assert pipeline.sampling(steps=7) == Sampling(solver="midpoint", steps=7)
    own, said = pipeline.generate(["x"], [1]), pipeline.generate(["x"], [1], "midpoint", 3, 1.0)
    assert np.array_equal(own, said)
    assert not np.array_equal(own, pipeline.generate(["x"], [1], guidance_scale=4.0))


def test_no_prompts_are_no_images(pipeline):
    assert pipeline.generate([], []) == []


def test_wrong_calls(pipeline):
    with pytest.raises(CrossFlowError, match="2 prompts but 1 seeds"):
        pipeline.generate(["a", "b"], [1])
    with pytest.raises(CrossFlowError, match=r"Unknown solver 'eular'\. Did you mean 'euler'"):
        pipeline.generate(["a"], [1], solver="eular")
    with pytest.raises(CrossFlowError, match="guidance_scale is -1"):
        pipeline.generate(["a"], [1], guidance_scale=-1.0)


def test_noise_and_seeds_are_what_they_ever_were():
    """Frozen numbers: another hash or generator would silently make every published sample another one."""
    assert prompt_seed(0, "a photo of a ball") == prompt_seed(0, "a photo of a ball", 0)
    assert len({prompt_seed(s, p, c) for s in (0, 1) for p in ("a", "b") for c in (0, 1)}) == 8
    assert prompt_seed(3, "a", 2) == int.from_bytes(__import__("hashlib").sha256(b"3\n2\na").digest()[:8], "big") >> 1
    assert torch.equal(seeded_noise(5, (2, 3, 4)), seeded_noise(5, (2, 3, 4)))
    assert seeded_noise(0, (1, 1, 1)).item() == pytest.approx(1.5409960746765137)


def test_a_grid_tiles_row_by_row():
    images = [np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30)]
    tiled = np.asarray(grid(images, columns=2, scale=1))
    assert tiled.shape == (6, 8, 3)
    assert [int(tiled[y, x, 0]) for y, x in ((0, 0), (0, 5), (4, 0), (4, 5), (2, 0), (0, 3))] == [
        10,
        20,
        30,
        255,
        255,
        255,
    ]
    assert np.asarray(grid(images, columns=2, scale=3)).shape == (18, 24, 3)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def draw(pipeline: TextToImage, out: Path, prompts: list[str] = TEN, **options: object):
    return draw_into(out, pipeline, iter(prompts), options.pop("sampling", pipeline.sampling()), **options)


def test_a_folder_of_samples(pipeline, tmp_path):
    drawn = draw(pipeline, tmp_path / "out", per_prompt=2, seed=4)
    assert drawn == (20, 0, 2)
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [prompt for prompt in TEN for _ in range(2)]
    assert [row["file"] for row in rows[:4]] == [
        "000000-0-a-photo-of-a-ball.png",
        "000000-1-a-photo-of-a-ball.png",
        "000001-0-a-photo-of-a-cone.png",
        "000001-1-a-photo-of-a-cone.png",
    ]
    assert rows[6]["file"] == "000003-0-etc-passwd.png"
    assert set(contents(tmp_path)) == {"out/samples.jsonl"} | {f"out/{row['file']}" for row in rows}
    for row in rows[:3]:
        assert row["seed"] == prompt_seed(4, row["prompt"], row["copy"])
        assert row["settings"] == {
            "weights_sha256": "crossflow",
            "precision": "float64",
            "seed": 4,
            "solver": "midpoint",
            "steps": 3,
            "guidance_scale": 1.0,
        }
        with Image.open(tmp_path / "out" / row["file"]) as image:
            assert np.array_equal(np.asarray(image), pipeline.generate([row["prompt"]], [row["seed"]])[0])


@pytest.mark.parametrize("chunk", [1, 3, 50])
def test_an_interrupted_folder_ends_byte_equal(pipeline, tmp_path, monkeypatch, chunk):
    """Stopped after the k-th image was written, before its line was; then a line cut in half; then a file lost."""
    draw(pipeline, tmp_path / "whole")
    monkeypatch.setattr(samples, "CHUNK", chunk)
    write = samples.write_image
    for stop in (1, 4, 9):
        out, left = tmp_path / f"stopped-{stop}", stop

        def stopping(path: Path, image: np.ndarray) -> None:
            nonlocal left
            write(path, image)
            left -= 1
            if not left:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(samples, "write_image", stopping)
            with pytest.raises(KeyboardInterrupt):
                draw(pipeline, out)
        with (out / "samples.jsonl").open("a") as file:
            file.write('{"file": "0000')
        drawn = draw(pipeline, out)
        assert (drawn.new + drawn.kept, drawn.kept) == (10, (stop - 1) // chunk * chunk)
        assert contents(out) == contents(tmp_path / "whole")
    (out / "000001-0-a-photo-of-a-cone.png").unlink()
    assert draw(pipeline, out)[:2] == (1, 9)
    assert contents(out) == contents(tmp_path / "whole")


def test_more_prompts_may_follow(pipeline, tmp_path):
    draw(pipeline, tmp_path / "whole")
    draw(pipeline, tmp_path / "grown", TEN[:3])
    assert draw(pipeline, tmp_path / "grown")[:2] == (7, 3)
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"per_prompt": 2}, {"prompts": TEN[1:]}, {"sampling": Sampling(steps=4)}, {"weights": "other"}],
)
def test_other_samples_are_never_mixed(pipeline, tmp_path, change, monkeypatch):
    draw(pipeline, tmp_path)
    before = contents(tmp_path)
    monkeypatch.setitem(pipeline.identity, "weights_sha256", change.get("weights", pipeline.weights_sha256))
    with pytest.raises(
        CrossFlowError, match="holds samples of other prompts, settings or weights: choose another --out"
    ):
        draw(pipeline, tmp_path, **{name: value for name, value in change.items() if name != "weights"})
    assert contents(tmp_path) == before


def test_a_foreign_image_is_never_overwritten(pipeline, tmp_path):
    foreign = tmp_path / "000001-0-a-photo-of-a-cone.png"
    foreign.write_bytes(b"mine")
    with pytest.raises(CrossFlowError, match="holds another image"):
        draw(pipeline, tmp_path)
    assert foreign.read_bytes() == b"mine"


def test_prompts_are_taken_as_a_stream(pipeline, tmp_path, monkeypatch):
    """No more of them are drawn from the source than one chunk ahead."""
    monkeypatch.setattr(samples, "CHUNK", 2)
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield f"prompt {taken}"

    def stop_at_six(count: int) -> None:
        assert taken <= 8
        if taken >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_into(tmp_path, pipeline, endless(), pipeline.sampling(), advance=stop_at_six)
    assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == 6


def test_a_prompt_that_is_no_text(pipeline, tmp_path):
    with pytest.raises(CrossFlowError, match="Prompt 2 is not valid text"):
        draw(pipeline, tmp_path, ["fine", "\udcff"])


def test_a_folder_that_cannot_be(pipeline, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CrossFlowError, match="cannot be written"):
        draw(pipeline, tmp_path / "file" / "out")
