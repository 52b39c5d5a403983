"""Files of feature statistics: the mean and the covariance of a reference, as every FID implementation keeps them.

    mu [d], sigma [d d]          clean-fid, pytorch-fid, U-ViT and CrossFlow, T2IBenchmark
    + mu_s, sigma_s, arr_0       guided-diffusion (ADM): those of sFID, and uint8 images [n h w 3]

A covariance has the divisor n - 1. The formats say neither n nor how features were made; ours keep both beside the
file, in a JSON of the same name, bound to it by its sha256.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow.files.arrays import MOST, plain_arrays
from crossflow.files.hashes import file_sha256
from crossflow.files.plain_json import read_json_file
from crossflow.files.writing import write_whole

KEYS = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
"""The keys of mean and covariance, by the tap of the network."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Float64 mean [d] and covariance [d d] of n features. ``n`` is None where nobody knows.

    ``protocol`` is the fingerprint of how the features were made, with at least ``protocol``, its name; ``origin``
    says in plain JSON what the file is, and whether its protocol is recorded or only said.
    """

    mean: np.ndarray
    covariance: np.ndarray
    n: int | None
    protocol: Mapping[str, Any]
    origin: Mapping[str, Any]


def read_statistics(path: Path, protocol: str | None = None, *, tap: str = "pool") -> Statistics:
    """Read the statistics of one tap. Without a JSON beside the file ``protocol`` must say how they were made.

    Raises:
        CrossFlowError: no such file, not one of the formats, numbers of a wrong shape or not finite, a JSON that is not
            of this file or of another ``protocol``, neither JSON nor ``protocol``.
    """
    mean, covariance = _read_arrays(path, *KEYS[tap])
    if mean.ndim != 1 or covariance.shape != (mean.size, mean.size):
        raise CrossFlowError(
            f"{path} holds a mean {list(mean.shape)} and a covariance {list(covariance.shape)}; expected "
            "[d] and [d d]. Make the file again."
        )
    if bad := int((~np.isfinite(mean)).sum() + (~np.isfinite(covariance)).sum()):
        raise CrossFlowError(f"{bad} numbers in {path} are not finite; make the file again.")
    sha256 = file_sha256(path)
    record = _read_provenance(path, sha256)
    if record is None and protocol is None:
        raise CrossFlowError(
            f"{path} does not say how its features were made; say it, as in `crossflow-eval fid IMAGES {path.name} "
            "--protocol clean`."
        )
    made = {"protocol": protocol} if record is None else record["protocol"]
    if protocol not in (None, made["protocol"]):
        raise CrossFlowError(f"{path} was made under the protocol {made['protocol']!r}, not {protocol!r}.")
    said = "said by the user; the file records neither it nor n" if record is None else "recorded beside the file"
    said += f", in {precision}" if (precision := made.get("precision", "float32")) != "float32" else ""
    return Statistics(
        mean=mean,
        covariance=covariance,
        n=record["n"] if record else None,
        protocol=made,
        origin={"file": path.name, "sha256": sha256, "protocol": f"{made['protocol']} ({said})"},
    )


def _read_arrays(path: Path, *keys: str) -> list[np.ndarray]:
    found = plain_arrays(path, "statistics", keys)
    if missing := [key for key in keys if key not in found]:
        raise CrossFlowError(f"{path} holds no {missing[0]}; make statistics of images with `stats`.")
    if odd := [key for key in keys if found[key].dtype.kind not in "biuf"]:
        raise CrossFlowError(f"{odd[0]} in {path} is {found[odd[0]].dtype}, no numbers; make the file again.")
    return [found[key].astype(np.float64) for key in keys]


def _read_provenance(path: Path, sha256: str) -> dict[str, Any] | None:
    beside = path.with_suffix(".json")
    if not beside.exists():
        return None
    try:
        record = read_json_file(beside)
        found, name, n = record["sha256"], record["protocol"]["protocol"], record["n"]
        weights = record["protocol"].get("weights_sha256", "")
    except (CrossFlowError, AttributeError, KeyError, TypeError) as error:
        raise CrossFlowError(f"{beside} does not record how {path.name} was made ({error!r}); move it away.") from error
    if found != sha256 or not (isinstance(name, str) and isinstance(n, int) and isinstance(weights, str)):
        raise CrossFlowError(
            f"{beside} records how another file was made than {path}; move it away, or make both again."
        )
    return record


def check_name(path: Path) -> None:
    """Raise CrossFlowError where statistics cannot be called so."""
    if path.suffix != ".npz":
        raise CrossFlowError(f"Statistics are kept as .npz; give {path.with_suffix('.npz')} instead of {path}.")


def write_statistics(
    path: Path, statistics: Mapping[str, tuple[np.ndarray, np.ndarray]], provenance: Mapping[str, Any]
) -> None:
    """Write mean and covariance of each tap, float64, and beside them the JSON ``provenance`` with the file's sha256.

    ``{"pool": ...}`` is read by every tool named above, ``{"pool": ..., "spatial": ...}`` by ADM's evaluator too.
    ``provenance`` holds ``n`` and ``protocol``. Raises CrossFlowError.
    """
    check_name(path)
    arrays = {key: array for tap, pair in statistics.items() for key, array in zip(KEYS[tap], pair, strict=True)}
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # pyright: ignore[reportArgumentType]
    content = stream.getvalue()
    record = {**provenance, "sha256": hashlib.sha256(content).hexdigest()}
    write_whole(path, content, writer=os.getpid())
    write_whole(
        path.with_suffix(".json"), (json.dumps(record, indent=2, allow_nan=False) + "\n").encode(), writer=os.getpid()
    )


def read_samples(path: Path) -> tuple[int, Iterator[np.ndarray]]:
    """The images ``arr_0`` of an ADM file: how many, and each, uint8 [h w 3], one at a time from the disk.

    Raises:
        CrossFlowError: no such file or array, or an array that is not uint8 [n h w 3].
    """
    with _arr_0(path) as file:
        shape, kind = _header(file)
    if kind != np.uint8 or len(shape) != 4 or shape[3] != 3 or min(shape) < 1 or math.prod(shape[1:]) > MOST:
        raise CrossFlowError(f"arr_0 of {path} is {kind} {list(shape)}; expected images, uint8 [n h w 3].")
    return shape[0], _each(path)


@contextmanager
def _arr_0(path: Path) -> Iterator[Any]:
    """The open member of an .npz file; CrossFlowError for whatever is wrong with it."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as file:
            yield file
    except (CrossFlowError, GeneratorExit):
        raise
    except OSError as error:
        raise CrossFlowError(f"Cannot read the images {path}: {error.strerror or 'it is damaged'}.") from error
    except Exception as error:  # zipfile, zlib and numpy's header parser document no list of what damaged bytes raise
        why = " ".join(str(error).split()) or type(error).__name__
        raise CrossFlowError(f"{path} is not an .npz file with images in 'arr_0' ({why}).") from error


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, kind = read(file)
    if fortran:
        raise ValueError("its axes are in Fortran's order")
    return shape, kind


def _each(path: Path) -> Iterator[np.ndarray]:
    with _arr_0(path) as file:
        (n, *shape), _ = _header(file)
        for index in range(n):
            content = file.read(math.prod(shape))
            if len(content) < math.prod(shape):
                raise CrossFlowError(f"{path} ends within image {index} of {n}; make it again.")
            yield np.frombuffer(content, dtype=np.uint8).reshape(shape)
