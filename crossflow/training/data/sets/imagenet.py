"""ImageNet-1K's training images, as folders of classes or as the tar of tars that is given out, read where it lies.

::

    <root>/n01440764/n01440764_18.JPEG       folders of classes, also below train/
    <root>/ILSVRC2012_img_train.tar          the archive; the first time, its index is made
"""

from pathlib import Path

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow.files.images import SUFFIXES, UnreadableImage, decode_image, read_image
from crossflow.files.listing import list_folder
from crossflow.training.data.sets.items import Items, Raw, items_of, wrong_layout
from crossflow.training.data.sets.tars import Members, members

ARCHIVE = "ILSVRC2012_img_train.tar"
ORIGIN = f"put {ARCHIVE} of image-net.org there, or unpack it with the archives in it"


def open_imagenet(root: Path) -> Items:
    """The training images. CrossFlowError for a folder of another layout."""
    if (root / ARCHIVE).is_file():
        return _archived(members(root / ARCHIVE))
    folder = root / "train" if (root / "train").is_dir() else root
    if not any(each.is_dir() and each.name.startswith("n") for each in folder.iterdir()):
        raise wrong_layout("ImageNet", root, f"{ARCHIVE}, and no folder of a class such as n01440764", ORIGIN)
    found = list_folder(folder).read
    names, paths = list(found), list(found.values())
    return items_of("imagenet", names, lambda index: Raw(np.array(read_image(paths[index]))))


def _archived(archive: Members) -> Items:
    chosen = [place for place, name in enumerate(archive.names) if name.lower().endswith(SUFFIXES)]

    def read(index: int) -> Raw:
        place = chosen[index]
        return Raw(decoded(archive.read(place), f"{archive.names[place]} of {archive.path}"))

    return items_of("imagenet", [archive.names[place] for place in chosen], read)


def decoded(content: bytes, name: str) -> np.ndarray:
    """An image file's bytes as uint8 RGB; CrossFlowError, with its ``name``, for one that cannot be read."""
    try:
        return np.array(decode_image(content)[0])
    except UnreadableImage as error:
        raise CrossFlowError(f"The image {name} cannot be read ({error}): {error.remedy}.") from error
