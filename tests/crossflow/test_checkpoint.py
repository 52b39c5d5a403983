"""A checkpoint comes back bit for bit, and whatever is not one is refused in a sentence."""

import errno
import json
import os
import pickle
import stat
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_pipelines import baseline_of

import crossflow
from crossflow.errors import CrossFlowError
from crossflow.files.devices import usable_device
from crossflow.files.tensors import read_header, write_tensors
from crossflow.model import checkpoint
from crossflow.model.checkpoint import export_checkpoint, load_checkpoint, load_model, save_checkpoint
from crossflow.model.crossflow import CrossFlow
from crossflow.model.settings import Override
from crossflow.recipes import CONFIGS

CONFIG = CONFIGS["scenes-tiny"].model


@pytest.fixture(scope="module")
def model() -> CrossFlow:
    torch.manual_seed(0)
    model = CONFIG.build()
    assert isinstance(model, CrossFlow)
    return model


@pytest.fixture
def file(model, tmp_path):
    save_checkpoint(tmp_path / "new" / "model.safetensors", model, {"step": 7})
    return tmp_path / "new" / "model.safetensors"


def refused(file) -> str:
    with pytest.raises(CrossFlowError) as caught:
        load_model(file)
    message = str(caught.value)
    assert str(file) in message
    assert "\n" not in message
    assert message.endswith(".")
    return message


def rewritten(file, *, tensors=None, **header: object):
    """The file with other tensors, or other or (None) removed entries of its header."""
    kept = {name: value for name, value in (read_header(file) | header).items() if value is not None}
    write_tensors(file, load_file(file) if tensors is None else tensors, kept)
    return file


def with_config(file, **changes: object):
    config = read_header(file)["config"]
    for place, value in changes.items():
        *path, last = place.split("__")
        part = config
        for name in path:
            part = part[name]
        if value is None:
            del part[last]
        else:
            part[last] = value
    return rewritten(file, config=config)


def test_a_round_trip_is_bit_equal(model, file):
    loaded = load_checkpoint(file)
    assert loaded.config == CONFIG
    assert len(loaded.terms) == 0
    assert not loaded.training
    state = model.state_dict()
    kept = loaded.state_dict()
    assert kept.keys() == {name for name in state if not name.startswith("terms.")}
    assert all(torch.equal(state[name], tensor) for name, tensor in kept.items())
    assert all(part.requires_grad for part in loaded.parameters())
    assert read_header(file)["step"] == 7
    assert crossflow.load_checkpoint is load_checkpoint


def test_the_same_model_gives_the_same_bytes(model, file, tmp_path):
    save_checkpoint(tmp_path / "again.safetensors", load_checkpoint(file), {"step": 7})
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def test_an_export_changes_the_recommended_sampling_and_nothing_else(file, tmp_path):
    out, sampling = tmp_path / "out.safetensors", Override(solver="heun", steps=5, guidance_scale=2.5)
    export_checkpoint(file, out, sampling)
    before, after = load_file(file), load_file(out)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert load_model(out).config == replace(CONFIG, sampling=CONFIG.sampling.but(sampling))
    assert read_header(out)["step"] == 7


def test_an_export_with_an_unknown_solver_writes_nothing(file, tmp_path):
    with pytest.raises(CrossFlowError, match="Did you mean 'heun'"):
        export_checkpoint(file, tmp_path / "out.safetensors", Override(solver="huen"))
    assert not (tmp_path / "out.safetensors").exists()


def test_the_image_tower_is_trained_and_never_shipped(model, file):
    tower = "terms.contrastive.tower."
    assert any(name.startswith(tower) and part.requires_grad for name, part in model.named_parameters())
    assert not any("tower" in name or name.startswith("terms.") for name in load_file(file))


def test_what_is_no_file_is_never_replaced(model, tmp_path):
    """A folder, and above all a device: a rename would put a file in its place."""
    os.mkfifo(tmp_path / "device")
    (tmp_path / "folder").mkdir()
    for name in ("device", "folder"):
        with pytest.raises(CrossFlowError, match=f"{name} is there and is no file: choose another name"):
            save_checkpoint(tmp_path / name, model)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["device", "folder"]
    assert stat.S_ISFIFO((tmp_path / "device").stat().st_mode)


def test_others_may_read_it(file, tmp_path):
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_the_baseline_is_another_kind(tmp_path):
    baseline = baseline_of(CONFIG).build()
    save_checkpoint(tmp_path / "b.safetensors", baseline)
    assert load_model(tmp_path / "b.safetensors").config == baseline.config
    with pytest.raises(CrossFlowError, match="standard flow-matching baseline"):
        load_checkpoint(tmp_path / "b.safetensors")


def test_a_missing_file(tmp_path):
    assert "There is no file" in refused(tmp_path / "none.safetensors")
    assert "is a folder, and a file is expected: give the file in it" in refused(tmp_path)


