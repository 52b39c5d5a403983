"""Depth maps on disk: the five data sets of the published suites, and predictions of other models.

Each data set is found under one root in its own layout (as its archives unpack) or in Marigold's. The file lists are
Marigold's, shipped in ``lists`` and checked against their sha256 before use.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path, PurePosixPath

import numpy as np

from crossflow.errors import CrossFlowError, first_few
from crossflow.files import lists
from crossflow.files.depth_maps import MILLIMETRES, SUFFIXES, maps_and_images, partners, read_array, read_map
from crossflow.files.images import read_depth_png
from crossflow.files.listing import Listing, list_folder
from crossflow.files.processes import file_threads
from crossflow_eval.datasets.folder import ImageFolder
from crossflow_eval.types import Example

_log = logging.getLogger(__name__)

LISTS = Path(str(files("crossflow_eval.datasets"))) / "lists"
PREDICTIONS = SUFFIXES
ETH3D_SIZE = (4032, 6048)
"""Height and width of every depth map of ETH3D's high-resolution training images."""

Measured = tuple[np.ndarray, np.ndarray | None]
"""A target: depth in metres, float32 [h w], and the data set's own mask, bool [h w], where it has one."""


def read_list(path: Path, sha256: str) -> list[list[str]]:
    """The words of every line of a list that is shipped here. CrossFlowError where it is not the published one."""
    return lists.read_list(path, sha256, "install the package again")


@dataclass(frozen=True, kw_only=True)
class DepthSet:
    """One data set: its list, where a listed file may lie under the root (shell patterns; the first that is there
    counts), the parts of an image's path that make its id, how the files of a target are decoded, and by what the
    numbers of a 16-bit PNG are divided to give metres."""

    name: str
    sha256: str
    files: int
    places: Callable[[str], Sequence[str]]
    id_parts: Sequence[int]
    decode: Callable[..., Measured]
    png_scale: float
    origin: str

    def examples(self, root: Path | None, ids: Collection[str] | None = None) -> list[Example]:
        """One example a usable line of the list: source the image, target the depth map, or depth map and mask.

        With ``ids`` they are these, and no other files need be there.

        Raises:
            CrossFlowError: no root, a list that is not the published one, missing files (counted, first ones named).
        """
        if root is None or not root.is_dir():
            got = "none was given" if root is None else f"{root} is no folder (unpack archives first)"
            raise CrossFlowError(f"The data set {self.name} needs its root folder and {got}. {self.origin}")
        rows = [row[: self.files] for row in read_list(LISTS / f"{self.name}.txt", self.sha256) if row[1] != "None"]
        rows = rows if ids is None else [row for row in rows if self._id(row[0]) in ids]
        found = {listed: self._find(root, listed) for row in rows for listed in row}
        missing = [listed for listed, path in found.items() if path is None]
        if missing:
            raise CrossFlowError(
                f"{len(missing)} of {len(found)} files of the data set {self.name} are missing under {root}: "
                f"{first_few(missing)}. {self.origin}"
            )
        return [self._example(row[0], [path for listed in row if (path := found[listed])]) for row in rows]

    def read(self, target: Path | tuple[Path, ...]) -> Measured:
        """Read an example's target. Raises CrossFlowError for a file that is not of the data set's format."""
        return self.decode(*(target if isinstance(target, tuple) else (target,)))

    def _find(self, root: Path, listed: str) -> Path | None:
        return next((path for place in self.places(listed) for path in root.glob(place)), None)

    def _id(self, listed: str) -> str:
        parts = PurePosixPath(listed).with_suffix("").parts
        return "_".join(parts[part] for part in self.id_parts)

    def _example(self, listed: str, paths: Sequence[Path]) -> Example:
        image, *targets = paths
        return Example(
            id=self._id(listed),
            source=image,
            target=targets[0] if len(targets) == 1 else tuple(targets),
            tags={"data_set": self.name, "list_sha256": self.sha256},
        )


