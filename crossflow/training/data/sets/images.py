"""Images of one's own: a folder of any depth, with what belongs to them, if it has some.

::

    <root>/<name>.jpg, or another image
    <root>/<name>.txt       its captions, one a line; blank lines are none
    <root>/captions.jsonl   or .csv, or COCO's .json, or metadata.jsonl or .csv: the captions of all, in place of these
    <root>/<name>.npy       its depth in metres, or .npz, or a 16-bit .png of millimetres

A depth map may lie in a folder of its own: that of ``rgb/a/1.png`` is ``depth/a/1.png`` (see ``files.depth_maps``).
Super-resolution is trained on images alone. Images without caption or depth are left out where a recipe is of it.
"""

from pathlib import Path

import numpy as np

from crossflow.errors import first_few
from crossflow.files.captions import TABLE_NAMES, captions_in
from crossflow.files.depth_maps import maps_and_images, measured, partners, read_map
from crossflow.files.images import read_image
from crossflow.files.listing import list_folder
from crossflow.training.data.sets.items import Items, Raw, items_of, wrong_layout

ORIGIN = "put images there, and NAME.txt beside NAME.jpg"
WITH = {
    "captions": f"write a caption a line into NAME.txt beside NAME.jpg, or all into {TABLE_NAMES[1]} of the folder",
    "depth": "put NAME.npy of metres, or a 16-bit NAME.png of millimetres, beside NAME.jpg or into a folder of its own",
}
"""What to do about images that lack it."""
CALLED = "and the map of rgb/1.png is found as rgb/1.npy or depth/1.png: rename them"
"""What to do about maps that belong to no image."""


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
    captions, depths = captions_in(root), partners(names, maps, "depth maps")

    def read(index: int) -> Raw:
        name = names[index]
        return Raw(
            np.array(read_image(images[name])),
            depth=measured(read_map(depths[name])) if name in depths else None,
            captions=captions.get(name, ()),
        )

    remedy = dict(WITH)
    if maps and not depths:
        remedy["depth"] = f"the depth maps there are called otherwise ({first_few(sorted(maps), 3)}), {CALLED}"
    return items_of("images", names, read, {"captions": captions.keys(), "depth": depths.keys()}, remedy)
