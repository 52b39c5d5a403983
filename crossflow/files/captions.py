"""Captions of images, read strictly from one file or from text files beside the images."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from crossflow.errors import CrossFlowError, first_few
from crossflow.files.karpathy import ARCHIVE, MEMBER, TRAINING, read_split
from crossflow.files.listing import Listing, list_folder
from crossflow.files.names import composed
from crossflow.files.plain_json import OR_LINES, read_json, read_json_lines
from crossflow.files.texts import lines, read_text

Row = tuple[str, Any, Any]
"""A location in a captions file, and the image and caption found there, not yet checked."""


TEXTS = ("caption", "prompt")
"""The column of captions, and what ``crossflow sample`` calls it in ``samples.jsonl``."""
KEYS = ("image", "file", "id")
"""The columns that may name an image, or its caption, where no folder of images is read."""
HUGGING_FACE = ("file_name", "text")
"""The columns of image and caption in the ``metadata.csv`` or ``.jsonl`` of a Hugging Face image folder."""
TABLES = (".csv", ".jsonl", ".json")
"""The suffixes of files in which captions stand beside their images."""
TABLE_NAMES = tuple(f"{stem}{suffix}" for stem in ("captions", "metadata") for suffix in TABLES)
"""The files at the top of a folder of images that may hold all their captions."""


class Pair(NamedTuple):
    """An image, as its path relative to the folder with forward slashes, and one of its captions."""

    image: str
    caption: str


def read_pairs(folder: Path, captions: Path | None, say: Callable[[str], None] = lambda line: None) -> list[Pair]:
    """The captioned images below ``folder``, sorted by path; the captions of one image keep their order in the file.

    ``captions`` is a file that ``read_training`` reads; images that it does not name are left out. With None, captions
    come from ``<image's name>.txt`` beside each image, one per line. Paths may have backslashes and any Unicode form.
    ``say`` is told what is left out. CrossFlowError for a file that is missing or malformed, with its line; for a
    caption whose image is missing; and, with None, for an image without captions or of a kind that is not read.
    """
    listing = list_folder(folder)
    found = _beside(listing.all_read()) if captions is None else _listed(listing, captions)
    left = [listing.left({_text_of(name) for name in listing.read} if captions is None else ())]
    if bare := sorted(listing.read.keys() - {pair.image for pair in found}):
        left.append(f"{len(bare)} images in {folder} have no caption and are left out: {first_few(bare, 3)}.")
    for line in filter(None, left):
        say(line)
    files = listing.read | listing.others
    placed = (pair._replace(image=files[pair.image].relative_to(folder).as_posix()) for pair in found)
    return sorted(placed, key=lambda pair: pair.image)


def captions_in(folder: Path) -> dict[str, tuple[str, ...]]:
    """The captions of the images below ``folder`` that have some, by their names there.

    They are those of the one file of ``TABLE_NAMES`` in it or, without one, the lines of ``NAME.txt`` beside each
    image. CrossFlowError as ``read_pairs``, and for several such files.
    """
    listing = list_folder(folder)
    tables = [folder / name for name in TABLE_NAMES if name in listing.others]
    if len(tables) > 1:
        raise CrossFlowError(
            f"{folder} holds several files of captions ({first_few([path.name for path in tables])}); keep one of them."
        )
    if not tables:
        texts = {name: listing.others.get(_text_of(name)) for name in listing.read}
        own = {name: read_lines(path) for name, path in texts.items() if path is not None}
        return {name: captions for name, captions in own.items() if captions}
    found: dict[str, tuple[str, ...]] = {}
    for pair in _listed(listing, tables[0]):
        found[pair.image] = (*found.get(pair.image, ()), pair.caption)
    return found


def _beside(listing: Listing) -> list[Pair]:
    found = []
    for name, image in listing.read.items():
        text = listing.others.get(_text_of(name))
        if text is None:
            raise CrossFlowError(f"The image {image} has no captions: write them into {image.with_suffix('.txt')}.")
        found += _pairs(text, ((place, name, line) for place, line in _lines(text)))
    return found


def _text_of(image: str) -> str:
    return PurePosixPath(image).with_suffix(".txt").as_posix()


def _listed(listing: Listing, captions: Path) -> list[Pair]:
    """The pairs of a captions file, each with the name of its image in the listing."""
    files, found = listing.read | listing.others, []
    for pair in read_training(captions):
        names = composed(pair.image), composed(pair.image.replace("\\", "/"))
        found.append(pair._replace(image=names[0] if names[0] in files else names[1]))
    missing = sorted({pair.image for pair in found} - files.keys())
    if any(name in listing.unread for name in missing):
        listing.all_read()
    if missing:
        raise CrossFlowError(
            f"{len(missing)} images of {captions} are not below {listing.folder} ({first_few(missing)}): "
            "write their paths as seen from that folder."
        )
    return found


def read_training(path: Path) -> Iterator[Pair]:
    """The images and captions to train on: those of ``read_captions``, or the training part of Karpathy's split.

    That is ``caption_datasets.zip`` or ``dataset_coco.json``; its images are ``train2014/...`` and ``val2014/...``.
    """
    if path.name not in (ARCHIVE, MEMBER):
        return read_captions(path)
    images = (each for each in read_split(path) if each.split in TRAINING)
    return _pairs(
        path,
        (
            (f"image {each.number}", f"{each.folder}/{each.file}", caption)
            for each in images
            for caption in each.captions
            if caption.strip()
        ),
    )


def read_captions(path: Path, columns: Sequence[str] = ("image",)) -> Iterator[Pair]:
    """The images and captions of a file, in its order; the suffix decides the format.

    ``.csv`` and ``.jsonl`` have ``caption``, or ``prompt`` as the ``samples.jsonl`` of ``crossflow sample``, and one
    exactly of the ``columns`` that may name the image; where there are none of these, ``file_name`` and ``text`` as
    Hugging Face has them. ``.json`` is in COCO's format. CrossFlowError for a file that is missing or malformed, with
    its line.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _pairs(path, _coco_rows(path))
    rows = {".csv": _csv_rows, ".jsonl": _jsonl_rows}.get(suffix)
    if rows is None:
        raise CrossFlowError(f"The captions {path} must end in .csv, .jsonl or .json (COCO), not in {suffix!r}.")
    return _pairs(path, rows(path, columns))


