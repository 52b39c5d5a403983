"""Images of one's own: a folder of any depth, with what belongs to them, if it has some.

::

    <root>/<name>.jpg, or another image
    <root>/<name>.txt       its captions, one a line; blank lines are none
    <root>/captions.jsonl   or .csv, or COCO's .json, or metadata.jsonl or .csv: the captions of all, in place of these
    <root>/<name>.npy       its depth in metres, or .npz, or a 16-bit .png of millimetres

Super-resolution is trained on images alone. Where a recipe is of captions images without any are left out; more than a
tenth of those that were read end the training.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from crossflow.errors import CrossFlowError, first_few
from crossflow.files.captions import TABLES, read_lines, read_pairs
from crossflow.files.depth_maps import maps_and_images, measured, partners, read_map
from crossflow.files.images import read_image
from crossflow.files.listing import Listing, list_folder
from crossflow.training.data.sets.items import Items, Raw, items_of, wrong_layout

TABLE_NAMES = tuple(f"{stem}{suffix}" for stem in ("captions", "metadata") for suffix in TABLES)
"""The files at the root that may hold all captions."""
ORIGIN = "put images there, and NAME.txt beside NAME.jpg"
WITH = {
    "captions": f"write a caption a line into NAME.txt beside NAME.jpg, or all into {TABLE_NAMES[1]} of the folder",
    "depth": "put NAME.npy of metres, or a 16-bit NAME.png of millimetres, beside NAME.jpg or into a folder of its own",
}
"""What to do about images that lack it."""


def open_images(root: Path) -> Items:
    """The images, by their paths. CrossFlowError for a folder without any, and for some of a kind that is not read."""
    listing = list_folder(root)
    if not (listing.read or listing.unread):
        raise wrong_layout("images of one's own", root, "image", ORIGIN)
    listing.all_read()
    maps, images = maps_and_images(root)
    if not images:
        raise wrong_layout("images of one's own", root, "image that is no depth map", ORIGIN)
    names = list(images)
    captions, depths = _captions(root, listing, images), partners(names, maps, "depth maps")

    def read(index: int) -> Raw:
        name = names[index]
        texts = captions.get(name, ())
        return Raw(
            np.array(read_image(images[name])),
            depth=measured(read_map(depths[name])) if name in depths else None,
            captions=read_lines(texts) if isinstance(texts, Path) else texts,
        )

    return items_of("images", names, read, {"captions": captions.keys(), "depth": depths.keys()}, WITH)


def _captions(root: Path, listing: Listing, images: Mapping[str, Path]) -> Mapping[str, Path | tuple[str, ...]]:
    """The captions of each image that has some, or the file that holds them."""
    tables = [root / name for name in TABLE_NAMES if name in listing.others]
    if len(tables) > 1:
        raise CrossFlowError(
            f"{root} holds several files of captions ({first_few([path.name for path in tables])}); keep one of them."
        )
    if not tables:
        texts = {name: listing.others.get(PurePosixPath(name).with_suffix(".txt").as_posix()) for name in images}
        return {name: path for name, path in texts.items() if path is not None}
    named = {path.relative_to(root).as_posix(): name for name, path in images.items()}
    found: dict[str, tuple[str, ...]] = {}
    for pair in read_pairs(root, tables[0]):
        if (name := named.get(pair.image)) is not None:
            found[name] = (*found.get(name, ()), pair.caption)
    return found
