"""Data sets in their own layouts, a file each: a folder -> its items, read one at a time in any order.

A layout is a function of the root folder that returns ``Items``; ``LAYOUTS`` has them by name. Another package adds one
there. What is made of an item for a recipe is in ``training.data.set_pairs``.
"""

from collections.abc import Callable
from pathlib import Path

from crossflow.errors import CrossFlowError, named
from crossflow.training.data.sets.coco import open_coco
from crossflow.training.data.sets.hypersim import open_hypersim
from crossflow.training.data.sets.imagenet import open_imagenet
from crossflow.training.data.sets.images import open_images
from crossflow.training.data.sets.items import Items, joined
from crossflow.training.data.sets.kitti import open_kitti
from crossflow.training.data.sets.nyuv2 import open_nyuv2
from crossflow.training.data.sets.shards_of_tars import open_shards_of_tars
from crossflow.training.data.sets.virtual_kitti import open_virtual_kitti

LAYOUTS: dict[str, Callable[[Path], Items]] = {
    "coco": open_coco,
    "kitti": open_kitti,
    "nyuv2": open_nyuv2,
    "hypersim": open_hypersim,
    "virtual-kitti": open_virtual_kitti,
    "imagenet": open_imagenet,
    "images": open_images,
    "tars": open_shards_of_tars,
}


def open_sets(layouts: tuple[str, ...], root: Path) -> Items:
    """The items of the data set in ``root`` or, of several, of those in its subfolders of their names, in this order.

    CrossFlowError for a folder that is not laid out so.
    """
    opened = [named("layout", layout, LAYOUTS) for layout in layouts]
    folders = [root] if len(layouts) == 1 else [root / layout for layout in layouts]
    for folder in folders:
        if not folder.is_dir():
            raise CrossFlowError(
                f"There is no folder {folder}; give --data a folder that holds {' and '.join(layouts)}."
            )
    return joined([opener(folder) for opener, folder in zip(opened, folders, strict=True)])
