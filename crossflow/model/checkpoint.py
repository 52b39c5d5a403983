"""Checkpoints: one safetensors file with a model's weights, its config and notes on its training.

The header is one JSON object under the key ``crossflow``: ``format``, ``version``, ``config`` and the notes. It is a
single key because safetensors writes several keys in random order, and equal models must give equal bytes. The file is
data: nothing in it is ever executed.
"""

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from crossflow.errors import CrossFlowError, Notice
from crossflow.files.hashes import file_sha256
from crossflow.files.pretrained import is_pickle, tensors_in, unpickled
from crossflow.files.tensors import read_tensors, write_tensors
from crossflow.files.writing import make_folder, refuse_existing
from crossflow.model import authors as released
from crossflow.model.config import FlowModel, ModelConfig
from crossflow.model.crossflow import CrossFlow
from crossflow.model.earlier import FIRST, migrated
from crossflow.model.settings import Sampling

FORMAT = "crossflow"
VERSION = "2"
"""The version that is written. Version 1 is read too: see ``earlier``."""
NOT_SHIPPED = ("terms.", "weaker.")
"""Prefixes of weights that are not saved: the networks of loss terms, and the guiding model."""


def save_checkpoint(path: str | Path, model: FlowModel, notes: Mapping[str, Any] | None = None) -> None:
    """Write ``model`` to ``path`` atomically. ``notes``, plain JSON values, go into the header."""
    header = {**(notes or {}), "format": FORMAT, "version": VERSION, "config": asdict(model.config)}
    write_tensors(Path(path), _shipped(model), header)


def export_checkpoint(path: Path, out: Path, sampling: Sampling) -> None:
    """Copy a checkpoint, ours or released, with other default ``sampling``; noise, weights and notes are kept.

    CrossFlowError if ``out`` is there already.
    """
    refuse_existing([out])
    model = load_model(path)
    config: Any = replace(model.config, sampling=replace(sampling, noise=model.config.sampling.noise))
    model.config = config
    save_checkpoint(out, model, _tensors(path)[0] or {"released": path.name})


def describe(path: Path) -> dict[str, Any]:
    """A checkpoint as plain JSON: the header of one of ours, the inferred config of a released one."""
    header, tensors = _tensors(path)
    if "format" in header:
        model_config(header, path)
    else:
        model, _, dropped = _released(path, tensors)
        header = {"format": "released", "config": asdict(model.config), "needed in training only": len(dropped)}
    return {"file": str(path), "sha256": file_sha256(path), **header}


def convert(path: Path, out: Path, heads: int | None = None) -> list[str]:
    """Write a released checkpoint as one of ours; return the names of the training-only weights that were dropped.

    The file is memory-mapped, so memory holds one weight at a time. For ``heads`` see ``authors.infer_config``.
    CrossFlowError if ``out`` is there already.
    """
    refuse_existing([out])
    make_folder(out.parent)
    header, tensors = _tensors(path)
    if "format" in header:
        raise CrossFlowError(f"{path} is one of ours already: give a file that the authors released.")
    model, tensors, dropped = _released(path, tensors, heads)
    header = {"format": FORMAT, "version": VERSION, "config": asdict(model.config), "released": path.name}
    write_tensors(out, tensors, header)
    return dropped


def load_checkpoint(path: str | Path, device: str = "cpu") -> CrossFlow:
    """Read a CrossFlow model, in eval mode, on ``device``: one of ours, or one that the authors released.

    CrossFlowError for a file that is missing, truncated, of another version or kind of model, or holds more than
    tensors, and for a weight that is missing, unknown or of the wrong shape; the message names it.
    """
    model = load_model(path, device)
    if not isinstance(model, CrossFlow):
        raise CrossFlowError(f"{path} holds the standard flow-matching baseline, not a CrossFlow model.")
    return model


def load_model(path: str | Path, device: str = "cpu") -> FlowModel:
    """Like ``load_checkpoint``, for the baseline too."""
    model = _load(path, device)
    if isinstance(model, CrossFlow) and (other := weaker_of(Path(path), model.config)) is not None:
        weaker = _load(other, device)
        if not isinstance(weaker, CrossFlow) or weaker.config.shape != model.config.shape:
            raise CrossFlowError(f"{other} is no weaker version of {path}: its latents or its kind differ.")
        model.weaker = weaker
    return model


