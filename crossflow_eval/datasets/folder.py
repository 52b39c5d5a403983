"""Images of a folder and captions of a file, each with its key, and how the two are matched.

Images are files of any size in a folder and its subfolders, found by :mod:`crossflow.files.listing` and decoded to
uint8 RGB [h w 3] by :mod:`crossflow.files.images`.

Captions are CSV or JSONL with one of the columns ``image``, ``file``, ``id`` and the column ``caption`` or ``prompt``
(so that the ``samples.jsonl`` of ``crossflow sample`` is one), a COCO captions JSON (``images``, ``annotations``), or a
text file with a prompt on each line. Where an image has several captions, the file's first one is the prompt.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

import numpy as np
from PIL import Image

from crossflow.errors import CrossFlowError, first_few
from crossflow.files import captions as caption_files
from crossflow.files import images as image_files
from crossflow.files.hashes import file_sha256
from crossflow.files.images import SUFFIXES, UnreadableImage, why_unreadable
from crossflow.files.listing import list_folder
from crossflow.files.names import composed
from crossflow.files.processes import file_threads

_log = logging.getLogger(__name__)
AT_A_TIME = 256
"""Files that wait for a thread at once, so that their number takes no memory."""


@dataclass(frozen=True)
class Captions:
    """The prompts of a captions file: image key -> captions in the file's order. ``index`` marks a COCO JSON, which
    lists a whole data set of which a folder may hold a part."""

    of: Mapping[str, tuple[str, ...]]
    index: bool = False


@dataclass(frozen=True)
class ImageFolder:
    """The images of a folder, all decodable; the same of depth maps.

    ``files``, their ``formats`` and the sha256 of their contents go by key: the file's stem, or its path.
    """

    files: Mapping[str, Path]
    formats: Mapping[str, str]
    contents: Mapping[str, str]
    sha256: str

    def check_unchanged(self, key: str) -> None:
        """Raise CrossFlowError where a file is no longer what was found: its numbers would stand under this sha256."""
        if file_sha256(self.files[key]) != self.contents[key]:
            raise CrossFlowError(
                f"{self.files[key]} changed while it was read; measure again when its folder is still."
            )


def decode_image(content: bytes) -> tuple[np.ndarray, str]:
    """Decode an image file's bytes to uint8 RGB [h w 3] and its format. Raises UnreadableImage."""
    image, kind = image_files.decode_image(content)
    return np.array(image, dtype=np.uint8), kind


def read_image(path: Path) -> np.ndarray:
    """Read one image as uint8 RGB [h w 3]. Raises CrossFlowError with the file's name and the reason."""
    return np.array(image_files.read_image(path), dtype=np.uint8)


def read_folder(folder: Path, by: Literal["stem", "path"] = "stem", *, say: bool = True) -> ImageFolder:
    """Find and check every image of a folder and its subfolders; other kinds of files are counted in the log (``say``).

    Every file is decoded once, so that all bad files are named before any work is done. Keys are file stems, or with
    ``by="path"`` paths below the folder without suffix: what is looked up by name needs stems. The log says how many
    images have a palette or one bit a pixel: originals of CLIP scores that resize before RGB score these otherwise.

    Raises:
        CrossFlowError: no such folder, no images, two files with one key, kinds of image that are not read, bad files.
    """
    listing = list_folder(folder).all_read()
    files = listing.by_stem() if by == "stem" else listing.by_path()
    paths = list(files.values())
    with file_threads() as pool:
        parts = (paths[start : start + AT_A_TIME] for start in range(0, len(paths), AT_A_TIME))
        checked = [found for part in parts for found in pool.map(_check, part)]
    bad = [f"{name} ({found})" for name, (_, found, mode) in zip(listing.read, checked, strict=True) if not mode]
    if bad:
        raise CrossFlowError(
            f"{len(bad)} of {len(files)} images in {folder} cannot be read exactly: {first_few(bad)}. "
            "Make them again as 8-bit RGB PNG, JPEG or WebP files."
        )
    if say and (left := listing.left()):
        _log.info("%s", left)
    if stored := sum(mode in ("1", "P") for *_, mode in checked):
        _log.info(
            "%d of %d images in %s have a palette or one bit a pixel: they are made RGB before they are resized.",
            stored,
            len(files),
            folder,
        )
    contents = {key: content_sha256 for key, (content_sha256, *_) in zip(files, checked, strict=True)}
    digest = hashlib.sha256()
    for key, content_sha256 in contents.items():
        digest.update(f"{key}\0{content_sha256}\n".encode())
    formats = {key: kind for key, (_, kind, _) in zip(files, checked, strict=True)}
    return ImageFolder(files=files, formats=formats, contents=contents, sha256=digest.hexdigest())