@dataclass(frozen=True)
class OwnDepth:
    """A folder of depth maps of one's own as references: .npy or .npz of metres, or 16-bit .png of millimetres.

    The image of a map's name, beside it or in a folder of its own (``rgb/a.png``, ``depth/a.png``), is what a model
    sees: see ``crossflow.files.depth_maps``.
    """

    png_scale: float = MILLIMETRES

    def examples(self, root: Path | None) -> list[Example]:
        """One example a depth map, by its name without folder and suffix. Raises CrossFlowError.

        The source is the image of the same name, where there is one that is no map; else the map's name.
        """
        if root is None:
            raise CrossFlowError("The suites own-depth need their references: --references FOLDER of depth maps.")
        maps, images = maps_and_images(root)
        if not maps:
            list_maps(root)  # says what is wrong with a folder that has none at all
            raise CrossFlowError(
                f"The folder {root} holds no depth maps but images: give .npy or .npz of metres, or 16-bit .png of "
                "one channel and millimetres."
            )
        by_id = replace(list_folder(root, PREDICTIONS, "depth map"), read=maps).by_stem()
        seen = partners(maps, images, "images")
        sources = {path: seen.get(name, path.name) for name, path in maps.items()}
        return [Example(id=name, source=sources[path], target=path) for name, path in by_id.items()]

    def read(self, target: Path) -> Measured:
        """Read an example's target; a pixel of 0, NaN or infinity has no depth. Raises CrossFlowError."""
        return read_map(target, self.png_scale), None


def list_maps(folder: Path) -> Listing:
    """The depth maps of a folder: its arrays alone where each .png is a picture of one, as ``from-image`` leaves them.

    Raises CrossFlowError where there are none.
    """
    listing = list_folder(folder, PREDICTIONS, "depth map").all_read()
    arrays = list_folder(folder, (".npy", ".npz"), "depth map")
    named, kept = ({PurePosixPath(name).with_suffix("") for name in each.read} for each in (listing, arrays))
    return arrays if named == kept else listing


def read_depth_folder(folder: Path, png_scale: float) -> ImageFolder:
    """Find and check every depth map of a folder and its subfolders (.npy, .npz, 16-bit .png), by file stem.

    Raises:
        CrossFlowError: no such folder, no depth maps, two maps with one stem, maps that cannot be read (all counted).
    """
    listing = list_maps(folder)
    maps = listing.by_stem()
    with file_threads() as pool:
        checked = list(pool.map(partial(_check, png_scale=png_scale), maps.values()))
    if bad := [why for _, why in checked if why]:
        raise CrossFlowError(f"{len(bad)} of {len(maps)} depth maps cannot be read. The first: {bad[0]}")
    if left := listing.left():
        _log.info("%s", left)
    digest = hashlib.sha256(f"png scale {png_scale}\n".encode())
    contents = {stem: content_sha256 for stem, (content_sha256, _) in zip(maps, checked, strict=True)}
    for stem, content_sha256 in contents.items():
        digest.update(f"{stem}\0{content_sha256}\n".encode())
    kinds = {stem: path.suffix.lower().lstrip(".").upper() for stem, path in maps.items()}
    return ImageFolder(files=maps, formats=kinds, contents=contents, sha256=digest.hexdigest())


def _check(path: Path, png_scale: float) -> tuple[str, str]:
    """Return (sha256 of the content, "") or ("", why it cannot be read)."""
    try:
        read_map(path, png_scale)
        return hashlib.sha256(path.read_bytes()).hexdigest(), ""
    except CrossFlowError as error:
        return "", str(error)


def _png_target(scale: float, path: Path) -> Measured:
    return read_depth_png(path, scale), None


