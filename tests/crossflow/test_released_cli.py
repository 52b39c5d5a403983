"""From a prompt to a PNG with a model, a language model and an autoencoder in the formats they are released in."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_files import golden_file
from PIL import Image
from typer.testing import CliRunner

from crossflow.cli import app

RELEASED = golden_file("dimr_small.weights.safetensors")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Converted, because its width is none of the authors' and its heads have to be said."""
    path = tmp_path_factory.mktemp("model") / "ours.safetensors"
    done = CliRunner().invoke(app, ["convert", str(RELEASED), str(path), "--heads", "4"])
    assert (done.exit_code, done.stdout) == (0, f"{path}\n"), done.stderr
    return path


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    """As wide as the model's text tokens; its words are single letters."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(33, 127)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(folder)
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(pieces),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=len(pieces) - 2,
        eos_token_id=len(pieces) - 1,
    )
    CLIPTextModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def autoencoder_folder(tmp_path_factory) -> Path:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    folder = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[32] * 4,
        layers_per_block=1,
        latent_channels=4,
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def run(model, clip_folder, autoencoder_folder, tmp_path, monkeypatch):
    """Run a command in an empty folder, with nothing in any cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("CROSSFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    parts = {"--text-encoder": clip_folder, "--autoencoder": autoencoder_folder}

    def call(command: str, *arguments: object, without: str = ""):
        given = [str(part) for name, path in parts.items() if name != without for part in (name, path)]
        words = [command, *map(str, arguments), "--ckpt", str(model), "--steps", "2", "--device", "cpu", *given]
        return CliRunner().invoke(app, words)

    return call


def test_prompts_become_images(run):
    """Prompts longer than the tokens lose their ends, which is said once. An image that is lost is drawn as it was."""
    words = ("--prompt", "a cat", "--prompt", "long " * 40, "--prompt", "longer " * 40, "--out", "out")
    done = run("sample", *words)
    assert done.exit_code == 0, done.stderr
    assert "2 prompts are longer than 16 tokens: their ends were not read." in done.stderr
    rows = [json.loads(line) for line in Path("out/samples.jsonl").read_text().splitlines()]
    images = [np.asarray(Image.open(Path("out") / row["file"])) for row in rows]
    assert [image.shape for image in images] == [(256, 256, 3)] * 3
    assert not np.array_equal(images[0], images[1]), "other prompts, other images"
    settings = rows[0]["settings"]
    assert (settings["solver"], settings["steps"], settings["guidance_scale"]) == ("euler_official", 2, 7.0)
    assert settings["precision"] == "float32"
    assert len({settings[f"{part}_sha256"] for part in ("weights", "text_encoder", "autoencoder")}) == 3
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    (Path("out") / rows[1]["file"]).unlink()
    again = run("sample", *words)
    assert "1 images drawn, 2 kept from before" in again.stderr
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before


def test_weights_that_are_not_there_are_named(run):
    absent = run("sample", "--prompt", "a cat", "--out", "out", without="--text-encoder")
    assert absent.exit_code == 2
    assert "hf download openai/clip-vit-large-patch14" in absent.stderr
    absent = run("sample", "--prompt", "a cat", "--out", "out", without="--autoencoder")
    assert absent.exit_code == 2
    assert "autoencoder_kl.pth" in absent.stderr
    assert str(Path("cache").resolve()) in absent.stderr
    assert not Path("out").exists()


def test_a_walk_and_a_sum(run):
    done = run("interpolate", "a cat", "a dog", "--frames", 3, "--out", "walk")
    assert done.exit_code == 0, done.stderr
    frames = [f"frame-00{k}.png" for k in range(3)]
    assert sorted(path.name for path in Path("walk").glob("[!.]*")) == [*frames, "grid.png", "walk.gif"]
    with Image.open("walk/walk.gif") as moving:
        assert (moving.n_frames, moving.size) == (4, (256, 256))
    done = run("arithmetic", "--base", "a cat", "--add", "a dog", "--subtract", "a cow", "--out", "sum")
    assert done.exit_code == 0, done.stderr
    names = ["add-0.png", "base.png", "grid.png", "subtract-0.png", "sum.png"]
    assert sorted(path.name for path in Path("sum").glob("[!.]*")) == names


def test_information(model, tmp_path):
    done = CliRunner().invoke(app, ["info", str(model)])
    told = json.loads(done.stdout)
    assert (told["format"], told["released"], told["config"]["backbone"]["kind"]) == (
        "crossflow",
        RELEASED.name,
        "dimr",
    )
    sampling = {"solver": "euler_official", "steps": 50, "guidance_scale": 7.0, "noise": 1.0}
    assert told["config"]["sampling"] == sampling
    done = CliRunner().invoke(app, ["info", str(RELEASED)])
    assert json.loads(done.stdout)["format"] == "released"
    assert done.stderr.startswith("Warning: No file says how many attention heads") and done.stderr.count("\n") == 1
