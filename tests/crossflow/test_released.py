"""The authors' files become our models by their shapes alone, and nothing else does."""

import gzip
import json
import os
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from crossflow import checkpoint, released
from crossflow.configs import CONFIGS
from crossflow.errors import CrossFlowError
from crossflow.model import build_model

GOLDEN = Path(__file__).parent.parent / "golden"
SMALL = ("dimr_small", "dit_small")
KEYS: dict[str, dict[str, list[int]]] = json.loads(gzip.decompress((GOLDEN / "released_keys.json.gz").read_bytes()))


def weights_of(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{name}.weights.safetensors")


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
    model = checkpoint.load_checkpoint(GOLDEN / f"{name}.weights.safetensors")
    golden = load_file(GOLDEN / f"{name}.tensors.safetensors")

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
    """The config read off the shapes is the recipe's, and its model has exactly these weights."""
    config = released.infer_config(name, {key: shape for key, shape in KEYS[name].items() if "open_clip" not in key})
    recipe = CONFIGS[name.replace("_", "-")].model
    assert replace(config, null_rate=recipe.null_rate) == recipe
    with torch.device("meta"):
        state = build_model(config, training=False).state_dict()
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


MEASURE = """
import resource, sys
from pathlib import Path
from crossflow import checkpoint
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
checkpoint.convert(Path(sys.argv[1]), Path(sys.argv[3]))
before = peak()
checkpoint.convert(Path(sys.argv[2]), Path(sys.argv[3]))
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


def test_the_number_of_heads_can_be_said(tmp_path):
    path, out = GOLDEN / "dit_small.weights.safetensors", tmp_path / "out.safetensors"
    checkpoint.convert(path, out, heads=2)
    config = checkpoint.load_checkpoint(out).config
    assert config.backbone.heads == 2
    assert checkpoint.load_checkpoint(path).config.backbone.heads == 4


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
    assert "has no weight x_embedder.proj.weight" in refused(changed(tmp_path, **first))
    shaped = {"stages.0.skip_denses.0.bias": torch.ones(3)}
    assert "holds stages.0.skip_denses.0.bias as torch.float32 [3]" in refused(changed(tmp_path, **shaped))
    nan = {"stages.0.skip_denses.0.bias": torch.full((64,), torch.nan)}
    assert "are not finite" in refused(changed(tmp_path, **nan))
    strange = {"context_encoder.linear.weight": torch.ones(7)}
    assert "strange shapes" in refused(changed(tmp_path, **strange))


def test_other_architectures_are_refused(tmp_path):
    plain = {key: part for key, part in weights_of("dit_small").items() if not key.startswith("context_encoder")}
    save_file(plain, tmp_path / "dit.safetensors")
    assert "no weight of it begins with context_encoder" in refused(tmp_path / "dit.safetensors")
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
        ({"state_dict": {"a": torch.ones(1)}}, "holds state_dict, which is no tensor"),
        ([torch.ones(1)], "holds a list, not tensors by name"),
        ({3: torch.ones(1)}, "not tensors by name"),
    ],
    ids=["in a dict", "bare", "wrapped", "list", "numbers"],
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
    assert "There is no file" in refused(tmp_path / "none.pth")
