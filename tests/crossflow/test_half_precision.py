"""A checkpoint stored in half precision: rounded once, computed in float32, and no other mixture of the two."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from crossflow.anytoany.system import load_system
from crossflow.cli import app
from crossflow.errors import CrossFlowError
from crossflow.files.tensors import read_header, write_tensors
from crossflow.model.checkpoint import load_model, save_checkpoint
from crossflow.recipes import CONFIGS
from tests.crossflow.tiny_systems import tiny_system

READ = {"model": load_model, "system": load_system}


@pytest.fixture(scope="module", params=list(READ))
def files(request, tmp_path_factory) -> tuple[str, Path, Path]:
    """What is stored, in float32 and as the command makes it of that."""
    torch.manual_seed(0)
    model = tiny_system() if request.param == "system" else CONFIGS["scenes-tiny"].model.build()
    folder = tmp_path_factory.mktemp(request.param)
    whole, half = folder / "whole.safetensors", folder / "half.safetensors"
    save_checkpoint(whole, model, {"step": 7})
    exported(whole, half, "--half")
    return request.param, whole, half


def exported(path: Path, out: Path, *options: object) -> None:
    done = CliRunner().invoke(app, ["export", *map(str, (path, out, *options))])
    assert (done.exit_code, done.stderr) == (0, ""), done.output


def refused(kind: str, path: Path) -> str:
    with pytest.raises(CrossFlowError) as caught:
        READ[kind](path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and message.endswith(".")
    return message


def test_every_number_is_the_nearest_and_computed_in_float32(files):
    kind, whole, half = files
    before, loaded = READ[kind](whole).state_dict(), READ[kind](half)
    assert isinstance(loaded, nn.Module)
    for name, part in loaded.state_dict().items():
        nearest = before[name].half().float() if part.is_floating_point() else before[name]
        assert part.dtype == before[name].dtype and torch.equal(part, nearest)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    assert read_header(half) == read_header(whole) | {"stored": "float16"}


def test_what_was_rounded_once_is_stored_again_without_a_change(files, tmp_path):
    kind, whole, half = files
    exported(half, tmp_path / "again.safetensors", "--half")
    assert (tmp_path / "again.safetensors").read_bytes() == half.read_bytes()
    exported(half, tmp_path / "full.safetensors")
    assert read_header(tmp_path / "full.safetensors") == read_header(whole)
    kept = READ[kind](tmp_path / "full.safetensors").state_dict()
    assert all(torch.equal(part, kept[name]) for name, part in READ[kind](half).state_dict().items())


def test_a_copy_in_float32_is_bit_equal(files, tmp_path):
    exported(files[1], tmp_path / "copy.safetensors")
    assert (tmp_path / "copy.safetensors").read_bytes() == files[1].read_bytes()


def test_damaged_and_mixed_files_are_refused_in_a_sentence(files, tmp_path):
    kind, whole, half = files
    header, tensors, full = read_header(half), load_file(half), load_file(whole)
    name = next(name for name, part in tensors.items() if part.dtype == torch.float16)
    path = tmp_path / "bad.safetensors"
    path.write_bytes(half.read_bytes()[:-10])
    assert "it is truncated" in refused(kind, path)
    write_tensors(path, tensors | {name: full[name]}, header)
    assert f"stored as float16, and holds {name} as float32" in refused(kind, path)
    write_tensors(path, full | {name: tensors[name]}, read_header(whole))
    assert f"holds {name} as torch.float16" in refused(kind, path)
    write_tensors(path, tensors | {name: torch.full_like(tensors[name], torch.inf)}, header)
    assert f"numbers in {name} that are not finite" in refused(kind, path)
    write_tensors(path, tensors, header | {"stored": "float8"})
    assert "is stored as 'float8', and this program reads float16" in refused(kind, path)


def test_a_number_that_half_precision_has_not_is_named_and_nothing_is_written(files, tmp_path):
    _, whole, _ = files
    tensors = load_file(whole)
    name = next(name for name, part in tensors.items() if part.is_floating_point())
    tensors[name].view(-1)[0] = -70_000.0
    write_tensors(tmp_path / "large.safetensors", tensors, read_header(whole))
    done = CliRunner().invoke(
        app, ["export", *(str(tmp_path / f"{each}.safetensors") for each in ("large", "x")), "--half"]
    )
    assert done.exit_code == 2
    assert f"{name} holds 70000, and the largest number of half precision is 65,504" in done.stderr
    assert not (tmp_path / "x.safetensors").exists()


def test_the_sampling_of_every_diffuser_is_set(tmp_path):
    save_checkpoint(tmp_path / "system.safetensors", tiny_system())
    exported(tmp_path / "system.safetensors", tmp_path / "new.safetensors", "--guidance-scale", 3, "--steps", 4)
    old, new = (load_system(tmp_path / f"{name}.safetensors").config for name in ("system", "new"))
    for before, after in zip(old.members, new.members, strict=True):
        was, now = before.diffuser.sampling, after.diffuser.sampling
        assert (now.solver, now.steps, now.guidance_scale) == (was.solver, 4, 3.0)
