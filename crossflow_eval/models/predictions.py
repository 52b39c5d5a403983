"""Captions that some system predicted, read from one file: COCO's results format, or JSON lines.

A ``.json`` file is a list of ``{"image_id": 391895, "caption": "…"}``; a ``.jsonl`` file has ``{"id": "391895",
"caption": "…"}`` on each line, or ``image`` in the place of ``id``; either may be a file's name, of which folder and
suffix are left out, as of references. Other keys are left alone. A caption is kept as it stands, and may be empty.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from crossflow.errors import CrossFlowError, first_few
from crossflow.files.plain_json import OR_LINES, read_json, read_json_lines
from crossflow.files.texts import read_text
from crossflow_eval.datasets.folder import image_key
from crossflow_eval.types import Example

KEYS = {".json": ("image_id",), ".jsonl": ("id", "image")}
"""The kinds of file, and what each calls an image."""


def read_predictions(path: Path) -> dict[str, str]:
    """The captions by image id, in the file's order.

    Raises:
        CrossFlowError: a file that is missing, of another kind or damaged, an entry without an id or a caption of valid
            unicode, an id that comes twice; with the entry's place.
    """
    keys = KEYS.get(path.suffix.lower())
    if keys is None:
        raise CrossFlowError(f"The predictions {path} must be a file .json (COCO results) or .jsonl (id, caption).")
    captions: dict[str, str] = {}
    for place, entry in _entries(path, read_text(path, "The predictions"), keys[0]):
        name, caption = _pair(entry, keys)
        if name is None or caption is None:
            wanted = " or ".join(map(repr, keys))
            raise CrossFlowError(
                f"{path}, {place}: expected an object with {wanted} and 'caption', got {_shown(entry)}."
            )
        name = image_key(name) if path.suffix.lower() == ".jsonl" else name
        if name in captions:
            raise CrossFlowError(f"{path}, {place}: a second caption for {name}; give one caption an image.")
        captions[name] = caption
    if not captions:
        raise CrossFlowError(f"{path} holds no captions.")
    return captions


class PredictedCaptions:
    """The captions of a file in a model's place, looked up by example id; see :func:`read_predictions`."""

    name = "folder"

    def __init__(self, file: Path) -> None:
        self.file, self.captions = file, read_predictions(file)
        content = json.dumps(self.captions, sort_keys=True)
        self.identity: Mapping[str, Any] = {
            "captions_sha256": hashlib.sha256(content.encode()).hexdigest(),
            "captions": len(self.captions),
        }

    def read(self, example_id: str, index: int) -> str:
        """Return the caption of an example. Raises CrossFlowError where there is none."""
        if index or example_id not in self.captions:
            raise CrossFlowError(f"{self.file} holds no caption {index} of {example_id}.")
        return self.captions[example_id]

    def check(self, needed: Sequence[Example], known: Sequence[Example], outputs_per_example: int) -> None:
        """Check that each needed example has its caption, and that every caption belongs to a ``known`` example.

        Raises:
            CrossFlowError: missing or foreign captions; counted, the first ones named.
        """
        missing = [example.id for example in needed if example.id not in self.captions]
        if missing:
            raise CrossFlowError(
                f"{len(missing)} of {len(needed)} captions are missing in {self.file}: {first_few(missing)}."
            )
        ids = {example.id for example in known}
        foreign = [name for name in self.captions if name not in ids]
        if foreign:
            raise CrossFlowError(
                f"{len(foreign)} of {len(self.captions)} captions in {self.file} belong to no example: "
                f"{first_few(foreign)}."
            )


def _entries(path: Path, text: str, key: str) -> Iterator[tuple[str, Any]]:
    """Each entry with its place, in words."""
    if path.suffix.lower() == ".jsonl":
        yield from read_json_lines(text, str(path))
        return
    record = read_json(text, str(path), OR_LINES)
    if not isinstance(record, list):
        raise CrossFlowError(f"{path} holds {_shown(record)}; expected COCO results, a list of {key!r} with 'caption'.")
    for number, entry in enumerate(record, start=1):
        yield f"entry {number}", entry


def _pair(entry: Any, keys: Sequence[str]) -> tuple[str | None, str | None]:
    """The id and the caption of an entry, each None where it is missing or of another kind."""
    if not isinstance(entry, dict):
        return None, None
    given = [entry[key] for key in keys if key in entry]
    name, caption = given[0] if len(given) == 1 else None, entry.get("caption")
    is_id = isinstance(name, (str, int)) and not isinstance(name, bool)
    return str(name) if is_id else None, caption if isinstance(caption, str) else None


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