def _eth3d_target(path: Path) -> Measured:
    """ETH3D's raw little-endian float32, row by row; a pixel without depth is infinite."""
    try:
        depth = np.fromfile(path, dtype="<f4")
    except OSError as error:
        raise CrossFlowError(f"Cannot read the depth map {path}: {error.strerror}.") from error
    height, width = ETH3D_SIZE
    if depth.size != height * width:
        raise CrossFlowError(f"{path} holds {depth.size} float32 where {height} x {width} are due; unpack it again.")
    return depth.reshape(ETH3D_SIZE), None


def _diode_target(path: Path, mask: Path) -> Measured:
    return read_array(path).astype(np.float32), read_array(mask).astype(bool)


def _nyuv2_places(listed: str) -> Sequence[str]:
    """Marigold counts the labelled images from 1 and sorts them by scene; BTS's extraction counts from 0."""
    kind, number = PurePosixPath(listed).stem.split("_")
    name = {"rgb": f"rgb_{int(number) - 1:05d}.jpg", "depth": f"sync_depth_{int(number) - 1:05d}.png"}[kind]
    return listed, f"official_splits/test/*/{name}", f"test/*/{name}", f"*/{name}"


def _eth3d_places(listed: str) -> Sequence[str]:
    parts = PurePosixPath(listed).parts
    return listed, "/".join(parts[1:] if parts[0] == "rgb" else parts[2:])


def _scannet_places(listed: str) -> Sequence[str]:
    """ScanNet's own exporter writes frame numbers without leading zeros."""
    path = PurePosixPath(listed)
    own = path.with_name(f"{int(path.stem)}{path.suffix}")
    return listed, str(own), f"scans/{own}"


def _under(*folders: str) -> Callable[[str], Sequence[str]]:
    return lambda listed: [f"{folder}{listed}" for folder in ("", *folders)]


KITTI = DepthSet(
    name="kitti",
    sha256="8d0499af9ab4c0d1cd7944d572b0e0e4412feab1e73f4003038426fde699b53a",
    files=2,
    places=_under("raw/", "train/", "val/", *(f"data_depth_annotated/{part}" for part in ("", "train/", "val/"))),
    id_parts=(1, -1),
    decode=partial(_png_target, 256.0),
    png_scale=256.0,
    origin="It is KITTI's raw data and annotated depth maps (cvlibs.net), or Marigold's kitti_eigen_split_test.tar.",
)
NYUV2 = DepthSet(
    name="nyuv2",
    sha256="d9a47a1568b7d70a737a4bc75a49e66827b8e354219e9eee332676dbaee34a69",
    files=2,
    places=_nyuv2_places,
    id_parts=(1, -1),
    decode=partial(_png_target, 1000.0),
    png_scale=1000.0,
    origin="It is official_splits/test as BTS's script extracts it from NYU's nyu_depth_v2_labeled.mat, "
    "or Marigold's nyu_labeled_extracted.tar.",
)
ETH3D = DepthSet(
    name="eth3d",
    sha256="39cf9f48bd524e51b1feda6092f84ed03b78eeaaf507c4068ab8130987e42971",
    files=2,
    places=_eth3d_places,
    id_parts=(1, -1),
    decode=_eth3d_target,
    png_scale=1000.0,
    origin="It is the high-resolution training images and depth (eth3d.net), or Marigold's eth3d.tar.",
)
SCANNET = DepthSet(
    name="scannet",
    sha256="066c76d6d8f93d6d7bed812e9c3bb0c375f08e7ff76569e13ce9c000dd74ead5",
    files=2,
    places=_scannet_places,
    id_parts=(0, -1),
    decode=partial(_png_target, 1000.0),
    png_scale=1000.0,
    origin="It is the exported color and depth frames (scan-net.org), or Marigold's scannet_val_sampled_800_1.tar.",
)
DIODE = DepthSet(
    name="diode",
    sha256="657e430e9e75530c91a9fa4f355234a71a5a0f1060381f0966feabc3643178ce",
    files=3,
    places=_under("val/"),
    id_parts=(-1,),
    decode=_diode_target,
    png_scale=1000.0,
    origin="It is the validation set (diode-dataset.org), or Marigold's diode_val.tar.",
)
