"""The commands for captions, depth and super-resolution: outputs made elsewhere, each in its own form, and our own."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from crossflow.errors import CrossFlowError
from crossflow_eval.cli import app
from crossflow_eval.models import image_model
from crossflow_eval.runs import launch
from crossflow_eval.types import Example, Suite, Value


class Counting:
    """Says how many outputs there are and how long a caption is, so that a run needs no judge."""

    protocol, higher_is_better = {}, {}

    def __init__(self):
        self.n = 0

    def update(self, examples, outputs):
        self.n += len(outputs)
        return [{"kind": type(each).__name__} for each in outputs]

    def compute(self):
        return {name: Value(mean=self.n, n=self.n) for name in ("outputs", "abs_rel", "delta1")}


def three(task: str, output: str) -> Suite:
    return Suite(
        name=task,
        version="1",
        task=task,
        output=output,
        examples=lambda root: [Example(id=str(i), source="") for i in range(3)],
        metrics={"count": Counting},
    )


def called(*words: object) -> dict:
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))


def test_captions_in_a_file(monkeypatch):
    monkeypatch.setattr(launch, "load_suite", lambda name, root: three("caption", "txt"))
    Path("results.json").write_text(json.dumps([{"image_id": i, "caption": f"a cat {i}"} for i in range(3)]))
    told = called("caption", "--ckpt", "results.json")
    assert told["values"]["outputs"]["mean"] == 3
    assert Path(told["run"]).parent.joinpath("outputs", "2-0.txt").read_text() == "a cat 2"
    Path("short.json").write_text(json.dumps([{"image_id": 0, "caption": "a cat"}]))
    done = CliRunner().invoke(app, ["caption", "--ckpt", "short.json"])
    assert (done.exit_code, "2 of 3 captions are missing" in done.stderr) == (2, True)
    done = CliRunner().invoke(app, ["caption", "--model", "folder"])
    assert "--model folder needs --ckpt, the file of captions" in done.stderr


def test_depth_maps_in_a_folder(monkeypatch):
    monkeypatch.setattr(launch, "load_suite", lambda name, root: three("depth", "npy"))
    Path("maps").mkdir()
    for i in range(3):
        np.save(f"maps/{i}.npy", np.full((4, 5), 1.0 + i, np.float32))
    assert called("depth", "--ckpt", "maps")["values"]["outputs"]["mean"] == 3


def test_images_in_a_folder(monkeypatch):
    monkeypatch.setattr(launch, "load_suite", lambda name, root: three("sr", "png"))
    Path("images").mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(f"images/{i}.png")
    assert called("sr", "--ckpt", "images")["values"]["outputs"]["mean"] == 3


def test_suites_and_models_of_another_task(tmp_path):
    done = CliRunner().invoke(app, ["depth", "--suite", "imagenet_sr", "--ckpt", str(tmp_path)])
    assert "is for the task sr, not depth" in done.stderr


def test_without_a_shipped_checkpoint_one_sentence_says_so(monkeypatch):
    monkeypatch.setattr(launch, "load_suite", lambda name, root: three(name.removeprefix("scenes-"), "png"))
    monkeypatch.setattr(image_model, "shipped", lambda task: Path(f"none-{task}.safetensors"))
    for task in ("caption", "depth", "sr"):
        done = CliRunner().invoke(app, [task, "--device", "cpu"])
        assert (done.exit_code, f"There is no file none-{task}.safetensors" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("given", "model", "suite"),
    [
        ({}, "crossflow", "scenes-caption"),
        ({"checkpoint": Path("ours.safetensors")}, "crossflow", "scenes-caption"),
        ({"checkpoint": Path("ours.PTH"), "data": Path("d")}, "crossflow", "coco_karpathy"),
        ({"checkpoint": Path("results.json"), "data": Path("d")}, "folder", "coco_karpathy"),
        ({"checkpoint": Path("captions.jsonl")}, "folder", "coco_karpathy"),
        ({"checkpoint": Path("captions.jsonl"), "suite": "scenes-caption"}, "folder", "scenes-caption"),
        ({"checkpoint": Path("there.safetensors")}, "folder", "coco_karpathy"),
        ({"checkpoint": Path("results.json"), "model": "crossflow"}, "crossflow", "scenes-caption"),
        ({"model": "a:b"}, "a:b", "scenes-caption"),
        ({"model": "a:b", "data": Path("d")}, "a:b", "coco_karpathy"),
        ({"checkpoint": Path("results.json"), "data": Path("captions.json")}, "folder", "own-captions"),
        ({"checkpoint": Path("results.json"), "references": Path("r.jsonl")}, "folder", "own-captions"),
    ],
)
def test_what_is_measured_on_what_when_it_is_not_said(given, model, suite):
    Path("there.safetensors").mkdir()
    request = launch.Request(task="caption", **given)
    assert (request.model_name, request.suite_name) == (model, suite)


def test_text_to_image_asks_for_our_own_models_whatever_the_checkpoint_is_called():
    request = launch.Request(checkpoint=Path("folder"), captions=Path("a.csv"))
    assert (request.model_name, request.suite_name) == ("crossflow", "folder")
    assert launch.Request().suite_name == "scenes-t2i"


def test_our_models_that_read_images_have_no_text_encoder():
    with pytest.raises(CrossFlowError, match="does not use --text-encoder"):
        launch.build_model(launch.Request(task="sr", text_encoder=Path("t5")), three("sr", "png"))


UNSAMPLED = "ckpt model limit shuffle-seed ids name seed device batch-size workers fresh out json"
COMMON = f"{UNSAMPLED} steps guidance-scale solver precision"
CHOICE, PARTS = "suite data references", "size text-encoder autoencoder weaker"


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("t2i", f"{COMMON} {CHOICE} {PARTS} captions also"),
        ("geneval", f"{COMMON} {PARTS} also"),
        ("caption", f"{COMMON} {CHOICE} reader autoencoder"),
        ("depth", f"{COMMON} {CHOICE} space ensemble"),
        ("sr", f"{COMMON} {CHOICE} also"),
        ("t2a", f"{UNSAMPLED} suite data"),
        ("t2v", f"{UNSAMPLED} suite data"),
    ],
)
def test_a_command_takes_the_options_of_its_task(command, options):
    taken = [name for parameter in get_command(app).commands[command].params for name in parameter.opts]
    assert sorted(taken) == sorted(f"--{name}" for name in options.split())


@pytest.mark.parametrize(
    ("model", "refused"),
    [
        ("crossflow", "--size"),
        ("folder", "--steps, --guidance-scale, --solver, --size, --text-encoder, --autoencoder, --precision"),
        ("diffusers:x", "--ckpt, --solver, --text-encoder, --autoencoder"),
        ("a:b", "--ckpt, --steps, --guidance-scale, --solver, --size, --text-encoder, --autoencoder, --precision"),
    ],
)
def test_a_model_refuses_the_options_it_does_not_take(model, refused):
    given = {"checkpoint": Path("c"), "steps": 1, "guidance_scale": 1.0, "solver": "euler", "size": 8, "seed": 3}
    parts = {"text_encoder": Path("t"), "autoencoder": Path("a"), "precision": "float32"}
    with pytest.raises(CrossFlowError, match=f"^--model {model} does not use {refused}; leave it out.$"):
        launch.build_model(launch.Request(model=model, **given, **parts), three("t2i", "png"))
