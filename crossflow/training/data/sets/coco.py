"""COCO with its captions, the training images of A. Karpathy's split: 82,783 of train2014 and 30,504 of val2014.

::

    <root>/caption_datasets.zip, or dataset_coco.json of it       the split, with five captions or more an image
    <root>/train2014/COCO_train2014_<n>.jpg
    <root>/val2014/COCO_val2014_<n>.jpg
"""

from pathlib import Path

import numpy as np

from crossflow.files.images import read_image
from crossflow.files.karpathy import ARCHIVE, MEMBER, TRAINING, read_split
from crossflow.training.data.sets.items import Items, Raw, first_there, items_of, most_are_there, wrong_layout

ORIGIN = (
    f"put {ARCHIVE} of cs.stanford.edu/people/karpathy/deepimagesent there, and unpack train2014.zip and val2014.zip "
    "of images.cocodataset.org"
)


def open_coco(root: Path) -> Items:
    """The training images. CrossFlowError for a folder of another layout."""
    listed = first_there(root, (ARCHIVE, MEMBER))
    if listed is None:
        raise wrong_layout("COCO with Karpathy's split", root, f"{ARCHIVE} or {MEMBER}", ORIGIN)
    rows = [row for row in read_split(listed) if row.split in TRAINING and row.captions]
    most_are_there("COCO", root, [root / row.folder / row.file for row in rows], ORIGIN)

    def read(index: int) -> Raw:
        row = rows[index]
        return Raw(np.array(read_image(root / row.folder / row.file)), captions=row.captions)

    return items_of("coco", [f"{row.folder}/{row.file}" for row in rows], read)
