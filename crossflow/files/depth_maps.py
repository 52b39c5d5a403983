"""Depth maps of one's own in a folder, and the images that they are of: training and evaluation find the same.

A depth map is an .npy or .npz of metres, or a 16-bit PNG of one channel; every other PNG is an image. What belongs
together has one name: ``a.jpg`` and ``a.npy``, or ``rgb/x/a.png`` and ``depth/x/a.png``.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from crossflow.errors import CrossFlowError, first_few
from crossflow.files.arrays import plain_arrays
from crossflow.files.images import read_depth_png
from crossflow.files.listing import list_folder

SUFFIXES = (".npy", ".npz", ".png")
"""The suffixes of depth maps."""
METRES = "metres"
"""The unit of depth, where it is one that can be measured."""
MILLIMETRES = 1000.0
"""What a 16-bit PNG of depth holds a metre, where nothing else is said."""


def read_array(path: Path) -> np.ndarray:
    """The one array of an .npy or .npz file, without axes of length 1. Raises CrossFlowError for anything else."""
    arrays = list(plain_arrays(path, "depth map").values())
    if len(arrays) != 1 or arrays[0].squeeze().ndim != 2:
        shapes = ", ".join(str(list(array.shape)) for array in arrays)
        raise CrossFlowError(f"{path} holds arrays of the shapes {shapes}; expected one of [h w].")
    return arrays[0].squeeze()


def read_map(path: Path, png_scale: float = MILLIMETRES) -> np.ndarray:
    """A depth map as float32 [h w]: floats of an .npy or .npz file as they are, or a 16-bit PNG over its scale.

    Raises CrossFlowError, also for an array of integers, whose unit is not known.
    """
    if path.suffix.lower() == ".png":
        return read_depth_png(path, png_scale)
    array = read_array(path)
    if not np.issubdtype(array.dtype, np.floating):
        raise CrossFlowError(
            f"{path} holds {array.dtype}, whose unit is not known; store depth as floating point numbers."
        )
    return array.astype(np.float32)


def measured(depth: np.ndarray) -> np.ndarray:
    """Depth with NaN where nothing was measured: at 0 and below, and where it is not finite."""
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.nan).astype(np.float32)


def maps_and_images(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """The depth maps in a folder and below, and the images, by their names there. A PNG beside its array is left out.

    CrossFlowError as ``list_folder``; either may be empty.
    """
    found = list_folder(folder, SUFFIXES, "depth map").read
    arrays = {PurePosixPath(name).with_suffix("") for name, path in found.items() if not _is_png(path)}
    maps = {name: path for name, path in found.items() if not _is_png(path) or _is_map(path)}
    judged = set(maps.values())
    images = {name: path for name, path in list_folder(folder).read.items() if path not in judged}
    twins = {name for name in maps if _is_png(maps[name]) and PurePosixPath(name).with_suffix("") in arrays}
    return {name: path for name, path in maps.items() if name not in twins}, images


def partners(names: Iterable[str], others: Mapping[str, Path], what: str) -> dict[str, Path]:
    """For each of ``names`` that has one, the file of ``others`` whose path, without suffix, ends alike the longest.

    CrossFlowError where several do; ``what`` they are is for the message, in the plural.
    """
    by_end: dict[tuple[str, ...], list[str]] = {}
    for other in others:
        for end in _ends(other):
            by_end.setdefault(end, []).append(other)
    found: dict[str, Path] = {}
    for name in names:
        alike = next((by_end[end] for end in _ends(name) if end in by_end), [])
        if len(alike) > 1:
            raise CrossFlowError(
                f"Several {what} are called as {name} is ({first_few(sorted(alike))}); keep one of each, or lay them "
                "out in folders as it lies."
            )
        found |= {name: others[alike[0]]} if alike else {}
    return found


def _ends(name: str) -> list[tuple[str, ...]]:
    """The path without suffix, and what is left of it without the first folder, and so on, the longest first."""
    parts = PurePosixPath(name).with_suffix("").parts
    return [parts[start:] for start in range(len(parts))]


def _is_png(path: Path) -> bool:
    return path.suffix.lower() == ".png"


def _is_map(path: Path) -> bool:
    """Whether the header of a PNG says 16 bits and one channel."""
    try:
        with path.open("rb") as file:
            return file.read(26)[24:] == b"\x10\x00"
    except OSError:
        return False
