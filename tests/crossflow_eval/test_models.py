"""What can be measured: the names that are understood, and what is refused with a sentence."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from crossflow.errors import CrossFlowError, first_few, unknown
from crossflow.files.devices import auto_device, own_device
from crossflow.files.hashes import file_sha256
from crossflow.model.checkpoint import save_checkpoint
from crossflow.recipes import CONFIGS
from crossflow_eval.cli import app
from crossflow_eval.models import load_model
from crossflow_eval.models.crossflow import CrossFlowModel, called
from crossflow_eval.models.folder import FolderModel
from crossflow_eval.runs import launch
from crossflow_eval.suites import load_suite, t2i
from crossflow_eval.types import Example, Model

PLUGIN = """
class Good:
    name, identity = "good", {"weights_sha256": "1"}
    def generate(self, sources, seeds):
        return [str(seed) for seed in seeds]

class Breaks(Good):
    def generate(self, sources, seeds):
        return (1 / seed for seed in seeds)

class Lacks(Good):
    def generate(self, sources, seeds): import no_such_module_here

class Nameless:
    identity = {}
    def generate(self, sources, seeds): ...

def with_identity(identity, name="m"):
    model = Good()
    model.identity, model.name = identity, name
    return model

def set_identity(): return with_identity({"a": {1}})
def nan_identity(): return with_identity({"a": float("nan")})
def odd_name(): return with_identity({}, "a/b")
def long_name(): return with_identity({}, "é" * 101)
def no_name(): return with_identity({}, 3)
def wants(argument): return Good()
def fails(): raise OSError(28, "No space left on device")
def leaves(): raise SystemExit(3)
class Constant:
    name, identity, generate = "m", {}, 3
number = 3
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    (tmp_path / "plugin_of_test_models.py").write_text(PLUGIN)
    (tmp_path / "broken_plugin.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "plugin_of_test_models"
    sys.modules.pop("plugin_of_test_models", None)


def test_a_model_of_the_current_folder_is_found(plugin):
    model = load_model(f"{plugin}:Good")
    assert isinstance(model, Model)
    assert model.generate(["a"], [3]) == ["3"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}:Godo", "Did you mean 'Good'"),
        ("{}:number", "not a function or class"),
        ("{}:Nameless", "without name"),
        ("{}:set_identity", "not plain JSON"),
        ("{}:nan_identity", "not plain JSON"),
        ("{}:odd_name", "cannot name a folder"),
        ("{}:long_name", "cannot name a folder"),
        ("{}:no_name", "its name '3' cannot name a folder"),
        ("{}:wants", r"builds no model when it is called without arguments \(TypeError: wants\(\) missing 1"),
        ("{}:fails", r"builds no model .*No space left"),
        ("{}:leaves", r"builds no model .*SystemExit: 3"),
        ("{}:Constant", "built a Constant without a method generate"),
        ("os:system", "builds no model when it is called without arguments"),
        ("builtins:dict", "built a dict without name, identity, generate"),
        ("os:", "Unknown factory in os ''"),
        ("../os:system", "expected package.module:factory"),
        ("n" * 5000 + ":build", "there is no module"),
        ("broken_plugin:build", r"the module broken_plugin cannot be imported \(ZeroDivisionError"),
        ("no_such_module_here:build", "no module 'no_such_module_here'"),
        (":build", "expected package.module:factory"),
        ("folderr", r"Unknown model 'folderr'. Did you mean 'folder'\? Available: crossflow, folder, diffusers"),
    ],
)
def test_what_is_no_model_is_refused(plugin, name, message):
    with pytest.raises(CrossFlowError, match=message):
        load_model(name.format(plugin))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Breaks",
            r"could not generate \(ZeroDivisionError: division by zero; plugin_of_test_models\.py, line \d+\)\.",
        ),
        ("Lacks", r"could not generate \(ModuleNotFoundError: No module named 'no_such_module_here'"),
    ],
)
def test_whatever_a_model_raises_while_it_generates_is_one_sentence_that_names_the_line(plugin, name, message):
    with pytest.raises(CrossFlowError, match=message):
        load_model(f"{plugin}:{name}").generate(["a"], [0])


