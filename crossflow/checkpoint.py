"""One safetensors file is a model: its weights, its config and where it came from, all in one place.

Its header is one JSON object under the key ``crossflow``: ``format``, ``version``, ``config``, and notes on how the
weights came to be. One key, because safetensors writes several in random order, and equal models must be equal bytes.
The file is data: nothing in it is ever executed.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.model import CrossFlow, FlowConfig, FlowModel, Sampling, build_model

FORMAT = "crossflow"
VERSION = "1"
TRAINING_ONLY = ("tower.",)
"""Prefixes of weights that sampling does not need; they stay out of the file."""


def save_checkpoint(path: str | Path, model: FlowModel, notes: Mapping[str, Any] | None = None) -> None:
    """Write ``model`` to ``path`` atomically. ``notes``, plain JSON values, are kept in the header."""
    header = {**(notes or {}), "format": FORMAT, "version": VERSION, "config": asdict(model.config)}
    write_tensors(Path(path), _shipped(model), header)


def export_checkpoint(path: Path, out: Path, sampling: Sampling) -> None:
    """Copy the checkpoint ``path`` to ``out`` with ``sampling`` as what it recommends; weights and notes stay."""
    model = load_model(path)
    model.config = replace(model.config, sampling=sampling)
    save_checkpoint(out, model, read_header(path))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write a safetensors file: it is there whole or not at all."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(on_cpu, temporary, metadata={"crossflow": json.dumps(header, sort_keys=True)})
        temporary.chmod(mode)  # as readable to others as any new file; safetensors makes it private
        with temporary.open("rb") as file:
            os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of ``path``, made if need be; what was written there becomes ``path``.

    An error leaves ``path`` as it was. One of the file system, such as a full disk, is raised as CrossFlowError.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    with written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Turn an error of the file system into a CrossFlowError that names ``path``."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CrossFlowError(f"{path} cannot be written ({error}): make room or choose another folder.") from error


def read_header(path: Path) -> dict[str, Any]:
    """Our header of a safetensors file, empty if it has none; CrossFlowError for any other file."""
    return _read(path, whole=False)[0]


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Our header and the tensors of a safetensors file; CrossFlowError for any other file, a pickle above all."""
    return _read(path, whole=True)


def _read(path: Path, whole: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise CrossFlowError(f"There is no file {path}: give the path of a .safetensors file.")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("crossflow", "{}")
            tensors = {name: file.get_tensor(name) for name in (file.keys() if whole else ())}
    except (SafetensorError, OSError) as error:
        raise CrossFlowError(
            f"{path} is not a whole safetensors file ({error}): it is truncated, or of another format such as a pickle."
        ) from error
    try:
        return TypeAdapter(dict[str, Any]).validate_json(text), tensors
    except ValidationError as error:
        raise CrossFlowError(f"The header of {path} is damaged: it is not a JSON object.") from error


def load_checkpoint(path: str | Path, device: str = "cpu") -> CrossFlow:
    """Read a CrossFlow model, in eval mode, on ``device``.

    Raises CrossFlowError for a file that is missing, truncated, not safetensors, of another version or another kind
    of model, and for any weight that is missing, unknown or of the wrong shape; the message names it.
    """
    model = load_model(path, device)
    if not isinstance(model, CrossFlow):
        raise CrossFlowError(f"{path} holds the standard flow-matching baseline, not a CrossFlow model.")
    return model


def load_model(path: str | Path, device: str = "cpu") -> FlowModel:
    """Like ``load_checkpoint``, for the baseline too."""
    header, tensors = read_tensors(Path(path))
    config = model_config(header, path)
    with torch.device("meta"), _naming(path):  # nothing is allocated before the weights are seen to be there
        model = build_model(config)
    check_tensors(path, tensors, _shipped(model))
    model.load_state_dict(tensors, strict=False, assign=True)
    if isinstance(model, CrossFlow):
        model.tower = None
    return model.to(device).eval()


def model_config(header: Mapping[str, Any], path: str | Path) -> FlowConfig:
    """The config in a checkpoint's header; CrossFlowError where it is not one of ours, or of another version."""
    if header.get("format") != FORMAT or "config" not in header:
        raise CrossFlowError(f"{path} is a safetensors file, but not of a CrossFlow model: its header does not say so.")
    if header.get("version") != VERSION:
        raise CrossFlowError(
            f"{path} is of format version {header.get('version')}, and this program reads version {VERSION}: "
            "use the release that wrote it, or train again."
        )
    return config_from_json(json.dumps(header["config"]), path)


def check_tensors(path: str | Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are missing, unknown, of another shape or type, or not finite; the first one is named."""
    missing, unknown = expected.keys() - found.keys(), found.keys() - expected.keys()
    for what, names in (("misses", missing), ("holds the unknown", unknown)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CrossFlowError(f"{path} {what} weight {min(names)}{more}: it is not the model its config describes.")
    for name, tensor in expected.items():
        got = found[name]
        if (got.shape, got.dtype) != (tensor.shape, tensor.dtype):
            raise CrossFlowError(
                f"{path} holds {name} as {got.dtype} {list(got.shape)}, "
                f"but its config asks for {tensor.dtype} {list(tensor.shape)}: it is another model."
            )
        if not got.isfinite().all():
            raise CrossFlowError(f"{path} holds numbers in {name} that are not finite: it was damaged, or diverged.")


def _shipped(model: FlowModel) -> dict[str, Tensor]:
    return {name: part for name, part in model.state_dict().items() if not name.startswith(TRAINING_ONLY)}


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Add the file's name to what is said of a config."""
    try:
        yield
    except CrossFlowError as error:
        raise CrossFlowError(f"The config in the header of {path} cannot be used: {error}") from error


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def config_from_json(text: str, path: str | Path) -> FlowConfig:
    """A config from JSON. A field that is unknown, missing, or of the wrong type or range raises CrossFlowError."""
    try:
        with _naming(path):
            config = TypeAdapter(FlowConfig).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise CrossFlowError(f"The config in the header of {path} cannot be read: {place}: {first['msg']}.") from error
    if json.loads(json.dumps(asdict(config))) != json.loads(text):  # a field was unknown, left out, or of another type
        raise CrossFlowError(f"The config in the header of {path} is of another release: its fields are not today's.")
    return config


def usable_device(name: str) -> str:
    """``name`` (cpu, cuda or cuda:N) if this machine has it; ``auto`` is cuda where there is one, else cpu."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    usable = ["cpu", *(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count))]
    if name == "auto":
        return usable[min(1, len(usable) - 1)]
    if name not in usable:
        raise CrossFlowError(f"This machine has no device {name!r}: it has {', '.join(usable)}.")
    return name
