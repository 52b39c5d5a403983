"""Hypersim as released, in HDF5: colours are tone-mapped by its own recipe, distances become planar depth.

::

    <root>/metadata_images_split_scene_v1.csv                                            the published split
    <root>/<scene>/images/scene_<camera>_final_hdf5/frame.<n>.color.hdf5                 radiance [768 1024 3]
    <root>/<scene>/images/scene_<camera>_geometry_hdf5/frame.<n>.depth_meters.hdf5       distance from the camera
    <root>/<scene>/images/scene_<camera>_geometry_hdf5/frame.<n>.render_entity_id.hdf5   -1 where there is nothing

Each file holds one array, ``dataset``. With Marigold's ``filename_list_train_filtered.txt`` in the root its 53,885
images alone are read. Beyond 65 metres nothing counts as measured, as with Marigold.
"""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow.files.lists import read_list
from crossflow.training.data.sets.items import Items, Raw, items_of, wrong_layout

SPLIT = "metadata_images_split_scene_v1.csv"
LIST = "filename_list_train_filtered.txt"
SHA256 = "fc3996c785a84a2eaeff121b6bac02b2366dc3ec352da50d659b8858e101f833"
"""Of Marigold's list, in data_split/hypersim_depth of github.com/prs-eth/Marigold."""
ORIGIN = f"fetch Hypersim (github.com/apple/ml-hypersim) and its {SPLIT} into it"
FOCAL = 886.81
"""The focal length in pixels at 1024 x 768 (issue 9 of apple/ml-hypersim)."""
FARTHEST = 65.0
"""Metres; Marigold's."""
GAMMA, BRIGHT, AT_PERCENTILE = 1 / 2.2, 0.8, 90
"""Of the tone map: the exponent, and the brightness that this percentile of an image gets."""
Frame = tuple[str, str, str]
"""Scene, camera and number of a frame, as the split spells them."""


def open_hypersim(root: Path) -> Items:
    """The training images of the split. CrossFlowError for a folder of another layout, and without h5py."""
    if not (root / SPLIT).is_file():
        raise wrong_layout("Hypersim", root, SPLIT, ORIGIN)
    _h5py()
    try:
        with (root / SPLIT).open(encoding="utf-8", newline="") as file:
            frames = [frame for row in csv.DictReader(file) if (frame := _training_frame(root, row))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CrossFlowError(f"{root / SPLIT} cannot be read ({error}); {ORIGIN}.") from error
    if (root / LIST).is_file():
        listed = {row[0] for row in read_list(root / LIST, SHA256, f"fetch it again, or take it away from {root}")}
        frames = [frame for frame in frames if _as_listed(frame) in listed]
    if frames and not any((root / scene).is_dir() for scene, *_ in frames):
        raise wrong_layout("Hypersim", root, f"folder {frames[0][0]}", ORIGIN)
    frames = [frame for frame in frames if (root / frame[0]).is_dir()]

    def read(index: int) -> Raw:
        color, distance, entities = (_read(path) for path in _files(root, frames[index]))
        there = entities != -1
        depth = planar(distance.astype(np.float32))
        known = there & np.isfinite(depth) & (depth > 0) & (depth < FARTHEST)
        return Raw(tone_mapped(color.astype(np.float64), there), np.where(known, depth, np.float32(np.nan)))

    return items_of("hypersim", ["/".join(frame) for frame in frames], read)


def planar(distance: np.ndarray, focal: float = FOCAL) -> np.ndarray:
    """Distance from the camera's centre [h w] as depth along its axis: d f / sqrt(x^2 + y^2 + f^2), float32.

    x and y are a pixel's offsets from the middle of the image; ``focal`` is in pixels.
    """
    height, width = distance.shape
    x = np.arange(width, dtype=np.float32) - (width - 1) / 2
    y = np.arange(height, dtype=np.float32)[:, None] - (height - 1) / 2
    return (distance * focal / np.sqrt(x**2 + y**2 + focal**2)).astype(np.float32)


def tone_mapped(color: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Radiance [h w 3] as uint8 RGB, as Hypersim's own script makes its previews.

    Colours are scaled so that the ``AT_PERCENTILE``-th percentile of the brightness, of pixels that are ``there``,
    becomes ``BRIGHT`` after the exponent.
    """
    brightness = (color @ np.array([0.3, 0.59, 0.11]))[there]
    scale = 1.0
    if brightness.size:
        now = float(np.percentile(brightness, AT_PERCENTILE))
        scale = BRIGHT ** (1 / GAMMA) / now if now >= 1e-4 else 0.0
    return (np.clip(np.maximum(scale * color, 0) ** GAMMA, 0, 1) * 255).astype(np.uint8)


def _training_frame(root: Path, row: dict[str, Any]) -> Frame | None:
    """The frame of a row of the split, if it is one of the public ones for training."""
    try:
        if row["included_in_public_release"] != "True" or row["split_partition_name"] != "train":
            return None
        frame = row["scene_name"], row["camera_name"], f"{int(row['frame_id']):04d}"
    except (KeyError, TypeError, ValueError) as error:
        raise CrossFlowError(f"{root / SPLIT} is not Hypersim's ({error!r}); {ORIGIN}.") from error
    if not all(re.fullmatch(r"\w+", part or "") for part in frame):
        raise CrossFlowError(f"{root / SPLIT} names {frame}, which is no frame of Hypersim; {ORIGIN}.")
    return frame


def _as_listed(frame: Frame) -> str:
    scene, camera, number = frame
    return f"{scene}/rgb_{camera}_fr{number}.png"


def _files(root: Path, frame: Frame) -> list[Path]:
    scene, camera, number = frame
    final, geometry = (root / scene / "images" / f"scene_{camera}_{kind}_hdf5" for kind in ("final", "geometry"))
    names = (final / "color", geometry / "depth_meters", geometry / "render_entity_id")
    return [path.with_name(f"frame.{number}.{path.name}.hdf5") for path in names]


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise CrossFlowError(
            'Hypersim is in HDF5 and needs the package h5py: pip install "crossflow[hypersim]".'
        ) from error
    return h5py


def _read(path: Path) -> np.ndarray:
    try:
        with _h5py().File(path, "r") as file:
            return np.array(file["dataset"])
    except (OSError, KeyError, RuntimeError) as error:
        why = " ".join(str(error).split())
        raise CrossFlowError(f"{path} is missing, or no file of Hypersim ({why}): fetch it again.") from error
