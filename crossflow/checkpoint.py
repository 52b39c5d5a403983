"""One safetensors file is a model: its weights, its config and where it came from, all in one place.

The header holds ``format``, ``version`` and the config as JSON. The file is data: nothing in it is ever executed.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from crossflow.backbone.transformer import TransformerConfig
from crossflow.encoder import EncoderConfig
from crossflow.errors import CrossFlowError
from crossflow.latents import PatchPCAConfig
from crossflow.model import CrossFlow, FlowConfig, FlowModel, Sampling, build_model

FORMAT = "crossflow"
VERSION = "1"
TRAINING_ONLY = ("tower.",)
"""Prefixes of weights that sampling does not need; they stay out of the file."""


def save_checkpoint(path: str | Path, model: FlowModel, notes: Mapping[str, str] | None = None) -> None:
    """Write ``model`` to ``path`` atomically. ``notes`` are kept in the header: how it was trained, how good it is."""
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith(TRAINING_ONLY)
    }
    header = {"format": FORMAT, "version": VERSION, "config": config_to_json(model.config), **(notes or {})}
    write_atomically(Path(path), tensors, header)


def write_atomically(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a safetensors file under a temporary name in the same folder, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        save_file(dict(tensors), temporary, metadata=dict(header))
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise CrossFlowError(f"{path} cannot be written ({error}); free some space or choose another folder.") from error


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The header and the tensors of a safetensors file; anything else is refused, a pickle above all."""
    if not path.is_file():
        raise CrossFlowError(f"There is no checkpoint at {path}; give the path of a .safetensors file.")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise CrossFlowError(
            f"{path} is not a whole safetensors file ({error}): it is truncated, or of another format such as a pickle."
        ) from error


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
    if header.get("format") != FORMAT or "config" not in header:
        raise CrossFlowError(f"{path} is a safetensors file, but not one of a CrossFlow model: its header says nothing.")
    if header.get("version") != VERSION:
        raise CrossFlowError(
            f"{path} is of format version {header.get('version')}; this program reads version {VERSION}: "
            "use the release that wrote it, or train again."
        )
    model = build_model(config_from_json(header["config"], str(path)))
    expected = {name: part for name, part in model.state_dict().items() if not name.startswith(TRAINING_ONLY)}
    check_tensors(str(path), tensors, expected)
    model.load_state_dict(tensors, strict=False)
    if isinstance(model, CrossFlow):
        model.tower = None
    return model.to(device).eval()


def check_tensors(path: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse missing, unknown and misshapen weights, naming the first of each."""
    for what, names in (("misses", expected.keys() - found.keys()), ("holds the unknown", found.keys() - expected.keys())):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CrossFlowError(f"{path} {what} weight {min(names)}{more}; it is not the model its config describes.")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise CrossFlowError(
                f"{path} holds {name} of shape {list(found[name].shape)}; its config asks for {list(tensor.shape)}."
            )


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def config_to_json(config: FlowConfig) -> str:
    """The config as canonical JSON."""
    return json.dumps(dataclasses.asdict(config), sort_keys=True)


def config_from_json(text: str, path: str) -> FlowConfig:
    """The config back from JSON; unknown or missing fields raise CrossFlowError."""
    try:
        values: dict[str, Any] = json.loads(text)
        encoder = values.pop("encoder")
        channels, height, width = values.pop("shape")
        return FlowConfig(
            shape=(channels, height, width),
            backbone=TransformerConfig(**values.pop("backbone")),
            encoder=None if encoder is None else EncoderConfig(**encoder),
            autoencoder=PatchPCAConfig(**values.pop("autoencoder")),
            sampling=Sampling(**values.pop("sampling")),
            **values,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CrossFlowError(f"The config in the header of {path} cannot be read: {error}.") from error


def parameter_count(module: torch.nn.Module) -> int:
    """How many trainable numbers a module has."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