def test_a_model_is_known_by_its_source(plugin, tmp_path):
    """Another line in the file of the factory or of the class is another identity."""
    (tmp_path / "other_plugin.py").write_text(f"from {plugin} import Good\ndef build():\n    return Good()\n")
    first = {name: dict(load_model(name).identity) for name in (f"{plugin}:Good", "other_plugin:build")}
    assert len({each["code_sha256"] for each in first.values()}) == 2
    assert load_model(f"{plugin}:Good").identity == first[f"{plugin}:Good"]
    with (tmp_path / f"{plugin}.py").open("a") as file:
        file.write("# another line\n")
    for name, before in first.items():
        for module in (plugin, "other_plugin"):
            sys.modules.pop(module, None)
        now = load_model(name).identity
        assert now.pop("code_sha256") != before.pop("code_sha256")
        assert now == before


def images(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(np.full((4, 5, 3), number, np.uint8)).save(folder / name)
    return folder


def test_a_folder_gives_its_images_by_example_and_number(tmp_path):
    model = FolderModel(images(tmp_path / "f", "a.png", "b-0.png", "b-1.png"))
    assert [int(model.read(*key)[0, 0, 0]) for key in (("a", 0), ("b", 0), ("b", 1))] == [0, 1, 2]
    with pytest.raises(CrossFlowError, match="no image for a"):
        model.read("a", 1)


def test_the_identity_of_a_folder_is_its_content(tmp_path):
    first = FolderModel(images(tmp_path / "1", "a.png", "b.png")).identity
    assert first == FolderModel(images(tmp_path / "2", "a.png", "b.png")).identity
    assert first != FolderModel(images(tmp_path / "3", "b.png", "a.png")).identity
    assert first["formats"] == {"PNG": 2}
    json.dumps(first)


def test_a_folder_is_checked_against_the_examples_both_ways(tmp_path):
    model = FolderModel(images(tmp_path / "f", "a.png", "b.png"))
    examples = {name: Example(id=name, source="s") for name in "abcd"}
    model.check([examples["a"]], [examples["a"], examples["b"]], 1)
    with pytest.raises(CrossFlowError, match=r"2 of 3 images are missing .*: c-0, d-0; it holds a, b\."):
        model.check([examples[name] for name in "acd"], list(examples.values()), 1)
    with pytest.raises(CrossFlowError, match=r"1 of 2 images .* belong to no example: b\.png"):
        model.check([examples["a"]], [examples["a"]], 1)


def test_an_image_whose_name_is_of_two_examples_is_measured_as_neither(tmp_path):
    """Of "a" the first output may be called a-0, which is also a name of the example "a-0"."""
    examples = [Example(id=name, source="") for name in ("a", "a-0")]
    for names in (("a", "a-0"), ("a-0",)):
        folder = tmp_path / str(len(names))
        folder.mkdir()
        for name in names:
            Image.new("RGB", (4, 4)).save(folder / f"{name}.png")
        with pytest.raises(
            CrossFlowError, match=r"1 images in .* may be of either of two examples: a-0\.png\. Call each"
        ):
            FolderModel(folder).check(examples, examples, 1)
    Image.new("RGB", (4, 4)).save(folder / "a-0-0.png")
    FolderModel(folder).check(examples, examples, 1)


@pytest.mark.parametrize("device", ["gpu", "cpu:0", "cuda:x", ""])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(CrossFlowError, match="has no device"):
        own_device(device)


def test_cuda_without_one_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (own_device("cpu"), own_device("auto")) == ("cpu", "cpu")
    for device in ("cuda", "cuda:1"):
        with pytest.raises(CrossFlowError, match=r"has no device .*: it has cpu"):
            own_device(device)


def test_each_process_of_a_machine_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert (own_device("auto"), own_device("cuda"), own_device("cuda:3")) == ("cuda", "cuda", "cuda:3")
    monkeypatch.setenv("LOCAL_RANK", "6")
    assert (own_device("auto"), own_device("cuda"), own_device("cuda:3")) == ("cuda:2", "cuda:2", "cuda:3")
    assert own_device("cpu") == "cpu"


def test_the_device_of_a_run_is_that_of_its_judges(monkeypatch):
    """A run on the processor, or on one GPU of several, loads nothing on another."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for asked, judged in (("cpu", "cpu"), ("cuda:3", "cuda:3"), ("auto", "cuda"), (None, "cuda")):
        with auto_device(asked):
            assert own_device("auto") == judged
    assert own_device("auto") == "cuda"
    with pytest.raises(CrossFlowError, match="has no device 'cuda:4'"), auto_device("cuda:4"):
        pass
    with auto_device("cuda"), auto_device("cpu"):
        assert (own_device("auto"), own_device("cuda:1")) == ("cpu", "cuda:1")


@pytest.mark.parametrize("command", ["measure", "score"])
def test_commands_bind_their_judges_to_the_device(command, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(launch, "_evaluate", lambda *_: seen.append(own_device("auto")) or (None, tmp_path))
    monkeypatch.setattr(launch, "score_again", lambda *_: seen.append(own_device("auto")))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    words = ["t2i"] if command == "measure" else ["score", str(tmp_path)]
    CliRunner().invoke(app, [*words, "--device", "cuda:1"])
    assert seen == ["cuda:1"]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("photos/model.safetensors", "photos"),
        ("photos/model-000500.safetensors", "photos-000500"),
        ("photos/there/../model.safetensors", "photos"),
        ("photos/t2i-small.safetensors", "t2i-small"),
        ("photos/model-b.safetensors", "model-b"),
        ("/model.safetensors", "model"),
    ],
)
def test_models_of_two_trainings_have_two_names(file, name, tmp_path, monkeypatch):
    (tmp_path / "photos" / "there").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert called(Path(file)) == name


def test_a_weaker_version_is_part_of_what_a_model_is(tmp_path):
    """And of nothing else: the same model without it is what it was."""
    config = CONFIGS["scenes-tiny"].model
    files = [tmp_path / "model.safetensors", tmp_path / "model-000005.safetensors"]
    for seed, file in enumerate(files):
        torch.manual_seed(seed)
        save_checkpoint(file, config.build(training=False))
    options = {"checkpoint": files[0], "guidance_scale": 2.0, "device": "cpu"}
    alone = launch.build_model(launch.Request(model="crossflow", **options), load_suite("scenes-t2i"))
    guided = launch.build_model(launch.Request(model="crossflow", weaker=files[1], **options), load_suite("scenes-t2i"))
    assert guided.identity == {**alone.identity, "autoguidance_sha256": file_sha256(files[1])}
    assert "autoguidance_sha256" not in alone.identity


@pytest.mark.parametrize("options", [{"steps": 0}, {"guidance_scale": float("nan")}, {"solver": "eulr"}])
def test_impossible_sampling_is_refused_before_weights_are_read(options):
    with pytest.raises(CrossFlowError, match=r"--steps must|--guidance-scale must|Did you mean 'euler'"):
        CrossFlowModel(Path("never-read.safetensors"), device="cpu", **options)


def test_options_that_a_model_does_not_take_are_refused(tmp_path, plugin):
    """Law: no option is silently without effect."""
    folder = images(tmp_path / "f", "a.png")
    for request in (
        launch.Request(model="folder", checkpoint=folder, steps=3),
        launch.Request(model=f"{plugin}:Good", checkpoint=folder),
    ):
        with pytest.raises(CrossFlowError, match="does not use --"):
            launch.build_model(request, t2i.folder())
    with pytest.raises(CrossFlowError, match="needs --ckpt, the folder"):
        launch.build_model(launch.Request(model="folder"), t2i.folder())
    judged = launch.Request(model="folder", checkpoint=folder, device="cuda:1")
    assert judged.unused("folder") == [], "it is that of the judges"


def test_names_answer_alike():
    assert str(unknown("suite", "senes", ["b", "scenes"])) == (
        "Unknown suite 'senes'. Did you mean 'scenes'? Available: b, scenes."
    )
    assert str(unknown("suite", "zzz", [])) == "Unknown suite 'zzz'. Available: none."
    assert first_few(["a", "b", "c"], show=2) == "a, b and 1 more"
