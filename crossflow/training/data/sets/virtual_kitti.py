"""Virtual KITTI 2, as Marigold trains on it: four of the five scenes, six of the ten conditions, both cameras.

::

    <root>/Scene02/clone/frames/rgb/Camera_0/rgb_00000.jpg           also below [vkitti_2.0.3_]rgb/
    <root>/Scene02/clone/frames/depth/Camera_0/depth_00000.png       depth in centimetres; also below [..._]depth/

These are 20,148 images, the same as in Marigold's list; its validation is on Scene01. Beyond 80 metres, as in the sky,
nothing counts as measured.
"""

from pathlib import Path

import numpy as np

from crossflow.files.images import read_depth_png, read_image
from crossflow.training.data.sets.items import Items, Raw, first_there, items_of, wrong_layout

SCENES = ("Scene02", "Scene06", "Scene18", "Scene20")
CONDITIONS = ("15-deg-left", "15-deg-right", "clone", "morning", "overcast", "sunset")
CAMERAS = ("Camera_0", "Camera_1")
ORIGIN = "unpack vkitti_2.0.3_rgb.tar and vkitti_2.0.3_depth.tar there (europe.naverlabs.com)"
SCALE = 100.0
"""Of the numbers in the depth maps to one metre."""
FARTHEST = 80.0
"""Metres; Marigold's."""


def open_virtual_kitti(root: Path) -> Items:
    """The training images. CrossFlowError for a folder of another layout."""
    scene = f"{SCENES[0]}/{CONDITIONS[0]}/frames"
    rgb, depths = (
        first_there(root, (f"{folder}{scene}/{kind}" for folder in ("", f"vkitti_2.0.3_{kind}/", f"{kind}/")))
        for kind in ("rgb", "depth")
    )
    if rgb is None or depths is None:
        kind = "rgb" if rgb is None else "depth"
        raise wrong_layout("Virtual KITTI 2", root, f"{scene}/{kind}, also below vkitti_2.0.3_{kind}", ORIGIN)
    tops = [path.parents[3] for path in (rgb, depths)]
    pairs: list[tuple[Path, Path]] = []
    for scene in SCENES:
        for condition in CONDITIONS:
            for camera in CAMERAS:
                frames = f"{scene}/{condition}/frames"
                for image in sorted((tops[0] / frames / "rgb" / camera).glob("rgb_*.jpg")):
                    number = image.stem.removeprefix("rgb_")
                    pairs.append((image, tops[1] / frames / "depth" / camera / f"depth_{number}.png"))

    def read(index: int) -> Raw:
        image, depth = pairs[index]
        found = read_depth_png(depth, SCALE)
        known = (found > 0) & (found < FARTHEST)
        return Raw(np.array(read_image(image)), np.where(known, found, np.float32(np.nan)))

    return items_of("virtual-kitti", [str(image.relative_to(tops[0])) for image, _ in pairs], read)
