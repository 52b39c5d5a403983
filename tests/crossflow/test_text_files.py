"""The embedders read what is on this machine alone, silently, and refuse by name what is not whole."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from crossflow.errors import CrossFlowError
from crossflow.modalities.minilm import MiniLM
from crossflow.modalities.text_embedders import ClipText, T5Text, embedder_named

PROMPTS = ["a photo of a ball", ""]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A tiny text model; its tokenizer knows letters and merges none."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(folder)
    tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    CLIPTextModel(CLIPTextConfig(vocab_size=len(pieces), **tiny)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
    """A tiny encoder; its tokenizer knows letters."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    folder = tmp_path_factory.mktemp("t5")
    pieces = ["<pad>", "</s>", "<unk>", *"▁abcdefghijklmnopqrstuvwxyz"]
    T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces]).save_pretrained(folder)
    tiny = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
    T5EncoderModel(T5Config(vocab_size=160, **tiny)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "kind, repository", [(ClipText, "openai/clip-vit-large-patch14"), (T5Text, "DeepFloyd/t5-v1_1-xxl")]
)
def test_weights_that_are_not_here_are_asked_for(kind, repository, tmp_path, monkeypatch):
    """Without a try at the network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("reached for the network"))
    with pytest.raises(
        CrossFlowError,
        match=rf"{repository} is neither a folder here nor in .* run `hf download {repository}`, or .*model\.safe",
    ):
        kind()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "t5.pth").touch()
    with pytest.raises(CrossFlowError, match=r"t5\.pth is a file: give a folder with config\.json"):
        T5Text(tmp_path / "t5.pth")


def without(folder, tmp_path, *names):
    shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns(*names))
    return tmp_path / "copy"


def test_a_folder_that_lacks_files_is_refused(clip_folder, t5_folder, tmp_path):
    with pytest.raises(CrossFlowError, match=r"missing is not there: give a folder with config"):
        ClipText(tmp_path / "missing")
    with pytest.raises(CrossFlowError, match=r"has no config\.json"):
        ClipText(tmp_path)
    with pytest.raises(CrossFlowError, match=r"has no model\*\.safetensors or pytorch_model\*\.bin"):
        ClipText(without(clip_folder, tmp_path / "1", "*.safetensors"))
    with pytest.raises(CrossFlowError, match=r"has no tokenizer\.json or vocab\.json or spiece\.model"):
        T5Text(without(t5_folder, tmp_path / "2", "tokenizer.json"))


def test_the_wrong_model_is_refused(clip_folder, t5_folder):
    with pytest.raises(CrossFlowError, match="holds a model of type 't5': give a folder of openai/clip"):
        ClipText(t5_folder)
    with pytest.raises(CrossFlowError, match="holds a model of type 'clip_text_model': give a folder of DeepFloyd/t5"):
        T5Text(clip_folder)


def test_a_weight_that_is_missing_is_named(clip_folder, tmp_path):
    """transformers would draw it at random."""
    from safetensors.torch import load_file, save_file

    folder = without(clip_folder, tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights.pop("final_layer_norm.bias")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CrossFlowError, match=r"holds no whole CLIPTextModel: it lacks .*final_layer_norm\.bias"):
        ClipText(folder).embed(PROMPTS, 77)


class Payload:
    """Runs code when it is unpickled without care."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_damaged_files_are_refused(t5_folder, tmp_path):
    folder = without(t5_folder, tmp_path)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:1000])
    with pytest.raises(CrossFlowError, match="does not load as T5EncoderModel"):
        T5Text(folder).embed(PROMPTS, 77)
    (folder / "model.safetensors").unlink()
    torch.save({"shared.weight": Payload(tmp_path / "harm")}, folder / "pytorch_model.bin")
    with pytest.raises(CrossFlowError, match="does not load as T5EncoderModel"):
        T5Text(folder).embed(PROMPTS, 77)
    assert not (tmp_path / "harm").exists()
    (folder / "tokenizer.json").unlink()
    (folder / "spiece.model").write_bytes(b"nothing")
    with pytest.raises(CrossFlowError, match=r"spiece\.model"):
        T5Text(folder).lengths(PROMPTS)
    (folder / "config.json").write_text("{")
    with pytest.raises(CrossFlowError, match="does not load as AutoConfig"):
        T5Text(folder)


def test_embedders_have_names(clip_folder, t5_folder):
    assert isinstance(embedder_named("minilm"), MiniLM)
    assert isinstance(embedder_named("clip-vit-l14", clip_folder), ClipText)
    assert isinstance(embedder_named("t5-v1.1-xxl", t5_folder, "cpu"), T5Text)
    with pytest.raises(CrossFlowError, match=r"Unknown text embedder 'clip'\..*Available: minilm, clip-vit-l14, t5"):
        embedder_named("clip")
    with pytest.raises(CrossFlowError, match="give no source"):
        embedder_named("minilm", clip_folder)


def test_a_model_of_the_hub_is_found_and_embedding_is_silent(clip_folder, t5_folder, tmp_path):
    """In the layout of the cache below HF_HOME. No progress bar, no notice, no network, however long the prompt."""
    for repository, folder in {
        "openai--clip-vit-large-patch14": clip_folder,
        "DeepFloyd--t5-v1_1-xxl": t5_folder,
    }.items():
        home = tmp_path / "hub" / f"models--{repository}"
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text("0" * 40)
        shutil.copytree(folder, home / "snapshots" / ("0" * 40))
    code = """
from crossflow.modalities.text_embedders import embedder_named
for name in ["clip-vit-l14", "t5-v1.1-xxl"]:
    embedder = embedder_named(name)
    embedder.lengths(["word " * 700])
    assert embedder.embed(["word " * 700, "http://a.photo/of.png"], 77)[0].shape == (2, 77, 32)
"""
    environment = {"PATH": "/usr/bin:/bin", "HF_HOME": str(tmp_path), "HOME": "/nowhere", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=Path.cwd(), check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