def _check(path: Path) -> tuple[str, str, str]:
    """Return (sha256 of the content, format, Pillow's mode), or ("", why it cannot be read, "")."""
    try:
        content = path.read_bytes()
        kind = decode_image(content)[1]
        with Image.open(io.BytesIO(content)) as image:
            return hashlib.sha256(content).hexdigest(), kind, image.mode
    except (OSError, UnreadableImage) as error:
        return "", why_unreadable(error), ""


def read_captions(path: Path) -> Captions:
    """Read a captions file by its suffix: .csv, .jsonl, .json in COCO's form, or .txt with a prompt on each line.

    Prompts of a text file are numbered from 000000. A folder is a Hugging Face dataset, or images with their captions
    as training reads them (``captions_in``).

    Raises:
        CrossFlowError: missing or undecodable file, unknown columns, a row without image or caption, with the line; two
            images of one key.
    """
    if path.is_dir():
        from crossflow_eval.datasets import on_disk

        if on_disk.is_dataset(path):
            return Captions(by_key(path, on_disk.texts(path)))
        return Captions(by_key(path, captioned(path).items()))
    prompts = path.suffix.lower() == ".txt"
    pairs = caption_files.read_prompts(path) if prompts else caption_files.read_captions(path, caption_files.KEYS)
    of = by_key(path, ((name, (caption,)) for name, caption in pairs))
    return Captions(of, index=path.suffix.lower() == ".json")


def captioned(folder: Path) -> dict[str, tuple[str, ...]]:
    """The captions of the images in a folder, by their names there. Raises CrossFlowError where none has any."""
    found = caption_files.captions_in(folder)
    if not found:
        raise CrossFlowError(
            f"No image in {folder} has a caption: write a caption a line into NAME.txt beside NAME.jpg, or all into "
            "captions.jsonl of the folder."
        )
    return found


def by_key(path: Path, captions: Iterable[tuple[str, Sequence[str]]]) -> dict[str, tuple[str, ...]]:
    """The captions of each image by its key, in the order of the file ``path``.

    Raises CrossFlowError where names of one key are of other folders, or of other kinds: the captions of several images
    would be taken for those of one.
    """
    found: dict[str, tuple[str, ...]] = {}
    names: dict[str, dict[PurePath, None]] = {}
    for name, several in captions:
        key = image_key(name)
        names.setdefault(key, {})[_path(name)] = None
        found[key] = (*found.get(key, ()), *several)
    if alike := [str(name) for of_key in names.values() if _are_several(of_key) for name in of_key]:
        raise CrossFlowError(
            f"{len(alike)} images in {path} share their name without folder and suffix ({first_few(alike)}); give each "
            "a name of its own."
        )
    return found


def _are_several(names: Collection[PurePath]) -> bool:
    """Whether names of one key, which may leave out folder and suffix, are of several images."""
    folders = {name.parent for name in names} - {PurePath()}
    suffixes = {name.suffix.lower() for name in names if name.suffix.lower() in SUFFIXES}
    return len(folders) > 1 or len(suffixes) > 1


def image_key(name: str) -> str:
    """Return the key of an image: its file name in composed form (NFC), without folder, by either slash, and suffix."""
    last = _path(name)
    return last.stem if last.suffix.lower() in SUFFIXES else last.name


def _path(name: str) -> PurePath:
    return PurePath(composed(name.strip()).replace("\\", "/"))


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
