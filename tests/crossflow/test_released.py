"""The authors' files become our models by their shapes alone, and nothing else does."""

import json
import os
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden_files import golden_file
from safetensors.torch import load_file, save_file
from torch import Tensor

from crossflow.errors import CrossFlowError, Notice
from crossflow.files.pretrained import load_tensors
from crossflow.files.tensors import read_header
from crossflow.model import authors as released
from crossflow.model import checkpoint
from crossflow.model.settings import Override
from crossflow.recipes import CONFIGS

SMALL = ("dimr_small", "dit_small")
KEYS: dict[str, dict[str, list[int]]] = json.loads(golden_file("released_keys.json").read_text())


pytestmark = pytest.mark.filterwarnings("ignore:No file says how many attention heads")


def weights_of(name: str) -> dict[str, Tensor]:
    return load_file(golden_file(f"{name}.weights.safetensors"))


def refused(path: Path) -> str:
    with pytest.raises(CrossFlowError) as caught:
        checkpoint.load_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert message.endswith(".")
    return message


@pytest.mark.parametrize("name", SMALL)
def test_a_released_file_samples_as_the_authors_do(name):
    """Source, every resolution's velocity, and ten guided steps of their sampler, from the file alone."""
    model = checkpoint.load_checkpoint(golden_file(f"{name}.weights.safetensors"))
    golden = load_file(golden_file(f"{name}.tensors.safetensors"))

    def error(found: Tensor, kind: str) -> float:
        return float((found - golden[kind].view_as(found)).abs().max() / golden[kind].abs().max())

    with torch.no_grad():
        posterior = model.encoder(golden["ve.text"], golden["ve.mask"].bool())
        unconditional = golden["velocity.unconditional"]
        found = model.backbone.velocities(golden["velocity.x"], golden["velocity.t"], ~unconditional)
        drawn = model.sample(golden["sample.z0"], solver="euler_official", steps=10, guidance_scale=7.0)
    assert error(posterior.sample(golden["ve.noise"].view(-1, 4, 32, 32)), "ve.sample") < 1e-5
    for i, each in enumerate(found):
        assert error(each, f"velocity.out{i}") < 1e-5
    assert error(drawn, "sample.final") < 1e-4


@pytest.mark.parametrize("name", sorted(KEYS))
def test_every_released_key_is_used_or_dropped(name):
    """The config read off the shapes is the recipe, null rate and all, and its model has exactly these weights."""
    config = released.infer_config(name, {key: shape for key, shape in KEYS[name].items() if "open_clip" not in key})
    assert config == CONFIGS[name.replace("_", "-")].model
    with torch.device("meta"):
        state = config.build(training=False).state_dict()
    ours = {released.released_name(key): list(part.shape) for key, part in state.items()}
    assert all(released.our_name(released.released_name(key)) == key for key in state)
    tensors = {key: torch.empty(shape, device="meta") for key, shape in KEYS[name].items()}
    kept, dropped = released.split(tensors)
    assert {key: list(part.shape) for key, part in kept.items()} == ours
    assert kept.keys().isdisjoint(dropped)
    assert len(kept) + len(dropped) == len(KEYS[name])
    assert all(key.startswith("open_clip") for key in dropped)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", SMALL)
def test_pickles_of_tensors_load(name, zipped, tmp_path):
    state = OrderedDict(weights_of(name)) | {"open_clip.logit_scale": torch.tensor(2.6)}
    torch.save(state, tmp_path / "model.pth", _use_new_zipfile_serialization=zipped)
    found = checkpoint.load_checkpoint(tmp_path / "model.pth").state_dict()
    for key, tensor in weights_of(name).items():
        assert torch.equal(found[released.our_name(key)], tensor)


