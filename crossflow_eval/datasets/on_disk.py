"""A Hugging Face dataset that ``save_to_disk`` wrote, in the place of a folder of images or of a captions file.

Its columns are called as those of captions files are: ``image``, and ``caption`` or ``prompt``, or ``captions``, whose
cells are lists. A row is called by its column ``id`` or ``file``, else by its number. Reading needs ``datasets``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow.files.images import UnreadableImage, why_unreadable
from crossflow_eval.datasets.folder import decode_image

NAMES, TEXTS, IMAGE = ("id", "file"), ("caption", "prompt", "captions"), "image"
"""The columns that are read."""


def is_dataset(path: Path) -> bool:
    """Whether a folder is one that ``save_to_disk`` wrote."""
    return any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))


def texts(path: Path) -> list[tuple[str, tuple[str, ...]]]:
    """The texts of every row, by the row's name, in their order.

    Raises CrossFlowError for a dataset that cannot be read, and rows without text.
    """
    rows = _opened(path)
    column = _column(path, rows, TEXTS)
    found: list[tuple[str, tuple[str, ...]]] = []
    for name, cell in zip(_names(rows), rows[column], strict=True):
        several = tuple(cell) if isinstance(cell, list) else (cell,)
        if not several or not all(isinstance(each, str) and each.strip() for each in several):
            raise CrossFlowError(f"{path}, row {name}: expected text in the column {column!r}, got {cell!r:.80}.")
        found.append((name, tuple(each.strip() for each in several)))
    return found


class Images:
    """The images of a dataset, decoded as they are asked for. Raises CrossFlowError for a dataset without any."""

    def __init__(self, path: Path) -> None:
        from datasets import Image

        rows = _opened(path)
        column = _column(path, rows, (IMAGE,))
        if not isinstance(rows.features[column], Image):
            raise CrossFlowError(f"{path}: the column {column!r} holds no images but {rows.features[column]!r:.80}.")
        self._path, self._rows, self._column = path, rows.cast_column(column, Image(decode=False)), column
        self.n = len(rows)
        digest, kinds = hashlib.sha256(), Counter[str]()
        for content in self._contents():
            digest.update(hashlib.sha256(content).digest())
            kinds[self._decoded(content)[1]] += 1
        self.record: Mapping[str, Any] = {
            "dataset": path.resolve().name,
            "sha256": digest.hexdigest(),
            "count": dict(kinds),
        }

    def each(self) -> Iterator[np.ndarray]:
        """The images, uint8 [h w 3], in their order."""
        return (self._decoded(content)[0] for content in self._contents())

    def _contents(self) -> Iterator[bytes]:
        for number in range(self.n):
            cell = self._rows[number][self._column]
            content = cell and (
                cell["bytes"] or (cell["path"] and Path(cell["path"]).is_file() and Path(cell["path"]).read_bytes())
            )
            if not content:
                raise CrossFlowError(
                    f"{self._path}, row {number}: there is no image; save the dataset with its images."
                )
            yield content

    def _decoded(self, content: bytes) -> tuple[np.ndarray, str]:
        try:
            return decode_image(content)
        except (OSError, UnreadableImage) as error:
            raise CrossFlowError(
                f"An image in {self._path} cannot be read exactly ({why_unreadable(error)})."
            ) from error


def _opened(path: Path) -> Any:
    try:
        from datasets import DatasetDict, load_from_disk
    except ImportError as error:
        raise CrossFlowError(
            f"{path} is a Hugging Face dataset, which needs a package: pip install datasets."
        ) from error
    try:
        rows = load_from_disk(str(path))
    except Exception as error:  # whatever the formats it is made of raise
        why = " ".join(str(error).split())[:200]
        raise CrossFlowError(
            f"{path} does not load as a dataset ({type(error).__name__}: {why}); save it again."
        ) from error
    if isinstance(rows, DatasetDict):
        raise CrossFlowError(
            f"{path} holds several parts: give one of them, such as {path / str(next(iter(rows), 'test'))}."
        )
    if not len(rows):
        raise CrossFlowError(f"The dataset {path} has no rows.")
    return rows


def _column(path: Path, rows: Any, wanted: tuple[str, ...]) -> str:
    found = [name for name in wanted if name in rows.column_names]
    if len(found) != 1:
        raise CrossFlowError(
            f"{path} has the columns {', '.join(rows.column_names)}; expected one of {', '.join(wanted)}."
        )
    return found[0]


def _names(rows: Any) -> list[str]:
    column = next((name for name in NAMES if name in rows.column_names), None)
    return [f"{number:06d}" for number in range(len(rows))] if column is None else [str(name) for name in rows[column]]
