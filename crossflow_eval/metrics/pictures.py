"""Images to be measured, one after the other: those of a folder, or of an ADM file. Memory does not grow with them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow.files.hashes import file_sha256
from crossflow.files.images import UnreadableImage, why_unreadable
from crossflow.files.listing import list_folder
from crossflow.files.processes import file_threads
from crossflow_eval.datasets import on_disk
from crossflow_eval.datasets.folder import ImageFolder, decode_image, read_folder
from crossflow_eval.judges.statistics_files import read_samples

_AT_A_TIME = 64


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """``n`` images: ``each`` gives them anew, uint8 [h w 3]. ``record`` says what they are, as plain JSON.

    ``left`` is a sentence on the files of a folder that are not read, empty where there are none.
    """

    n: int
    each: Callable[[], Iterator[np.ndarray]]
    record: Mapping[str, Any]
    left: str = ""


def open_pictures(path: Path) -> Pictures:
    """The images of a folder and its subfolders, by name, of a Hugging Face dataset, or of an ADM file (``arr_0``).

    Each image of a folder is decoded once before any work, and again as it is given.

    Raises CrossFlowError: what ``read_folder`` and ``read_samples`` refuse; and, as images are given, a folder whose
    images are no longer those that were found.
    """
    if path.suffix == ".npz":
        n, _ = read_samples(path)
        record = {"file": path.name, "sha256": file_sha256(path), "count": n}
        return Pictures(n=n, each=lambda: read_samples(path)[1], record=record)
    if on_disk.is_dataset(path):
        images = on_disk.Images(path)
        return Pictures(n=images.n, each=images.each, record=images.record)
    folder = read_folder(path, by="path", say=False)
    kinds = dict(Counter(folder.formats.values()))
    return Pictures(
        n=len(folder.files),
        each=lambda: _each(path, folder),
        record={"folder": path.resolve().name, "sha256": folder.sha256, "count": kinds},
        left=list_folder(path).left(),
    )


def _each(path: Path, folder: ImageFolder) -> Iterator[np.ndarray]:
    digest = hashlib.sha256()
    files = list(folder.files.items())
    with file_threads() as pool:
        for start in range(0, len(files), _AT_A_TIME):
            part = files[start : start + _AT_A_TIME]
            for (key, _), (sha256, image) in zip(part, pool.map(_decoded, [file for _, file in part]), strict=True):
                digest.update(f"{key}\0{sha256}\n".encode())
                yield image
    if digest.hexdigest() != folder.sha256 or list_folder(path).by_path().keys() != folder.files.keys():
        raise CrossFlowError(f"The images in {path} changed while they were read; measure again when they are still.")


def _decoded(path: Path) -> tuple[str, np.ndarray]:
    """The sha256 of a file, and its image."""
    try:
        content = path.read_bytes()
        return hashlib.sha256(content).hexdigest(), decode_image(content)[0]
    except (OSError, UnreadableImage) as error:
        raise CrossFlowError(
            f"{path} changed while it was read ({why_unreadable(error)}); measure again when its folder is still."
        ) from error