def read_prompts(path: Path) -> Iterator[Pair]:
    """The prompts of a text file, one a line, each with its number, from 000000, in an image's place.

    Blank lines are passed over. CrossFlowError for a file that cannot be read, or holds none.
    """
    return _pairs(path, ((place, f"{n:06d}", line) for n, (place, line) in enumerate(_lines(path))))


def read_lines(path: Path) -> tuple[str, ...]:
    """The lines of a UTF-8 text file, without blank ones. CrossFlowError for a file that cannot be read."""
    return lines(_text(path))


def _pairs(path: Path, rows: Iterable[Row]) -> Iterator[Pair]:
    """The pairs of a file; CrossFlowError for a row that is not a pair, and for a file without rows."""
    place = ""
    for place, image, caption in rows:
        pair = Pair(_stripped(image), _stripped(caption))
        if not all(pair):
            raise CrossFlowError(f"{path}, {place}: expected one image and one caption, both text and not empty.")
        yield pair
    if not place:
        raise CrossFlowError(f"{path} holds no captions: write at least one.")


def _stripped(value: Any) -> str:
    """Text without surrounding whitespace; empty for anything else, and for text that UTF-8 cannot encode."""
    text = value.strip() if isinstance(value, str) else ""
    return text if text == text.encode(errors="ignore").decode() else ""


def _text(path: Path) -> str:
    return read_text(path, "The captions")


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Each line that is not blank, after its location."""
    numbered = enumerate(_text(path).split("\n"), start=1)
    return ((f"line {number}", line) for number, line in numbered if line.strip())


def _columns(where: str, present: Iterable[str], columns: Sequence[str]) -> tuple[str, str]:
    """The columns of image and caption; CrossFlowError where there is not one of each."""
    present = list(present)
    image, text = HUGGING_FACE
    keys = [column for column in present if column in columns] or [each for each in present if each == image]
    texts = [column for column in present if column in TEXTS] or [each for each in present if each == text]
    if len(keys) != 1 or len(texts) != 1:
        one = f"exactly one of {', '.join(columns)}" if len(columns) > 1 else f"'{columns[0]}'"
        raise CrossFlowError(f"{where}: it has the columns {sorted(present)}, expected 'caption' and {one}.")
    return keys[0], texts[0]


def _csv_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        key, text = _columns(f"{path}, line 1", reader.fieldnames or (), columns)
        for row in reader:
            yield f"line {reader.line_num}", row.get(key), None if None in row else row[text]
    except csv.Error as error:
        raise CrossFlowError(f"{path}, line {reader.line_num}: it is not CSV ({error}).") from error


def _jsonl_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    for place, row in read_json_lines(_text(path), str(path)):
        if not isinstance(row, dict):
            raise CrossFlowError(f"{path}, {place}: expected an object with '{columns[0]}' and 'caption'.")
        key, text = _columns(f"{path}, {place}", row, columns)
        image = row[key]
        number = isinstance(image, int) and not isinstance(image, bool)
        yield place, str(image) if number else image, row[text]


def _coco_rows(path: Path) -> Iterator[Row]:
    record = read_json(_text(path), str(path), OR_LINES)
    try:
        names: dict[Any, Any] = {}
        for image in record["images"]:
            number, name = image["id"], image["file_name"]
            if names.setdefault(number, name) != name:
                raise CrossFlowError(f"{path} calls two images {number}, {names[number]} and {name}: number them anew.")
        for number, each in enumerate(record["annotations"], start=1):
            yield f"annotation {number}", names[each["image_id"]], each["caption"]
    except (LookupError, TypeError) as error:
        raise CrossFlowError(
            f"{path} is not a COCO captions file ({type(error).__name__}: {error}): it needs 'images' with 'id' and "
            "'file_name', and 'annotations' with 'image_id' and 'caption'."
        ) from error
