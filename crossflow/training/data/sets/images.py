"""Images of one's own: a folder of any depth, with the captions of an image in a text file beside it, if it has some.

::

    <root>/<name>.jpg, or another image
    <root>/<name>.txt       a caption a line; blank lines are none

Super-resolution is trained on images alone. Images without captions are left out where a recipe is of captions.
"""

from pathlib import Path, PurePosixPath

import numpy as np

from crossflow.files.captions import read_lines
from crossflow.files.images import read_image
from crossflow.files.listing import list_folder
from crossflow.training.data.sets.items import Items, Raw, items_of, wrong_layout


def open_images(root: Path) -> Items:
    """The images, by their paths. CrossFlowError for a folder without any, and for some of a kind that is not read."""
    listing = list_folder(root)
    if not (listing.read or listing.unread):
        raise wrong_layout("images of one's own", root, "image", "put images there, and NAME.txt beside NAME.jpg")
    names, paths = list(listing.all_read().read), list(listing.read.values())

    def read(index: int) -> Raw:
        text = listing.others.get(PurePosixPath(names[index]).with_suffix(".txt").as_posix())
        return Raw(np.array(read_image(paths[index])), captions=() if text is None else read_lines(text))

    return items_of("images", names, read)
