"""Checkpoints: one safetensors file with a model's weights, its config and notes on its training.

The header is one JSON object under the key ``crossflow``: ``format``, ``version``, ``config`` and the notes. It is a
single key because safetensors writes several keys in random order, and equal models must give equal bytes. The file is
data: nothing in it is ever executed.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import singledispatch
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from crossflow.errors import CrossFlowError, Notice
from crossflow.files.hashes import file_sha256
from crossflow.files.pretrained import is_pickle, tensors_in, unpickled
from crossflow.files.tensors import read_header, read_tensors, write_tensors
from crossflow.files.writing import make_folder, refuse_existing
from crossflow.flow.guidance import Autoguidance
from crossflow.losses import TextReconstruction
from crossflow.model import authors as released
from crossflow.model.config import FlowModel, ModelConfig, TrainedConfig, TrainedModel
from crossflow.model.crossflow import CrossFlow
from crossflow.model.earlier import FIRST, migrated
from crossflow.model.settings import Override

FORMAT = "crossflow"
VERSION = "2"
"""The version that is written. Version 1 is read too: see ``earlier``."""
NOT_SHIPPED = ("terms.", "weaker.")
"""Prefixes of weights that are not saved: the networks of loss terms, and the guiding model."""
DECODER = "text_decoder.safetensors"
"""The file beside a checkpoint with the one network of a loss term that is kept: the decoder of the text."""
DECODER_FORMAT, DECODER_VERSION = "crossflow-text-decoder", "1"
OF_TRAINING = ("digest", "step")
"""The notes that a checkpoint and its decoder have in common."""
OF_WEIGHTS = ("reads", "source", "condition", "target", "backbone", "path", "parameterisation")
"""The fields of a config that say what weights mean, beyond their shapes."""
STORED, HALF = "stored", "float16"
"""The entry of the header of a file in half precision, and what it says there: all is computed in float32."""


def save_checkpoint(
    path: str | Path, model: TrainedModel, notes: Mapping[str, Any] | None = None, *, half: bool = False
) -> None:
    """Write ``model`` to ``path`` atomically. ``notes``, plain JSON values, go into the header.

    With ``half`` real numbers are rounded to the nearest of half precision, and read as float32 again; all else stays
    as it is. CrossFlowError for a number that half precision has not.
    """
    header = {**(notes or {}), "format": FORMAT, "version": VERSION, "config": asdict(model.config)}
    header.pop(STORED, None)
    tensors = shipped(model)
    if half:
        header[STORED] = HALF
        tensors = {name: _halved(name, part) for name, part in tensors.items()}
    write_tensors(Path(path), tensors, header)


def _halved(name: str, part: Tensor) -> Tensor:
    """A tensor as it is stored in half precision."""
    if not part.is_floating_point():
        return part
    largest = torch.finfo(torch.float16).max
    if (part.abs() > largest).any():
        raise CrossFlowError(
            f"{name} holds {part.abs().max():.6g}, and the largest number of half precision is {largest:,.0f}: leave "
            "--half out."
        )
    return part.half()


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a checkpoint, those of a file in half precision as float32; a pickle has an empty header.

    CrossFlowError for any other file, and for one that is not wholly of the precision that its header names.
    """
    if is_pickle(path):
        return {}, tensors_in(unpickled(path), path)
    header, tensors = read_tensors(path)
    if "format" not in header and "digest" in header:
        raise CrossFlowError(
            f"{path} is the state of a training, which only --resume reads: give its model.safetensors, which lies "
            "beside it."
        )
    if STORED not in header:
        return header, tensors
    if header[STORED] != HALF:
        raise CrossFlowError(f"{path} is stored as {header[STORED]!r}, and this program reads {HALF}: export it again.")
    for name, part in tensors.items():
        if part.is_floating_point() and part.dtype != torch.float16:
            kind = str(part.dtype).removeprefix("torch.")
            raise CrossFlowError(
                f"{path} says that it is stored as {HALF}, and holds {name} as {kind}: export it again."
            )
    return header, {name: part.float() if part.is_floating_point() else part for name, part in tensors.items()}


def decoder_prefix(config: TrainedConfig) -> str | None:
    """Where the weights of a model's text decoder are in its state; None for a model trained without one."""
    names = [term.name for term in config.terms if isinstance(term, TextReconstruction)]
    return f"terms.{names[0]}.decoder." if names else None


