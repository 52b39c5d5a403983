"""Prompts and reference images of COCO 2014, of T2IBenchmark and of MJHQ-30K, read from the folders as published.

    annotations/captions_val2014.json, val2014/*.jpg      COCO 2014, as its two archives unpack
    MS-COCO_val2014_30k_captions.csv                      T2IBenchmark's prompts: image_id, text
    meta_data.json, mjhq30k_imgs/<category>/<name>.jpg    MJHQ-30K

Prompts are drawn by hashes of their ids: the same on every machine, in every version and for any number of processes,
and a smaller draw is the beginning of a larger one.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from crossflow.errors import CrossFlowError, first_few
from crossflow.files.images import DAMAGE
from crossflow.files.plain_json import read_json_file
from crossflow_eval.types import Example

ANNOTATIONS, IMAGES = "annotations/captions_val2014.json", "val2014"
CAPTIONS_CSV = "MS-COCO_val2014_30k_captions.csv"
MJHQ_PROMPTS, MJHQ_IMAGES = "meta_data.json", "mjhq30k_imgs"
COCO_ORIGIN = "unpack annotations_trainval2014.zip of images.cocodataset.org into the data root"
T2IBENCHMARK_ORIGIN = "fetch it from github.com/boomb0om/text2image-benchmark, release v0.0.1"
MJHQ_ORIGIN = "fetch it from huggingface.co/datasets/playgroundai/MJHQ-30K"
SEED = 1234
"""Of all draws; the one that CrossFlow's and U-ViT's evaluations set."""


@dataclass(frozen=True, kw_only=True)
class CocoImage:
    """An image of COCO with its captions as people wrote them, each with its id, in the order of the ids."""

    id: int
    file: str
    captions: tuple[tuple[int, str], ...]


def read_val2014(root: Path) -> list[CocoImage]:
    """The images of COCO's validation set of 2014, in the order of their ids. Raises CrossFlowError."""
    path = root / ANNOTATIONS
    record = read_json_file(path, COCO_ORIGIN)
    try:
        files = {int(each["id"]): str(each["file_name"]) for each in record["images"]}
        captions: dict[int, list[tuple[int, str]]] = {number: [] for number in files}
        for each in record["annotations"]:
            captions[each["image_id"]].append((int(each["id"]), str(each["caption"])))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CrossFlowError(f"{path} is not a COCO captions file ({error!r}); {COCO_ORIGIN}.") from error
    return [CocoImage(id=each, file=files[each], captions=tuple(sorted(captions[each]))) for each in sorted(files)]


def one_caption_an_image(root: Path, n: int, after: int = 0) -> list[Example]:
    """``n`` images, each at most once, with one of its captions: U-ViT's and CrossFlow's draw. The id is the image's.

    They are those drawn ``after`` so many others. Raises CrossFlowError for a file that cannot be read or has fewer.
    """
    images = [image for image in read_val2014(root) if image.captions]
    chosen = _draw(root / ANNOTATIONS, [(image.id, image) for image in images], after + n, "images with captions")
    chosen = chosen[after:]
    drawn = [(image, image.captions[lot("caption", image.id) % len(image.captions)]) for image in chosen]
    return [
        Example(id=str(image.id), source=caption, tags={"caption": str(number)}) for image, (number, caption) in drawn
    ]


def any_captions(root: Path, n: int) -> list[Example]:
    """``n`` of all captions, so that an image may come twice. The id is the caption's. Raises CrossFlowError."""
    captions = [(number, image, caption) for image in read_val2014(root) for number, caption in image.captions]
    chosen = _draw(root / ANNOTATIONS, [(each[0], each) for each in captions], n, "captions")
    return [Example(id=str(number), source=caption, tags={"image": str(image.id)}) for number, image, caption in chosen]