@pytest.mark.parametrize("name", SMALL)
def test_conversion_keeps_every_bit_and_drops_the_tower(name, tmp_path):
    source = weights_of(name) | {"open_clip_output.fc1.weight": torch.ones(3), "open_clip.logit_scale": torch.ones(())}
    torch.save(source, tmp_path / "model.pth")
    assert checkpoint.convert(tmp_path / "model.pth", tmp_path / "model.safetensors") == [
        "open_clip.logit_scale",
        "open_clip_output.fc1.weight",
    ]
    one, other = (checkpoint.load_checkpoint(tmp_path / file) for file in ("model.pth", "model.safetensors"))
    assert one.config == other.config
    for key, tensor in one.state_dict().items():
        assert torch.equal(other.state_dict()[key], tensor)
    first = (tmp_path / "model.safetensors").read_bytes()
    checkpoint.convert(tmp_path / "model.pth", tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == first
    assert sorted(each.name for each in tmp_path.iterdir()) == ["again.safetensors", "model.pth", "model.safetensors"]


WRAPPED = {
    "half": (lambda state: {name: part.half() for name, part in state.items()}, "weights are float16, and are made"),
    "bfloat16": (
        lambda state: {name: part.bfloat16() for name, part in state.items()},
        "weights are bfloat16, and are",
    ),
    "module": (
        lambda state: {f"module.{name}": part for name, part in state.items()},
        "the prefix module. was taken off",
    ),
    "compiled": (
        lambda state: {f"module._orig_mod.{name}": part for name, part in state.items()},
        "_orig_mod. was taken",
    ),
    "model": (lambda state: {"model": state, "step": 3}, "the weights under 'model' are taken"),
    "ema": (
        lambda state: {"nnet": {name: 0 * part for name, part in state.items()}, "nnet_ema": state},
        "the weights under 'nnet_ema' are taken",
    ),
    "nested": (lambda state: {"ema": {"module": state}}, "the weights under 'ema' / 'module' are taken"),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_released_model_as_others_save_it_loads_and_says_how(kind, tmp_path):
    wrap, said = WRAPPED[kind]
    state = weights_of("dimr_small")
    torch.save(wrap(state), tmp_path / "model.pth")
    with pytest.warns(Notice, match=said):
        found = checkpoint.load_checkpoint(tmp_path / "model.pth").state_dict()
    kinds = {"half": torch.float16, "bfloat16": torch.bfloat16}
    for key, tensor in state.items():
        assert torch.equal(found[released.our_name(key)], tensor.to(kinds.get(kind, torch.float32)).float())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "is a web page.*download it again"),
    ],
    ids=["pointer", "page"],
)
@pytest.mark.parametrize("name", ["model.pth", "model.safetensors", "model.bin"])
def test_what_stands_in_for_weights_is_named_as_what_it_is(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content)
    for read in (checkpoint.load_checkpoint, load_tensors, checkpoint.describe):
        with pytest.raises(CrossFlowError, match=said):
            read(tmp_path / name)
        with pytest.raises(CrossFlowError, match="is a folder, and a file is expected"):
            read(tmp_path)


MEASURE = """
import resource, sys
from pathlib import Path
from crossflow.model import checkpoint
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
checkpoint.convert(Path(sys.argv[1]), Path(sys.argv[3]), heads=4)
before = peak()
Path(sys.argv[3]).unlink()
checkpoint.convert(Path(sys.argv[2]), Path(sys.argv[3]), heads=4)
print(peak() - before)
"""