def save_text_decoder(checkpoint: Path, decoder: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    """Write the weights of the text ``decoder`` beside ``checkpoint``; ``notes`` are those of the checkpoint."""
    header = {"format": DECODER_FORMAT, "version": DECODER_VERSION, **{name: notes[name] for name in OF_TRAINING}}
    write_tensors(checkpoint.with_name(DECODER), decoder, header)


def load_text_decoder(checkpoint: str | Path, device: str = "cpu") -> nn.Module:
    """The decoder from source latents to token embeddings that the model in ``checkpoint`` was trained with.

    CrossFlowError for a model that was trained without one, and for a file beside it that is missing, damaged, or of
    another training or step.
    """
    checkpoint = Path(checkpoint)
    header, path = read_checkpoint(checkpoint)[0], checkpoint.with_name(DECODER)
    config = model_config(header, checkpoint) if "format" in header else None  # the authors released no decoder
    terms = [term for term in config.terms if isinstance(term, TextReconstruction)] if config is not None else []
    if config is None or not terms:
        raise CrossFlowError(
            f"{checkpoint} was trained without a decoder of its text: train a recipe that has one, such as "
            "tiny-text-reconstruction."
        )
    if not path.is_file():
        raise CrossFlowError(f"There is no {path}, the text decoder of {checkpoint}: keep it beside the checkpoint.")
    notes, tensors = read_tensors(path)
    if (notes.get("format"), notes.get("version")) != (DECODER_FORMAT, DECODER_VERSION):
        raise CrossFlowError(f"{path} is no text decoder of version {DECODER_VERSION}: train again.")
    if any(notes.get(name) != header.get(name) for name in OF_TRAINING):
        raise CrossFlowError(
            f"{path} was trained for {notes.get('step')} steps of {notes.get('digest')}, and {checkpoint} for "
            f"{header.get('step')} of {header.get('digest')}: keep the two files of one training together."
        )
    with torch.device("meta"):
        decoder: nn.Module = terms[0].build(config.reads.shape, config.shape).decoder
    check_tensors(path, tensors, decoder.state_dict())
    decoder.load_state_dict(tensors, assign=True)
    return decoder.to(device).eval()


def export_checkpoint(path: Path, out: Path, override: Override, *, half: bool = False) -> None:
    """Copy a checkpoint, ours or released, with other default sampling settings, or in ``half`` precision.

    Weights and notes are kept. CrossFlowError if ``out`` is there already.
    """
    refuse_existing([out])
    model = load_model(path)
    config: Any = replace(model.config, sampling=model.config.sampling.but(override))
    model.config = config
    save_checkpoint(out, model, read_checkpoint(path)[0] or {"released": path.name}, half=half)


def describe(path: Path) -> dict[str, Any]:
    """A checkpoint as plain JSON: the header of one of ours, the inferred config of a released one."""
    header, tensors = read_checkpoint(path)
    if "format" in header:
        if not is_system(header):
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
    header, tensors = read_checkpoint(path)
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


def load_model(path: str | Path, device: str = "cpu", weaker: Path | None = None) -> FlowModel:
    """Like ``load_checkpoint``, for the baseline too.

    ``weaker`` is the file of a weaker version of the model, such as an earlier checkpoint of its training. It guides
    the model instead of what this was trained with. CrossFlowError for the baseline, and for a file whose model is no
    version of this one: it reads otherwise, or its latents or its path are others.
    """
    model = _load(path, device)
    if not isinstance(model, CrossFlow):
        if weaker is not None:
            raise CrossFlowError(f"{path} holds the baseline, which no weaker version guides: leave {weaker} out.")
        return model
    if weaker is not None:
        model.config = replace(model.config, guidance=Autoguidance(checkpoint=weaker.name))
    other = weaker or weaker_of(Path(path), model.config)
    if other is not None:
        if not (weaker or other.exists()):
            raise CrossFlowError(
                f"There is no file {other}, which guides {path}: keep it beside that, under this name."
            )
        model.weaker = _version_of(model, path, other, device)
    return model


def _version_of(model: CrossFlow, path: str | Path, other: Path, device: str) -> CrossFlow:
    """The model in ``other``, whose velocities can stand beside those of the ``model`` in ``path``."""
    found = _load(other, device)
    if not isinstance(found, CrossFlow):
        raise CrossFlowError(f"{other} is no weaker version of {path}: it holds the baseline.")
    ends = {"latents": "shape", "input": "reads", "autoencoder": "target", "path": "path"}
    differ = [what for what, name in ends.items() if getattr(found.config, name) != getattr(model.config, name)]
    if not differ and model.autoencoder.fits:
        fitted = found.autoencoder.state_dict()
        if any(not torch.equal(part, fitted[name]) for name, part in model.autoencoder.state_dict().items()):
            differ = ["autoencoder"]
    if differ:
        raise CrossFlowError(f"{other} is no weaker version of {path}: its {differ[0]} is not that of the model.")
    return found


def _load(path: str | Path, device: str) -> FlowModel:
    header, tensors = read_checkpoint(Path(path))
    if "format" in header:
        model = _blank(model_config(header, path), path)
        check_tensors(path, tensors, shipped(model))
    else:
        model, tensors, _ = _released(Path(path), tensors)
    model.load_state_dict(tensors, strict=False, assign=True)
    return model.to(device).eval()


@singledispatch
def take_weights(model: TrainedModel, path: str | Path) -> list[str]:
    """Give ``model``, which is to be trained, the weights of a checkpoint; returns the loss terms that keep their own.

    What is no flow of its own registers how it takes them.
    CrossFlowError unless the checkpoint has exactly the tensors that sampling from ``model`` needs. A Notice names what
    of its config makes these mean something else, such as other heads, or another end of the path that is predicted.
    """
    start = _load(path, "cpu")
    found = shipped(start)
    expected = shipped(model)
    check_tensors(path, found, expected, "the recipe")
    if differ := _differing(start.config, model.config):
        warnings.warn(
            f"{path} has weights of the shapes of the recipe's, of a model that differs in {', '.join(differ)}: they "
            "mean something else here.",
            Notice,
            stacklevel=2,
        )
    model.load_state_dict(found, strict=False)
    terms = {name.split(".")[1] for name in model.state_dict().keys() - expected.keys()}
    return sorted(terms)


def _differing(one: ModelConfig, other: ModelConfig) -> list[str]:
    """What of ``OF_WEIGHTS`` two configs of equal tensors differ in, as ``backbone.heads``."""
    was_all, now_all = asdict(one), asdict(other)
    found: list[str] = []
    for name in OF_WEIGHTS:
        was, now = was_all.get(name), now_all.get(name)
        if isinstance(was, dict) and isinstance(now, dict):
            found += [f"{name}.{part}" for part in {**was, **now} if was.get(part) != now.get(part)]
        elif was != now:
            found.append(name)
    return found


def weaker_of(path: Path, config: ModelConfig) -> Path | None:
    """The file of the weaker model that guides the model in ``path``; None if there is none."""
    return None if config.guidance.weaker is None else path.parent / config.guidance.weaker


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
    expected = {released.released_name(name): part for name, part in shipped(model).items()}
    check_tensors(path, kept, expected)
    return model, {released.our_name(name): part for name, part in kept.items()}, dropped


def _blank(config: ModelConfig, path: str | Path) -> FlowModel:
    """The model of ``config`` on the meta device: nothing is allocated before the weights are checked."""
    with torch.device("meta"), _naming_file(path):
        return config.build(training=False)


def holds_system(path: Path) -> bool:
    """Whether a file is that of an any-to-any system; CrossFlowError for no file, or one of another kind."""
    return not is_pickle(path) and is_system(read_header(path))


def is_system(header: Mapping[str, Any]) -> bool:
    """Whether the header of a checkpoint is that of an any-to-any system, which ``crossflow.anytoany.system`` reads."""
    config = header.get("config")
    return header.get("format") == FORMAT and isinstance(config, Mapping) and config.get("kind") == "any-to-any"


def model_config(header: Mapping[str, Any], path: str | Path) -> ModelConfig:
    """The config in a checkpoint's header; CrossFlowError if it is not one of ours, or of an unknown version."""
    if header.get("format") != FORMAT or "config" not in header:
        raise CrossFlowError(f"{path} is a safetensors file, but not of a CrossFlow model: its header does not say so.")
    if is_system(header):
        raise CrossFlowError(
            f"{path} is an any-to-any system, and not one model: give it to crossflow generate or crossflow-eval any."
        )
    if header.get("version") not in (FIRST, VERSION):
        raise CrossFlowError(
            f"{path} is of format version {header.get('version')}, and this program reads {FIRST} and {VERSION}: "
            "use the release that wrote it, or train again."
        )
    with _naming_file(path):
        config = migrated(header["config"], header["version"])
    return config_from_json(json.dumps(config), path)


def check_tensors(
    path: str | Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], of: str = "its config"
) -> None:
    """CrossFlowError for tensors that are missing, unknown, of another shape or dtype, or not finite; it names one.

    ``of`` is what describes the model that is ``expected``.
    """
    missing, unknown = expected.keys() - found.keys(), found.keys() - expected.keys()
    for what, names in (("misses", missing), ("holds the unknown", unknown)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CrossFlowError(f"{path} {what} weight {min(names)}{more}: it is not the model that {of} describes.")
    for name, tensor in expected.items():
        got = found[name]
        if (got.shape, got.dtype) != (tensor.shape, tensor.dtype):
            raise CrossFlowError(
                f"{path} holds {name} as {got.dtype} {list(got.shape)}, "
                f"but {of} asks for {tensor.dtype} {list(tensor.shape)}: it is another model or precision."
            )
        if not got.isfinite().all():
            raise CrossFlowError(f"{path} holds numbers in {name} that are not finite: it was damaged, or diverged.")


def shipped(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model that its checkpoint has."""
    return {name: part for name, part in model.state_dict().items() if not name.startswith(NOT_SHIPPED)}


@contextmanager
def _naming_file(path: str | Path) -> Iterator[None]:
    """Add the file's name to errors about its config."""
    try:
        yield
    except CrossFlowError as error:
        raise CrossFlowError(f"The config in the header of {path} cannot be used: {error}") from error


def config_from_json(text: str, path: str | Path, form: Any = ModelConfig) -> Any:
    """A config of the ``form`` from JSON.

    CrossFlowError for a field that is unknown, missing, or of the wrong type or range.
    """
    try:
        with _naming_file(path):
            config = TypeAdapter(form).validate_json(text)
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
