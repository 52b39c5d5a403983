"""Reference captions of one's own: COCO's captions JSON, or JSON lines."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossflow.errors import CrossFlowError
from crossflow.files.captions import read_captions
from crossflow.files.plain_json import read_json_file
from crossflow_eval.datasets import on_disk
from crossflow_eval.datasets.folder import by_key, captioned, image_key
from crossflow_eval.datasets.folder import read_captions as read_file
from crossflow_eval.types import Example

_log = logging.getLogger(__name__)


def read_references(path: Path) -> list[Example]:
    """One example an image, in the file's order; its target is the list of its captions.

    Of a COCO ``.json`` the id is the image's number, as results name it; of a ``.jsonl`` (``id`` or ``image``, and
    ``caption``, a line a caption) it is the id, or the image's name without folder and suffix. The source is the path
    of the image where it lies beside the file, which a model needs to see it; else its name. A folder may be a Hugging
    Face dataset (``on_disk``), or images with their captions (``captioned``), which may have several.

    Images of a COCO file without captions are left out, and counted in the log. Raises CrossFlowError for a file that
    is missing, of another kind or malformed, and for one in which two images have one name.
    """
    if on_disk.is_dataset(path):
        return [Example(id=key, source=key, target=list(several)) for key, several in read_file(path).of.items()]
    if path.is_dir():
        found = captioned(path)
        keys = by_key(path, found.items())
        places = {image_key(name): name for name in found}
        return [Example(id=key, source=path / places[key], target=list(several)) for key, several in keys.items()]
    suffix = path.suffix.lower()
    if suffix not in (".json", ".jsonl"):
        raise CrossFlowError(
            f"The references {path} must be a file .json (COCO captions) or .jsonl (id, caption), or a folder of "
            "images with their captions."
        )
    if suffix == ".jsonl":
        pairs = list(read_captions(path, ("id", "image")))
        places = {image_key(name): name for name, _ in reversed(pairs)}
        found = by_key(path, ((name, (caption,)) for name, caption in pairs))
        return [_example(path, key, places[key], several) for key, several in found.items()]
    ids = _coco_ids(path)
    captions: dict[str, list[str]] = {file: [] for file in ids}
    for file, caption in read_captions(path):
        captions[file].append(caption)
    if bare := [file for file, several in captions.items() if not several]:
        _log.warning("%d of %d images in %s have no captions and are left out.", len(bare), len(captions), path)
    return [_example(path, ids[file], file, several) for file, several in captions.items() if several]


def _example(path: Path, key: str, name: str, captions: Sequence[str]) -> Example:
    return Example(id=key, source=_beside(path, name), target=list(captions))


def _coco_ids(path: Path) -> dict[str, str]:
    """The numbers of the images by their files' names. CrossFlowError where two images share one."""
    record: Any = read_json_file(path, "give a COCO captions file")
    try:
        pairs = [(str(each["file_name"]).strip(), str(each["id"])) for each in record["images"]]
    except (KeyError, TypeError) as error:
        raise CrossFlowError(
            f"{path} is not a COCO captions file ({error!r}): it needs 'images' with 'id' and 'file_name', and "
            "'annotations' with 'image_id' and 'caption'."
        ) from error
    if len(ids := dict(pairs)) < len(pairs):
        raise CrossFlowError(f"{len(pairs) - len(ids)} images in {path} share their file_name; give each its own.")
    return ids


def _beside(path: Path, name: str) -> str | Path:
    image = path.parent / name
    return image if image.is_file() else name
