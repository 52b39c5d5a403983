"""Shards of tars, as webdataset writes them: the files of an item share their name up to the first dot.

::

    <root>/*.tar       <key>.jpg (or another image), and <key>.txt with a caption a line, or <key>.json with "caption"

Blank captions are none.

An item is read where it lies, by the index of its tar; nothing is unpacked and the order is not that of the shards.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from crossflow.errors import CrossFlowError
from crossflow.files.images import SUFFIXES
from crossflow.files.plain_json import read_json
from crossflow.files.texts import lines, text_of
from crossflow.training.data.sets.imagenet import decoded
from crossflow.training.data.sets.items import Items, Raw, items_of, wrong_layout
from crossflow.training.data.sets.tars import Members, members

ORIGIN = "give the folder of the shards"


def open_shards_of_tars(root: Path) -> Items:
    """The items of all tars in a folder that have an image. CrossFlowError for a folder without tars."""
    archives = [members(path) for path in sorted(root.glob("*.tar"))]
    if not archives:
        raise wrong_layout("shards of tars", root, "*.tar", ORIGIN)
    rows = [(archive, key, parts) for archive in archives for key, parts in _keyed(archive).items()]

    def read(index: int) -> Raw:
        archive, key, parts = rows[index]
        name = f"{key} of {archive.path}"
        image = next(place for suffix, place in parts.items() if suffix in SUFFIXES)
        captions = ()
        if ".txt" in parts:
            captions = lines(text_of(archive.read(parts[".txt"]), f"The captions of {name}"))
        elif ".json" in parts:
            match read_json(archive.read(parts[".json"]), name):
                case {"caption": str(caption)}:
                    captions = (caption,) if caption.strip() else ()
                case _:
                    raise CrossFlowError(f"{name}: its .json has no text under caption; write it again.")
        return Raw(decoded(archive.read(image), name), captions=captions)

    return items_of("tars", [f"{archive.path.name}/{key}" for archive, key, _ in rows], read)


def _keyed(archive: Members) -> Mapping[str, dict[str, int]]:
    """The places of the files of every item that has an image, by its key and their suffixes."""
    found: dict[str, dict[str, int]] = {}
    for place, name in enumerate(archive.names):
        path = PurePosixPath(name)
        key, dot, suffix = path.name.partition(".")
        if key:
            found.setdefault(str(path.with_name(key)), {})[f"{dot}{suffix}".lower()] = place
    return {key: parts for key, parts in found.items() if any(suffix in SUFFIXES for suffix in parts)}
