"""Image files and the captions that go with them, read strictly: what cannot be read exactly is refused by name."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image, ImageFile

from crossflow.errors import CrossFlowError, first_few

FORMATS = {"BMP": (".bmp",), "JPEG": (".jpeg", ".jpg"), "PNG": (".png",), "WEBP": (".webp",)}
"""What is read, by content; the name may end in anything."""
SUFFIXES = tuple(suffix for several in FORMATS.values() for suffix in several)
PNG_END = b"IEND\xaeB`\x82"


def read_image(path: Path) -> Image.Image:
    """Read a BMP, JPEG, PNG or WebP file as an RGB image.

    Grey, palette and opaque images become RGB exactly. CrossFlowError for what does not: transparent pixels (what lies
    behind is not known), CMYK (its RGB depends on a profile), more than 8 bits a channel, several frames; and for
    files that are missing, empty, cut short or no image. Orientation tags and colour profiles are not applied.
    """
    try:
        return _decoded(path.read_bytes())
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, CrossFlowError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = f"not a {', '.join(FORMATS)} file"
        raise CrossFlowError(f"The image {path} cannot be read ({reason}): convert it to 8-bit RGB PNG.") from error


def _decoded(content: bytes) -> Image.Image:
    if not content:
        raise CrossFlowError("zero bytes")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise CrossFlowError("Pillow was told elsewhere in this process to accept truncated images")
    with Image.open(io.BytesIO(content), formats=tuple(FORMATS)) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise CrossFlowError("several frames")
        if image.format == "PNG" and content[24] > 8:  # the header's bit depth; Pillow would round
            raise CrossFlowError(f"{content[24]} bits a channel")
        if image.format == "PNG" and PNG_END not in content:  # Pillow does not miss it
            raise CrossFlowError("truncated")
        image.load()
        if "transparency" in image.info and image.mode in ("1", "L", "P", "RGB"):
            image = image.convert("RGBA")
        if image.mode in ("LA", "PA", "RGBA"):
            if image.getchannel("A").getextrema() != (255, 255):
                raise CrossFlowError("transparent pixels")
        elif image.mode not in ("1", "L", "P", "RGB"):
            raise CrossFlowError(f"colour mode {image.mode}")
        return image.convert("RGB")


Row = tuple[str, Any, Any]
"""A place in a captions file, and the image and the caption that stand there, whatever they are."""


class Pair(NamedTuple):
    """An image, as its path below the folder with forward slashes, and one of its captions."""

    image: str
    caption: str


def read_pairs(folder: Path, captions: Path | None) -> list[Pair]:
    """The captioned images below ``folder``, sorted by path; those of one image stay in the order of their file.

    ``captions`` is a .jsonl or .csv file with ``image`` and ``caption``, or a COCO captions .json; images that it does
    not name are left out. None takes the captions from ``<image's name>.txt`` beside each image, one a line.
    Paths may have the backslashes of Windows. CrossFlowError for a file that is missing or of another form, with its
    line; for a caption without its image, or, with None, an image without its captions.
    """
    if not folder.is_dir():
        raise CrossFlowError(f"There is no folder {folder}: give the folder that holds the images.")
    files = {Path(place, name).relative_to(folder).as_posix() for place, _, names in os.walk(folder) for name in names}
    images = sorted(name for name in files if name.lower().endswith(SUFFIXES))
    if captions is None and not images:
        raise CrossFlowError(f"The folder {folder} holds no image ({', '.join(SUFFIXES)}): give another one.")
    found = list(_beside(folder, images, files) if captions is None else _listed(captions))
    found = [pair if pair.image in files else pair._replace(image=pair.image.replace("\\", "/")) for pair in found]
    missing = sorted({pair.image for pair in found} - files)
    if missing:
        raise CrossFlowError(
            f"{len(missing)} images of {captions} are not below {folder} ({first_few(missing)}): "
            "write their paths as seen from that folder."
        )
    return sorted(found, key=lambda pair: pair.image)


def _beside(folder: Path, images: Iterable[str], files: set[str]) -> Iterator[Pair]:
    for image in images:
        name = PurePosixPath(image).with_suffix(".txt").as_posix()
        if name not in files:
            raise CrossFlowError(f"The image {folder / image} has no captions: write them into {folder / name}.")
        yield from _pairs(folder / name, ((place, image, line) for place, line in _lines(folder / name)))


def _listed(path: Path) -> Iterator[Pair]:
    rows = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".json": _coco_rows}.get(path.suffix.lower())
    if rows is None:
        raise CrossFlowError(f"The captions {path} must end in .jsonl, .csv or .json (COCO), not in '{path.suffix}'.")
    return _pairs(path, rows(path))


def _pairs(path: Path, rows: Iterable[Row]) -> Iterator[Pair]:
    """The pairs of a file; CrossFlowError for a row that is no pair, and where there is none at all."""
    place = ""
    for place, image, caption in rows:
        pair = Pair(_stripped(image), _stripped(caption))
        if not all(pair):
            raise CrossFlowError(f"{path}, {place}: expected an image and a caption, both text and not empty.")
        yield pair
    if not place:
        raise CrossFlowError(f"{path} holds no captions: write at least one.")


def _stripped(value: Any) -> str:
    """Text without the space around it; empty for anything else, and for text that UTF-8 cannot hold."""
    text = value.strip() if isinstance(value, str) else ""
    return text if text == text.encode(errors="ignore").decode() else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise CrossFlowError(f"The captions {path} cannot be read ({reason}): give a text file.") from error


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Each line that is not blank, and its place."""
    lines = enumerate(_text(path).split("\n"), start=1)
    return ((f"line {number}", line) for number, line in lines if line.strip())


def _csv_rows(path: Path) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        for row in reader:
            yield f"line {reader.line_num}", row.get("image"), None if None in row else row.get("caption")
    except csv.Error as error:
        raise CrossFlowError(f"{path}, line {reader.line_num}: it is not CSV ({error}).") from error


def _jsonl_rows(path: Path) -> Iterator[Row]:
    for place, line in _lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CrossFlowError(f"{path}, {place}: it is not JSON.") from error
        yield (place, row.get("image"), row.get("caption")) if isinstance(row, dict) else (place, None, None)


def _coco_rows(path: Path) -> Iterator[Row]:
    try:
        record = json.loads(_text(path))
        names = {image["id"]: image["file_name"] for image in record["images"]}
        for number, each in enumerate(record["annotations"], start=1):
            yield f"annotation {number}", names[each["image_id"]], each["caption"]
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise CrossFlowError(
            f"{path} is no COCO captions file ({type(error).__name__}: {error}): it needs 'images' with 'id' and "
            "'file_name', and 'annotations' with 'image_id' and 'caption'."
        ) from error
