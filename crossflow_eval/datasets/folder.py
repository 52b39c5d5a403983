"""Images of a folder and captions of a file, read strictly: what cannot be read exactly is refused by name.

Images are PNG, JPEG or WebP of any size. A file is decoded to uint8 RGB [h w 3], only by steps that lose nothing:

- grey, black-and-white and palette images become RGB exactly; an alpha channel that is opaque everywhere is dropped;
- refused: transparency (what lies behind is not known), CMYK (its RGB depends on a colour profile), more than 8 bits
  a channel (rounding), several frames, zero-byte, truncated or otherwise unreadable files;
- pixels are taken as stored: EXIF orientation and colour profiles are not applied, as in every FID implementation.

Captions are CSV or JSONL with one of the columns ``image``, ``file``, ``id`` and the column ``caption``, or a COCO
captions JSON (``images``, ``annotations``). Where an image has several captions, the file's first one is the prompt.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from crossflow.errors import CrossFlowError, first_few

_log = logging.getLogger(__name__)
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
OTHER_IMAGE_SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".jxl", ".tif", ".tiff")
PNG_END = b"IEND\xaeB`\x82"
KEY_COLUMNS = ("image", "file", "id")


class UnreadableImage(Exception):
    """One image cannot be decoded exactly. The message says why, without the file's name."""


@dataclass(frozen=True)
class Captions:
    """The prompts of a captions file: image key -> captions in the file's order. ``index`` marks a COCO JSON, which
    lists a whole data set of which a folder may hold a part."""

    of: Mapping[str, tuple[str, ...]]
    index: bool = False


@dataclass(frozen=True)
class ImageFolder:
    """The images of a folder, all decodable. ``files`` and ``formats`` go by key (the file's stem)."""

    files: Mapping[str, Path]
    formats: Mapping[str, str]
    sha256: str


def decode_image(content: bytes) -> tuple[np.ndarray, str]:
    """Decode an image file's bytes to uint8 RGB [h w 3] and its format ("PNG", "JPEG", "WEBP"), exactly.

    Raises:
        UnreadableImage: for everything the module's docstring lists as refused.
    """
    if not content:
        raise UnreadableImage("zero bytes")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise UnreadableImage("Pillow was told elsewhere in this process to accept truncated images")
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP")) as image:
            kind = "JPEG" if image.format == "MPO" else str(image.format)
            if getattr(image, "n_frames", 1) > 1:
                raise UnreadableImage(f"{getattr(image, 'n_frames', 1)} frames")
            if kind == "PNG" and content[24] > 8:  # the header's bit depth; Pillow would round silently
                raise UnreadableImage(f"{content[24]} bits a channel")
            if kind == "PNG" and PNG_END not in content:  # Pillow does not miss it
                raise UnreadableImage("truncated")
            image.load()
            return _to_rgb(image), kind
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UnreadableImage(_reason(error)) from error


def _to_rgb(image: Image.Image) -> np.ndarray:
    if "transparency" in image.info and image.mode in ("1", "L", "P", "RGB"):
        image = image.convert("RGBA")
    if image.mode in ("LA", "PA", "RGBA"):
        if np.asarray(image.getchannel("A")).min() < 255:
            raise UnreadableImage("transparent pixels")
    elif image.mode not in ("1", "L", "P", "RGB"):
        raise UnreadableImage(f"colour mode {image.mode}")
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a PNG, JPEG or WebP"
    text = " ".join(str(error).split()) or type(error).__name__
    return "truncated" if "truncat" in text.lower() else text


def read_image(path: Path) -> np.ndarray:
    """Read one image as uint8 RGB [h w 3]. Raises CrossFlowError with the file's name and the reason."""
    try:
        return decode_image(path.read_bytes())[0]
    except (OSError, UnreadableImage) as error:
        raise CrossFlowError(f"Cannot read the image {path}: {_cause(error)}.") from error


def _cause(error: Exception) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)


def read_folder(folder: Path) -> ImageFolder:
    """Find and check every image of a folder (not of its subfolders); other kinds of files are left alone.

    Every file is decoded once, so that all bad files are named before any work is done.

    Raises:
        CrossFlowError: no such folder, no images, two files with one stem, kinds of image that are not read, bad files.
    """
    paths = _image_paths(folder)
    with ThreadPoolExecutor() as pool:
        checked = list(pool.map(_check, paths))
    bad = [f"{path.name} ({found})" for path, (_, found, good) in zip(paths, checked, strict=True) if not good]
    if bad:
        raise CrossFlowError(
            f"{len(bad)} of {len(paths)} images in {folder} cannot be read exactly: {first_few(bad)}. "
            "Make them again as 8-bit RGB PNG, JPEG or WebP files."
        )
    digest = hashlib.sha256()
    for path, (content_sha256, _, _) in zip(paths, checked, strict=True):
        digest.update(f"{path.stem}\0{content_sha256}\n".encode())
    formats = {path.stem: kind for path, (_, kind, _) in zip(paths, checked, strict=True)}
    return ImageFolder(files={path.stem: path for path in paths}, formats=formats, sha256=digest.hexdigest())


