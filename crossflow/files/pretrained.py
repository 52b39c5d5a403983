"""Pretrained weights of others: found on this machine, loaded without progress bars, never downloaded."""

import os
import pickle
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from crossflow.errors import CrossFlowError, Notice, first_few
from crossflow.files.stand_ins import refuse_stand_in

UNREADABLE = (EOFError, LookupError, OSError, RuntimeError, SafetensorError, ValueError, pickle.UnpicklingError)
"""What the libraries raise on files that are truncated, of another format, or pickles of more than tensors."""


def local_folder(source: str | Path, holds: str) -> Path:
    """The folder ``source``, or the files of the hub model ``source`` in the local cache (``HF_HOME``).

    Nothing is downloaded. CrossFlowError if there is neither; ``holds`` says in the message which files it should have.
    """
    if Path(source).is_dir():
        return Path(source)
    if Path(source).is_file():
        raise CrossFlowError(f"{source} is a file: give a folder with {holds}.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source), local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise CrossFlowError(
            f"{source} is neither a folder here nor in the local hub cache: run `hf download {source}`, or give a"
            f" folder with {holds}."
        ) from error
    except HFValidationError as error:
        raise CrossFlowError(f"{source} is not there: give a folder with {holds}.") from error


@contextmanager
def readable(path: Path, kind: str) -> Iterator[None]:
    """Turn a library's error on reading ``path`` as ``kind`` into a CrossFlowError."""
    try:
        yield
    except UNREADABLE as error:
        for file in path.glob("*") if path.is_dir() else (path,):
            if file.is_file():
                refuse_stand_in(file)
        raise CrossFlowError(
            f"{path} does not load as {kind} ({_first_line(error)}): get the files again, or give another folder."
        ) from error


@contextmanager
def quiet(logging: Any) -> Iterator[None]:
    """Silence progress bars and notices of transformers or diffusers, given that library's ``utils.logging``."""
    bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def load_pretrained(
    kind: Any, folder: Path, logging: Any, exact: bool = False, unused: tuple[str, ...] = (), **options: Any
) -> Any:
    """The model of class ``kind`` in ``folder``, frozen, in eval mode; from safetensors or pickles of tensors alone.

    CrossFlowError if the files are damaged or lack a weight, which the libraries would initialise at random, but for
    those whose names begin as one of ``unused``; with ``exact`` also if they hold weights that the class does not have.
    """
    with quiet(logging), readable(folder, kind.__name__):
        model, report = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True, **options)
    # transformers 4 stored the position ids
    unknown = {name for name in report["unexpected_keys"] if not name.endswith("position_ids")} if exact else set()
    if unknown:
        few = first_few(sorted(unknown), 3)
        raise CrossFlowError(f"{folder} is of another network than {kind.__name__}: it holds {few}.")
    if missing := [name for name in report["missing_keys"] if not name.startswith(unused)]:
        lost = first_few(sorted(missing), 3)
        raise CrossFlowError(f"{folder} holds no whole {kind.__name__}: it lacks {lost}.")
    return model.eval().requires_grad_(False)


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle rather than safetensors, which begins with eight bytes and then JSON.

    The suffix decides if the first bytes do not. False for what is no file, and if it cannot be read.
    """
    if not os.path.isfile(path):  # a pipe would wait for ever
        return False
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError:
        return False
    if path.suffix == ".safetensors" or head[8:] == b"{":
        return False
    return head.startswith((b"PK", b"\x80")) or path.suffix in (".pth", ".pt", ".ckpt", ".bin")


def unpickled(path: Path) -> Any:
    """The content of a pickle of tensors, memory-mapped. CrossFlowError for any other file; no code in it is run."""
    refuse_stand_in(path)
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"PK"
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"asks to run {name[1]}" if name else "is no file of tensors alone"
        raise CrossFlowError(
            f"{path} {what}: nothing of it was run, and it is not read; save its tensors by themselves, best as "
            ".safetensors."
        ) from error
    except UNREADABLE as error:
        raise CrossFlowError(
            f"{path} is not a whole file of tensors ({_first_line(error)}): fetch it again."
        ) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in a safetensors file, or in a pickle of tensors alone, found by ``tensors_in``.

    CrossFlowError for any other file.
    """
    refuse_stand_in(path)
    try:
        content = unpickled(path) if is_pickle(path) else load_file(path)
    except UNREADABLE as error:
        raise CrossFlowError(
            f"{path} is not a whole safetensors file ({_first_line(error)}): fetch it again."
        ) from error
    return tensors_in(content, path)


WRAPPERS = ("ema", "nnet_ema", "ema_state_dict", "model_ema", "state_dict", "model", "nnet", "module")
"""Keys under which training programs keep a state dict; averaged weights, which sampling wants, come first."""


def tensors_in(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what a file of tensors holds: at top level, or under one of WRAPPERS, several deep.

    A Notice says which one was taken. CrossFlowError where there is none.
    """
    taken = []
    while isinstance(content, dict) and not _is_state(content):
        key = next((key for key in WRAPPERS if isinstance(content.get(key), dict) and content[key]), None)
        if key is None:
            break
        content = content[key]
        taken.append(key)
    if not _is_state(content):
        raise CrossFlowError(f"{path} holds no tensors by name: give a file with a state_dict.")
    if taken and taken != ["state_dict"]:
        warnings.warn(f"{path}: the weights under {' / '.join(map(repr, taken))} are taken.", Notice, stacklevel=2)
    return content


def _is_state(content: Any) -> bool:
    """Whether something is tensors by name."""
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )


def _first_line(error: BaseException) -> str:
    """The first sentence or line of an error's message."""
    return str(error).split("\n")[0].split(". ")[0] or type(error).__name__
