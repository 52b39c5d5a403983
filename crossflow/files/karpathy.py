"""A. Karpathy's split of COCO 2014 into images for training, validation and test of captions."""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from crossflow.errors import CrossFlowError
from crossflow.files.names import is_name
from crossflow.files.plain_json import read_json

ARCHIVE = "caption_datasets.zip"
MEMBER = "dataset_coco.json"
TRAINING = ("train", "restval")
"""The parts of the split that are trained on: 113,287 images."""
ORIGIN = f"fetch {ARCHIVE} of cs.stanford.edu/people/karpathy/deepimagesent"


class SplitImage(NamedTuple):
    """An image: its number in COCO, its file in ``folder`` (train2014 or val2014), its captions and its part."""

    number: int
    folder: str
    file: str
    split: str
    captions: tuple[str, ...]


def read_split(path: Path) -> list[SplitImage]:
    """The images of ``ARCHIVE``, or of ``MEMBER`` alone, in its order. Raises CrossFlowError."""
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                content = archive.read(MEMBER)
        else:
            content = path.read_bytes()
    except (OSError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise CrossFlowError(f"{path} cannot be read, or holds no {MEMBER} ({error}); {ORIGIN}.") from error
    record: Any = read_json(content, f"{path}, {MEMBER}" if path.suffix == ".zip" else str(path), ORIGIN)
    try:
        return list(_images(record["images"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CrossFlowError(f"{path} is not Karpathy's split of COCO ({error!r}); {ORIGIN}.") from error


def _images(listed: list[Any]) -> Iterator[SplitImage]:
    for each in listed:
        captions = tuple(str(sentence["raw"]) for sentence in each["sentences"])
        folder, file = str(each.get("filepath", "val2014")), str(each["filename"])
        if not (is_name(folder) and is_name(file)):
            raise ValueError(f"{folder}/{file} is no file of COCO")
        yield SplitImage(int(each["cocoid"]), folder, file, str(each["split"]), captions)
