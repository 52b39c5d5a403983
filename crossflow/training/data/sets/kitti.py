"""KITTI for depth: the raw drives and the annotated depth maps, by BTS's list of Eigen's training images.

::

    <root>/eigen_train_files_with_gt.txt                             BTS's list, or below train_test_inputs/
    <root>/2011_09_26/<drive>/image_02/data/<frame>.png              the raw drives, also below raw/
    <root>/<drive>/proj_depth/groundtruth/image_02/<frame>.png       depth, 256ths of a metre, 0 where there is none;
                                                                     also below [data_depth_annotated/]{train,val}/

The list has 23,158 images, those of Eigen's 23,488 for which there is annotated depth.
"""

from pathlib import Path

import numpy as np

from crossflow.files.depth_maps import measured
from crossflow.files.images import read_depth_png, read_image
from crossflow.files.lists import read_list
from crossflow.training.data.sets.items import Items, Raw, first_there, items_of, most_are_there, wrong_layout

LIST = "eigen_train_files_with_gt.txt"
SHA256 = "3655308ee4a017094dc620402db3fc587d769cfbfa9a16c6d0f8de6dcbe109ec"
"""Of BTS's list of training images, in train_test_inputs of github.com/cleinc/bts."""
ORIGIN = (
    "unpack KITTI's raw drives and annotated depth maps (cvlibs.net) there, with train_test_inputs/"
    f"{LIST} of github.com/cleinc/bts"
)
PARTS = ("", "train/", "val/", "data_depth_annotated/train/", "data_depth_annotated/val/")
SCALE = 256.0
"""Of the numbers in the depth maps to one metre."""


def open_kitti(root: Path) -> Items:
    """The training images. CrossFlowError for a folder of another layout, and a list that is not the published one."""
    listed = first_there(root, (LIST, f"train_test_inputs/{LIST}"))
    if listed is None:
        raise wrong_layout("KITTI", root, LIST, ORIGIN)
    rows = [row for row in read_list(listed, SHA256, ORIGIN) if row[1] != "None"]
    raw = "raw/" if (root / "raw").is_dir() else ""
    images = [root / f"{raw}{row[0]}" for row in rows]
    depths = [first_there(root, (f"{part}{row[1]}" for part in PARTS)) or root / row[1] for row in rows]
    most_are_there("KITTI", root, [*images, *depths], ORIGIN)

    def read(index: int) -> Raw:
        return Raw(np.array(read_image(images[index])), measured(read_depth_png(depths[index], SCALE)))

    return items_of("kitti", [row[0] for row in rows], read)