def test_the_folder_of_a_run_or_of_a_pipeline_and_a_state_are_said_to_be_that(file, tmp_path):
    (tmp_path / "run").mkdir()
    file.rename(tmp_path / "run" / "model.safetensors")
    assert f"give {tmp_path / 'run'}/model.safetensors" in refused(tmp_path / "run")
    (tmp_path / "run" / "model_index.json").write_text("{}")
    assert f"t2i --model diffusers:{tmp_path / 'run'}" in refused(tmp_path / "run")
    state = tmp_path / "state.safetensors"
    write_tensors(state, {"model.x": torch.zeros(2)}, {"digest": "0", "step": 3, "config": {}})
    assert "is the state of a training" in refused(state)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5, 0.999])
def test_a_truncated_file(file, share):
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    assert "not a whole safetensors file" in refused(file)


def test_a_pickle_in_disguise_is_never_run(file, tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    file.write_bytes(pickle.dumps(Trap()))
    assert "such as a pickle" in refused(file)
    torch.save({"model": Trap()}, file)
    assert "such as a pickle" in refused(file)
    assert not (tmp_path / "sprung").exists()


def test_another_safetensors_file(file):
    save_file({"x": torch.zeros(2)}, file)
    assert "is no CrossFlow checkpoint, neither ours nor a released one" in refused(file)


@pytest.mark.parametrize("version", ["3", "", None])
def test_another_version(file, version):
    assert "this program reads 1 and 2" in refused(rewritten(file, version=version))


def test_a_missing_an_unknown_and_a_misshapen_weight(file):
    tensors = load_file(file)
    name = "backbone.patches.out.weight"
    lost = {key: value for key, value in tensors.items() if key != name}
    assert f"misses weight {name}:" in refused(rewritten(file, tensors=lost))
    more = tensors | {"a.b": torch.zeros(1), "c.d": torch.zeros(1)}
    assert "holds the unknown weight a.b and 1 more" in refused(rewritten(file, tensors=more))
    assert f"holds {name} as torch.float32 [3]" in refused(rewritten(file, tensors=lost | {name: torch.zeros(3)}))
    half = tensors[name].half()
    assert f"holds {name} as torch.float16" in refused(rewritten(file, tensors=lost | {name: half}))
    broken = torch.full_like(tensors[name], torch.nan)
    assert "not finite" in refused(rewritten(file, tensors=lost | {name: broken}))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "[" * 100_000])
def test_a_header_that_is_none(file, text):
    save_file(load_file(file), file, metadata={"crossflow": text})
    assert "is damaged: it is not a JSON object" in refused(file)


@pytest.mark.parametrize("config", ["", [], 3, {}, {"shape": 1}, "x", [[[[]]]]])
def test_a_config_that_is_none(file, config):
    assert "cannot be read" in refused(rewritten(file, config=config))


@pytest.mark.parametrize(
    "change, said",
    [
        ({"backbone__width": 10**12}, "width is 1000000000000; it must be from 1 to 4096"),
        ({"backbone__depth": 10**9}, "depth is 1000000000"),
        ({"backbone__depth": 50}, "misses weight"),
        ({"source__width": 4096}, "its config asks for"),
        ({"source__depth": 0}, "depth is 0"),
        ({"target__patch": 4096}, "its config asks for"),
        ({"shape": [4096, 4096, 4096]}, "There are 48 components, and the latents [4096, 4096, 4096] have others"),
        ({"shape": [48, 4096, 4096]}, "its config asks for"),
        ({"shape": [48, 4]}, "cannot be read"),
        ({"backbone__heads": 3}, "does not divide into 3 heads"),
        ({"backbone__width": "wide"}, "backbone.width"),
        ({"backbone__width": "32"}, "fields are not today's"),
        ({"backbone__width": None}, "backbone.width"),
        ({"backbone__surprise": 1}, "fields are not today's"),
        ({"path": "spiral"}, "path"),
        ({"sampling__solver": "magic"}, "Unknown solver 'magic'"),
        ({"sampling__steps": -1}, "steps is -1"),
        ({"guidance__null_rate": 7}, "null_rate is 7"),
        ({"source__readout": "poem"}, "readout"),
    ],
    ids=str,
)
def test_a_hostile_config_is_refused_before_anything_is_allocated(file, change, said):
    assert said in refused(with_config(file, **change))


def test_fields_added_since_have_their_defaults(file):
    """Files of earlier releases stay readable."""
    assert load_checkpoint(with_config(file, parameterisation=None, stage_weights=None)).config == CONFIG


def test_every_recipe_passes_through_a_header():
    for config in CONFIGS.values():
        assert checkpoint.config_from_json(json.dumps(asdict(config.model)), "x") == config.model


def test_a_full_disk_keeps_the_old_file(model, file, monkeypatch):
    before = file.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CrossFlowError, match=r"cannot be written .*No space left.* make room"):
        save_checkpoint(file, model)
    assert file.read_bytes() == before
    assert [each.name for each in file.parent.iterdir()] == [file.name]


def test_a_path_that_cannot_be(model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CrossFlowError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / "model.safetensors", model)


def test_devices():
    assert usable_device("cpu") == "cpu"
    assert usable_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(CrossFlowError, match="This machine has no device 'cuda:99'"):
        usable_device("cuda:99")