def _image_paths(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise CrossFlowError(f"There is no folder {folder}; give the folder that holds the images.")
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())
    other = [path.name for path in entries if path.suffix.lower() in OTHER_IMAGE_SUFFIXES]
    if other:
        raise CrossFlowError(
            f"{len(other)} images in {folder} are of a kind that is not read ({first_few(other)}); "
            "convert them to PNG, or move them away."
        )
    paths = [path for path in entries if path.suffix.lower() in SUFFIXES]
    if not paths:
        raise CrossFlowError(f"The folder {folder} holds no image ({', '.join(SUFFIXES)}).")
    seen: dict[str, Path] = {}
    twice = [f"{seen[key].name} and {path.name}" for path in paths if seen.setdefault(key := path.stem, path) != path]
    if twice:
        raise CrossFlowError(
            f"{len(twice)} images in {folder} share their name with another ({first_few(twice)}); keep one of each."
        )
    return paths


def _check(path: Path) -> tuple[str, str, bool]:
    """Return (sha256 of the content, format, True), or ("", why it cannot be read, False)."""
    try:
        content = path.read_bytes()
        return hashlib.sha256(content).hexdigest(), decode_image(content)[1], True
    except (OSError, UnreadableImage) as error:
        return "", _cause(error), False


def read_captions(path: Path) -> Captions:
    """Read a captions file by its suffix: .csv, .jsonl, or .json in COCO's form.

    Raises:
        CrossFlowError: missing or undecodable file, unknown columns, a row without image or caption; with the line.
    """
    readers: dict[str, Callable[[Path, str], Iterable[tuple[str, str]]]] = {
        ".csv": _csv_pairs,
        ".jsonl": _jsonl_pairs,
        ".json": _coco_pairs,
    }
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise CrossFlowError(f"The captions file {path} must end in .csv, .jsonl or .json (COCO), not in {suffix!r}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        cause = _cause(error) if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CrossFlowError(f"Cannot read the captions file {path}: {cause}.") from error
    captions: dict[str, list[str]] = {}
    for key, caption in readers[suffix](path, text):
        captions.setdefault(image_key(key), []).append(caption)
    if not captions:
        raise CrossFlowError(f"The captions file {path} holds no captions.")
    return Captions({key: tuple(several) for key, several in captions.items()}, index=suffix == ".json")


def image_key(name: str) -> str:
    """Return the key of an image: its file name without folder, by either slash, and without an image suffix."""
    last = PurePath(name.strip().replace("\\", "/"))
    return last.stem if last.suffix.lower() in SUFFIXES else last.name


def _csv_pairs(path: Path, text: str) -> Iterator[tuple[str, str]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        _key_column(path, reader.fieldnames or ())
        for row in reader:
            yield _pair(path, reader.line_num, row)
    except csv.Error as error:
        raise CrossFlowError(f"{path}, line {reader.line_num}: not CSV ({error}).") from error


def _jsonl_pairs(path: Path, text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise CrossFlowError(f"{path}, line {number}: not JSON ({error.msg}).") from error
        if not isinstance(row, dict):
            raise CrossFlowError(f"{path}, line {number}: expected an object with 'image' and 'caption'.")
        yield _pair(path, number, row)


def _key_column(path: Path, columns: Iterable[str]) -> str:
    present = set(columns)
    keys = [column for column in KEY_COLUMNS if column in present]
    if len(keys) != 1 or "caption" not in present:
        raise CrossFlowError(
            f"{path} has the columns {sorted(present)}; expected 'caption' and exactly one of {', '.join(KEY_COLUMNS)}."
        )
    return keys[0]


def _pair(path: Path, line: int, row: Mapping[Any, Any]) -> tuple[str, str]:
    key, caption = row.get(_key_column(path, row)), row.get("caption")
    if isinstance(key, int) and not isinstance(key, bool):
        key = str(key)
    texts = [text.strip() for text in (key, caption) if isinstance(text, str)]
    if None in row or len(texts) != 2 or not all(texts):
        raise CrossFlowError(f"{path}, line {line}: expected one image and one caption that are not empty.")
    return texts[0], texts[1]


def _coco_pairs(path: Path, text: str) -> Iterator[tuple[str, str]]:
    try:
        record = json.loads(text)
        names = {image["id"]: image["file_name"] for image in record["images"]}
        for annotation in record["annotations"]:
            yield names[annotation["image_id"]], annotation["caption"].strip()
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise CrossFlowError(
            f"{path} is not a COCO captions file: expected 'images' with 'id' and 'file_name', and 'annotations' "
            f"with 'image_id' and 'caption' ({type(error).__name__}: {error})."
        ) from error


def match(images: ImageFolder, captions: Captions, folder: Path, file: Path) -> list[str]:
    """Return the keys that have both an image and a caption, in the captions' order.

    Both sides must match, with one exception: a COCO JSON lists a whole data set, so captions beyond the folder's
    images are allowed there, and logged.

    Raises:
        CrossFlowError: captions without images, images without captions; counted, the first ones named.
    """
    bare = [path.name for key, path in images.files.items() if key not in captions.of]
    if bare:
        raise CrossFlowError(
            f"{len(bare)} of {len(images.files)} images in {folder} have no caption in {file}: {first_few(bare)}."
        )
    missing = [key for key in captions.of if key not in images.files]
    if missing and not captions.index:
        raise CrossFlowError(
            f"{len(missing)} of {len(captions.of)} captions in {file} have no image in {folder}: {first_few(missing)}."
        )
    both = [key for key in captions.of if key in images.files]
    if missing:
        _log.info("%d of the %d images that %s describes are in %s.", len(both), len(captions.of), file.name, folder)
    return both