def test_conversion_needs_little_memory(tmp_path):
    """Above what a first small conversion took, at most 1.3 times the file."""
    small = weights_of("dimr_small")
    torch.save(small, tmp_path / "small.pth")
    torch.save(small | {f"open_clip.{i}": torch.rand(2**20) for i in range(15)}, tmp_path / "large.pth")
    files = [tmp_path / name for name in ("small.pth", "large.pth", "out.safetensors")]
    done = subprocess.run([sys.executable, "-c", MEASURE, *map(str, files)], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 1.3 * files[1].stat().st_size


@pytest.mark.parametrize("name", SMALL)
def test_heads_that_are_not_known_are_said_or_warned_of(name, tmp_path):
    path, out = golden_file(f"{name}.weights.safetensors"), tmp_path / "out.safetensors"
    with pytest.warns(UserWarning, match="64 is not a width of the authors': 4 are taken"):
        checkpoint.load_checkpoint(path)
    checkpoint.convert(path, out, heads=2)
    backbone = checkpoint.load_checkpoint(out).config.backbone
    assert (backbone.stages[0] if name == "dimr_small" else backbone).heads == 2
    for heads in (5, 0, -1, 10**9):
        with pytest.raises(CrossFlowError, match=f"weights.safetensors cannot be .* heads|heads is {heads}"):
            checkpoint.convert(path, tmp_path / "none.safetensors", heads=heads)
    assert not (tmp_path / "none.safetensors").exists()


def test_a_file_is_never_written_over_itself(tmp_path):
    path, link = tmp_path / "model.pth", tmp_path / "link.safetensors"
    torch.save(weights_of("dimr_small"), path)
    before = path.read_bytes()
    link.symlink_to(path)
    for out in (path, link, tmp_path):
        with pytest.raises(CrossFlowError, match=f"{out} is there already, and is not replaced"):
            checkpoint.convert(path, out)
        with pytest.raises(CrossFlowError, match=f"{out} is there already, and is not replaced"):
            checkpoint.export_checkpoint(path, out, Override())
    assert path.read_bytes() == before


def test_only_released_files_are_converted(tmp_path):
    out = tmp_path / "ours.safetensors"
    checkpoint.convert(golden_file("dit_small.weights.safetensors"), out)
    with pytest.raises(CrossFlowError, match="is one of ours already: give a file that the authors released"):
        checkpoint.convert(out, tmp_path / "again.safetensors")


def test_a_released_pickle_is_exported_with_other_sampling(tmp_path):
    torch.save(weights_of("dit_small"), tmp_path / "model.pth")
    before = checkpoint.load_checkpoint(tmp_path / "model.pth").config
    sampling = replace(before.sampling, guidance_scale=3.0)
    checkpoint.export_checkpoint(tmp_path / "model.pth", tmp_path / "out.safetensors", Override(guidance_scale=3.0))
    assert checkpoint.load_checkpoint(tmp_path / "out.safetensors").config == replace(before, sampling=sampling)
    assert read_header(tmp_path / "out.safetensors")["released"] == "model.pth"


@pytest.mark.parametrize("file", ["model.PTH", "model", "model.bin"])
def test_the_content_tells_the_format_where_the_name_does_not(file, tmp_path):
    path = tmp_path / file
    torch.save(weights_of("dit_small"), path)
    one = checkpoint.load_checkpoint(path).config
    save_file(weights_of("dit_small"), path)
    assert checkpoint.load_checkpoint(path).config == one


def changed(tmp_path: Path, name: str = "dimr_small", **tensors: Tensor | None) -> Path:
    state = weights_of(name) | {key.replace("__", "."): value for key, value in tensors.items()}
    save_file({key: value for key, value in state.items() if value is not None}, tmp_path / "changed.safetensors")
    return tmp_path / "changed.safetensors"


def test_missing_and_foreign_weights_are_named_as_in_the_file(tmp_path):
    lost = {"stages.1.upsample.0.weight.param1": None}
    assert "misses weight stages.1.upsample.0.weight.param1:" in refused(changed(tmp_path, **lost))
    more = {"context_encoder.extra": torch.ones(2), "stages.0.more": torch.ones(2)}
    assert "holds the unknown weight context_encoder.extra and 1 more" in refused(changed(tmp_path, **more))
    first = {"stages.0.input_layer.1.weight": None}
    assert "has no weight x_embedder.proj.weight." in refused(changed(tmp_path, **first))
    shaped = {"stages.0.skip_denses.0.bias": torch.ones(3)}
    assert "holds stages.0.skip_denses.0.bias as torch.float32 [3]" in refused(changed(tmp_path, **shaped))
    nan = {"stages.0.skip_denses.0.bias": torch.full((64,), torch.nan)}
    assert "are not finite" in refused(changed(tmp_path, **nan))
    strange = {"context_encoder.linear.weight": torch.ones(7)}
    assert "strange shapes" in refused(changed(tmp_path, **strange))


def test_other_architectures_are_refused(tmp_path):
    plain = {key: part for key, part in weights_of("dit_small").items() if not key.startswith("context_encoder")}
    save_file(plain, tmp_path / "dit.safetensors")
    assert "has no weight context_encoder.layers.0.attn.W_Q.weight." in refused(tmp_path / "dit.safetensors")
    save_file({"context_encoder.x": torch.ones(1)}, tmp_path / "x.safetensors")
    assert "is no CrossFlow checkpoint" in refused(tmp_path / "x.safetensors")


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize(
    "content, said",
    [
        ({"a": Harmful()}, "asks to run posix.mkdir: nothing of it was run"),
        (Harmful(), "asks to run posix.mkdir"),
        ({"step": 3, "a": torch.ones(1)}, "holds no tensors by name: give a file with a state_dict"),
        ([torch.ones(1)], "holds no tensors by name"),
        ({3: torch.ones(1)}, "holds no tensors by name"),
        ({}, "holds no tensors by name"),
    ],
    ids=["in a dict", "bare", "numbers beside", "list", "without names", "empty"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_pickles_of_more_than_tensors_are_refused(content, said, zipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "model.pth", _use_new_zipfile_serialization=zipped)
    assert said in refused(Path("model.pth"))
    assert not Path("harmed").exists()


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_truncated_files_are_refused(keep, tmp_path):
    torch.save(weights_of("dimr_small"), tmp_path / "model.pth")
    whole = (tmp_path / "model.pth").read_bytes()
    (tmp_path / "model.pth").write_bytes(whole[: int(keep if keep >= 1 or keep == 0 else keep * len(whole))])
    message = refused(tmp_path / "model.pth")
    assert "is not a whole file of tensors" in message or "it is not read" in message


def test_files_of_another_kind_are_refused(tmp_path):
    (tmp_path / "model.pth").write_text("not a checkpoint")
    assert "it is not read" in refused(tmp_path / "model.pth")
    (tmp_path / "link.pth").symlink_to("nothing")
    for name in ("none.pth", "link.pth", "x" * 300, "."):
        assert ("is a folder" if name == "." else "There is no file") in refused(tmp_path / name)
    save_file({}, tmp_path / "empty.safetensors")
    assert "it has no weight" in refused(tmp_path / "empty.safetensors")
