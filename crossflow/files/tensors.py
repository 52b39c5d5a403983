"""Safetensors files with a JSON header of ours: written atomically, read without trusting them."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.files.stand_ins import refuse_stand_in
from crossflow.files.writing import replacing

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The safetensors names of dtypes, widest first, so that every tensor is aligned in the file."""


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any], writer: str | int | None = None
) -> None:
    """Write a safetensors file atomically, one tensor in memory at a time; ``header`` is plain JSON values.

    ``writer`` is that of ``replacing``, where several processes may write ``path`` at the same time.
    """
    width = {dtype: torch.empty((), dtype=dtype).element_size() for dtype in DTYPES}
    names = sorted(tensors, key=lambda name: (-width[tensors[name].dtype], name))
    entries: dict[str, Any] = {"__metadata__": {"crossflow": json.dumps(header, sort_keys=True)}}
    end = 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * width[tensor.dtype]
        entries[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    head = json.dumps(entries).encode()
    head += b" " * (-len(head) % 8)
    with replacing(path, writer) as temporary, temporary.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in names:
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of tensors in float32 and of their names, in hexadecimal, whatever their order and dtype."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_header(path: Path) -> dict[str, Any]:
    """Our header in a safetensors file, empty if it has none; CrossFlowError for any other file."""
    return _read(path, whole=False)[0]


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Our header and the tensors of a safetensors file; CrossFlowError for any other file, such as a pickle."""
    return _read(path, whole=True)


def _read(path: Path, whole: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not os.path.isfile(path):  # path.is_file() raises on a name that is too long
        refuse_stand_in(path)
        raise CrossFlowError(f"There is no file {path}: give the path of a checkpoint.")
    refuse_stand_in(path)
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
