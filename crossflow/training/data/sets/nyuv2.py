"""NYUv2 for depth: the synchronised frames that BTS extracted, by its list of training images.

::

    <root>/nyudepthv2_train_files_with_gt.txt        BTS's list, or below train_test_inputs/
    <root>/<scene>/rgb_<n>.jpg                       also below sync/
    <root>/<scene>/sync_depth_<n>.png                depth in millimetres, 0 where there is none

The images have a white frame; the loss leaves out the pixels beyond what BTS crops to.
"""

from pathlib import Path

import numpy as np

from crossflow.files.depth_maps import measured
from crossflow.files.images import read_depth_png, read_image
from crossflow.files.lists import read_list
from crossflow.training.data.sets.items import Items, Raw, first_there, items_of, most_are_there, wrong_layout

LIST = "nyudepthv2_train_files_with_gt.txt"
SHA256 = "66e2beb718a58c5c946c169f6e70cc6ae166ddd19f5618266fff52ff7443e0e9"
"""Of BTS's list of 24,231 training images, in train_test_inputs of github.com/cleinc/bts."""
ORIGIN = f"unpack BTS's sync.zip there, with train_test_inputs/{LIST} of github.com/cleinc/bts"
SCALE = 1000.0
"""Of the numbers in the depth maps to one metre."""
INSIDE = (slice(45, 472), slice(43, 608))
"""The rows and columns within the white frame, as BTS crops them."""


def open_nyuv2(root: Path) -> Items:
    """The training images. CrossFlowError for a folder of another layout, and a list that is not the published one."""
    listed = first_there(root, (LIST, f"train_test_inputs/{LIST}"))
    if listed is None:
        raise wrong_layout("NYUv2 of BTS", root, LIST, ORIGIN)
    rows = [[name.lstrip("/") for name in row[:2]] for row in read_list(listed, SHA256, ORIGIN)]
    folder = root / "sync" if (root / "sync").is_dir() else root
    most_are_there("NYUv2 of BTS", folder, [folder / name for row in rows for name in row], ORIGIN)

    def read(index: int) -> Raw:
        image, depth = (folder / name for name in rows[index])
        whole = read_depth_png(depth, SCALE)
        found = np.full(whole.shape, np.nan, np.float32)
        found[INSIDE] = measured(whole[INSIDE])
        return Raw(np.array(read_image(image)), found)

    return items_of("nyuv2", [row[0] for row in rows], read)