def t2ibenchmark_captions(root: Path, n: int) -> list[Example]:
    """The ``n`` published prompts of T2IBenchmark, in their order. The id is the image's. Raises CrossFlowError."""
    path = root / CAPTIONS_CSV
    try:
        with path.open(encoding="utf-8", newline="") as file:
            captions = {str(int(row["image_id"])): row["text"] for row in csv.DictReader(file)}
    except OSError as error:
        raise CrossFlowError(f"Cannot read {path}: {error.strerror}; {T2IBENCHMARK_ORIGIN}.") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise CrossFlowError(f"{path} does not hold image_id and text ({error!r}); {T2IBENCHMARK_ORIGIN}.") from error
    if None in captions.values():  # a row that is cut short
        raise CrossFlowError(f"{path} has rows without a text; {T2IBENCHMARK_ORIGIN}.")
    _refuse_other(path, len(captions), n, T2IBENCHMARK_ORIGIN)
    return [Example(id=number, source=caption) for number, caption in captions.items()]


def mjhq_prompts(root: Path, n: int) -> list[Example]:
    """The ``n`` prompts of MJHQ-30K, in their order, tagged with their categories. Raises CrossFlowError."""
    known = _read_mjhq(root)
    _refuse_other(root / MJHQ_PROMPTS, len(known), n, MJHQ_ORIGIN)
    return [Example(id=name, source=prompt, tags={"category": kind}) for name, (kind, prompt) in known.items()]


def val2014_images(root: Path) -> list[Path]:
    """The files of COCO's whole validation set of 2014. Raises CrossFlowError for those that are not there."""
    return _all_there([root / IMAGES / image.file for image in read_val2014(root)], root / IMAGES, "val2014.zip")


def mjhq_images(root: Path) -> list[Path]:
    """The files of MJHQ-30K's images. Raises CrossFlowError for those that are not there."""
    files = [root / MJHQ_IMAGES / kind / f"{name}.jpg" for name, (kind, _) in _read_mjhq(root).items()]
    return _all_there(files, root / MJHQ_IMAGES, "mjhq30k_imgs.zip")


def read_photograph(path: Path) -> np.ndarray:
    """An image as uint8 RGB [h w 3], of whatever colours its file has: as the published references read theirs.

    Raises CrossFlowError where it is missing or damaged.
    """
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except DAMAGE as error:
        raise CrossFlowError(f"Cannot read the image {path} ({error}); unpack its archive again.") from error


def central_square(image: np.ndarray, side: int, resampling: Image.Resampling) -> np.ndarray:
    """The largest square in the middle of a uint8 image [h w 3], as [side side 3] by Pillow."""
    height, width = image.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    square = Image.fromarray(image[top : top + short, left : left + short])
    return np.array(square.resize((side, side), resampling))


def lot(what: str, number: int) -> int:
    """The number drawn for an id: 64 bits of sha256."""
    return int.from_bytes(hashlib.sha256(f"{SEED}\0{what}\0{number}".encode()).digest()[:8], "big")


def _draw(path: Path, items: Sequence[tuple[int, Any]], n: int, what: str) -> list[Any]:
    """``n`` of ``items``, each given with its id, in the order of their lots."""
    if len(items) < n:
        raise CrossFlowError(f"{path} holds {len(items)} {what}, {n} are to be drawn; {COCO_ORIGIN}.")
    return [item for _, item in sorted(items, key=lambda each: lot("place", each[0]))[:n]]


def _refuse_other(path: Path, found: int, n: int, origin: str) -> None:
    if found != n:
        raise CrossFlowError(f"{path} holds {found} prompts, expected {n}; {origin}.")


def _read_mjhq(root: Path) -> dict[str, tuple[str, str]]:
    """The category and the prompt of every image of MJHQ-30K by its name."""
    path = root / MJHQ_PROMPTS
    record = read_json_file(path, MJHQ_ORIGIN)
    try:
        return {name: (str(each["category"]), str(each["prompt"])) for name, each in record.items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise CrossFlowError(f"{path} is not MJHQ-30K's ({error!r}); {MJHQ_ORIGIN}.") from error


def _all_there(files: Sequence[Path], folder: Path, archive: str) -> list[Path]:
    if away := [str(file) for file in files if not Path(normpath(file)).is_relative_to(normpath(folder))]:
        raise CrossFlowError(f"{len(away)} of {len(files)} images are not in {folder}: {first_few(away)}.")
    there = {path for place in {file.parent for file in files} if place.is_dir() for path in place.iterdir()}
    if missing := [file.name for file in files if file not in there]:
        raise CrossFlowError(
            f"{len(missing)} of {len(files)} images are missing in {folder}: {first_few(missing)}; unpack "
            f"{archive} there."
        )
    return list(files)
