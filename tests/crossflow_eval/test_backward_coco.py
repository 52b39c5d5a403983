"""The paper's "CrossFlow-T2I" on COCO: from its own layout to a number of Table 4, on tiny weights.

A text-to-image model of CLIP's tokens and KL latents is tuned on COCO, a decoder of its source latents is trained on
COCO's training captions, and the model run backward is measured on Karpathy's test images.
"""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import small_sets
import torch
from PIL import Image
from typer.testing import CliRunner

from crossflow.cli import app
from crossflow.errors import CrossFlowError
from crossflow.files.tensors import read_header
from crossflow.modalities.tokens import TokensConfig
from crossflow.model.checkpoint import save_checkpoint
from crossflow.model.settings import Sampling
from crossflow.recipes import CONFIGS
from crossflow.sampling.prompt_reader import CROPPED
from crossflow.training.data.shards import Shards
from crossflow_eval.metrics.caption import CaptionScores
from crossflow_eval.report import load, render
from crossflow_eval.request import Request
from crossflow_eval.runs import launch
from crossflow_eval.suites import caption

RECIPE = replace(
    CONFIGS["t2i-tiny"],
    model=replace(
        CONFIGS["t2i-tiny"].model,
        reads=TokensConfig(model="clip-vit-l14", count=77, width=64),
        sampling=Sampling(solver="euler_official", steps=2, guidance_scale=2.0),
    ),
    batch_size=4,
    steps=2,
)


def clip(folder: Path) -> Path:
    """A text model whose words are single letters."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [chr(code) for code in range(33, 127)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[]).save_pretrained(folder)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": len(pieces) - 2, "eos_token_id": len(pieces) - 1}
    CLIPTextModel(CLIPTextConfig(vocab_size=len(pieces), **sizes, **ends)).save_pretrained(folder)
    return folder


def autoencoder(folder: Path) -> Path:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    AutoencoderKL(**blocks, block_out_channels=[32] * 4, layers_per_block=1, latent_channels=4).save_pretrained(folder)
    return folder


def run(*words: object) -> str:
    done = CliRunner().invoke(app, [*map(str, words), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    return done.stdout.strip()


def test_a_model_tuned_on_coco_and_run_backward_is_measured_on_its_test_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(CONFIGS, "tiny-coco", RECIPE)
    torch.manual_seed(0)
    root, encoder, vae = small_sets.coco(Path("coco")), clip(Path("clip")), autoencoder(Path("vae"))
    split = root / caption.ARCHIVE
    with zipfile.ZipFile(split, "w") as archive:
        archive.write(root / "dataset_coco.json", "dataset_coco.json")
    monkeypatch.setattr(caption, "SHA256", hashlib.sha256(split.read_bytes()).hexdigest())
    metrics = {"captions": lambda: CaptionScores(with_meteor=False)}
    monkeypatch.setitem(caption.SUITES, "coco_karpathy", ("test", metrics))
    Image.open(root / "val2014" / "COCO_val2014_000000000000.jpg").resize((47, 35)).save(
        root / "val2014" / "COCO_val2014_000000000000.jpg"
    )

    weights = ("--text-encoder", encoder, "--autoencoder", vae)
    run("cache", "tiny-coco", "--images", root, "--captions", split, "--out", "shards", *weights)
    pairs = Shards(Path("shards"))
    captions = sorted(pairs.item(number).caption for number in range(len(pairs)))
    assert captions == sorted(f"{words} {number}" for words in small_sets.CAPTIONS for number in range(4))

    save_checkpoint("released.safetensors", RECIPE.model.build(training=False))
    tuned = run("train", "tiny-coco", "--init", "released.safetensors", "--data", "shards", "--out", "tuned")
    assert "init" in read_header(Path(tuned))
    reader = Path("reader.safetensors")
    run("train-reader", tuned, "--captions", split, "--text-encoder", encoder, "--out", reader, "--steps", 2)

    request = Request(
        task="caption", checkpoint=Path(tuned), reader=reader, autoencoder=vae, suite="coco_karpathy", data=root,
        device="cpu", out=Path("run"),
    )  # fmt: skip
    result, folder = launch.evaluate(request)
    assert (result.n, result.settings.identity["sizes"]) == (1, CROPPED)
    assert "autoencoder_sha256" in result.settings.identity and "text_encoder_sha256" not in result.settings.identity
    assert 0 <= result.values["bleu_4"].mean <= 1
    assert "Table 4" in render([load(folder)], "md")


def test_an_autoencoder_without_a_reader_is_refused():
    request = Request(task="caption", checkpoint=Path("caption.safetensors"), autoencoder=Path("vae"), data=Path("."))
    with pytest.raises(CrossFlowError, match="--autoencoder is for a model that is run backward: give --reader too"):
        launch.build_model(request, caption.suite("coco_karpathy"))