def _load(path: str | Path, device: str) -> FlowModel:
    header, tensors = _tensors(Path(path))
    if "format" in header:
        model = _blank(model_config(header, path), path)
        check_tensors(path, tensors, _shipped(model))
    else:
        model, tensors, _ = _released(Path(path), tensors)
    model.load_state_dict(tensors, strict=False, assign=True)
    return model.to(device).eval()


def weaker_of(path: Path, config: ModelConfig) -> Path | None:
    """The file of the weaker model that guides the model in ``path``; None if there is none."""
    return None if config.guidance.weaker is None else path.parent / config.guidance.weaker


def _tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a checkpoint; the header of a pickle is empty."""
    if not (os.path.isfile(path) and is_pickle(path)):
        return read_tensors(path)
    return {}, tensors_in(unpickled(path), path)


def _released(
    path: Path, tensors: dict[str, Tensor], heads: int | None = None
) -> tuple[FlowModel, dict[str, Tensor], list[str]]:
    """The model of a released checkpoint, without weights; its checked weights under our names; the names dropped."""
    tensors, done = released.plain(tensors)
    if done:
        warnings.warn(f"{path}: {'; '.join(done)}.", Notice, stacklevel=2)
    kept, dropped = released.split(tensors)
    config = released.infer_config(path, {name: tuple(part.shape) for name, part in kept.items()}, heads)
    model = _blank(config, path)
    expected = {released.released_name(name): part for name, part in _shipped(model).items()}
    check_tensors(path, kept, expected)
    return model, {released.our_name(name): part for name, part in kept.items()}, dropped


def _blank(config: ModelConfig, path: str | Path) -> FlowModel:
    """The model of ``config`` on the meta device: nothing is allocated before the weights are checked."""
    with torch.device("meta"), _naming_file(path):
        return config.build(training=False)


def model_config(header: Mapping[str, Any], path: str | Path) -> ModelConfig:
    """The config in a checkpoint's header; CrossFlowError if it is not one of ours, or of an unknown version."""
    if header.get("format") != FORMAT or "config" not in header:
        raise CrossFlowError(f"{path} is a safetensors file, but not of a CrossFlow model: its header does not say so.")
    if header.get("version") not in (FIRST, VERSION):
        raise CrossFlowError(
            f"{path} is of format version {header.get('version')}, and this program reads {FIRST} and {VERSION}: "
            "use the release that wrote it, or train again."
        )
    with _naming_file(path):
        config = migrated(header["config"], header["version"])
    return config_from_json(json.dumps(config), path)


def check_tensors(path: str | Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """CrossFlowError for tensors that are missing, unknown, of another shape or dtype, or not finite; it names one."""
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
                f"but its config asks for {tensor.dtype} {list(tensor.shape)}: it is another model or precision."
            )
        if not got.isfinite().all():
            raise CrossFlowError(f"{path} holds numbers in {name} that are not finite: it was damaged, or diverged.")


def _shipped(model: FlowModel) -> dict[str, Tensor]:
    return {name: part for name, part in model.state_dict().items() if not name.startswith(NOT_SHIPPED)}


@contextmanager
def _naming_file(path: str | Path) -> Iterator[None]:
    """Add the file's name to errors about its config."""
    try:
        yield
    except CrossFlowError as error:
        raise CrossFlowError(f"The config in the header of {path} cannot be used: {error}") from error


def config_from_json(text: str, path: str | Path) -> ModelConfig:
    """A config from JSON. CrossFlowError for a field that is unknown, missing, or of the wrong type or range."""
    try:
        with _naming_file(path):
            config: ModelConfig = TypeAdapter(ModelConfig).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise CrossFlowError(f"The config in the header of {path} cannot be read: {place}: {first['msg']}.") from error
    if not _contains(
        json.loads(json.dumps(asdict(config))), json.loads(text)
    ):  # a field is unknown, or of another type
        raise CrossFlowError(f"The config in the header of {path} is of another release: its fields are not today's.")
    return config


def _contains(whole: Any, given: Any) -> bool:
    """Whether ``whole`` contains ``given``; it may have more fields, added since and at their defaults."""
    if isinstance(given, dict) and isinstance(whole, dict):
        return given.keys() <= whole.keys() and all(_contains(whole[name], value) for name, value in given.items())
    if isinstance(given, list) and isinstance(whole, list):
        return len(given) == len(whole) and all(map(_contains, whole, given))
    return type(given) is type(whole) and given == whole
