"""The data sets on disk: published lists only, every layout, every format, and files that are something else."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from crossflow.errors import CrossFlowError
from crossflow.files.depth_maps import read_map
from crossflow_eval.datasets import depth as depth_data
from crossflow_eval.datasets.depth import DIODE, ETH3D, KITTI, LISTS, NYUV2, SCANNET, read_list
from crossflow_eval.runs.run import list_examples
from crossflow_eval.types import Suite

SETS = {data.name: data for data in (KITTI, NYUV2, ETH3D, SCANNET, DIODE)}
USABLE = {"kitti": 652, "nyuv2": 654, "eth3d": 454, "scannet": 800, "diode": 771}
DRIVE = "2011_09_26_drive_0002_sync"
KITTI_RGB, KITTI_DEPTH = (
    f"2011_09_26/{DRIVE}/image_02/data/0000000069.png",
    f"proj_depth/groundtruth/image_02/{69:010d}.png",
)
OFFICE = "images/dslr_images/DSC_0219.JPG"
OFFICE_DEPTH = "ground_truth_depth/dslr_images/DSC_0219.JPG"
SCAN = "indoors/scene_00021/scan_00189/00021_00189_indoors_200_010"
DIODE_FILES = tuple(f"{SCAN}{end}" for end in (".png", "_depth.npy", "_depth_mask.npy"))
LISTED = {
    "kitti": f"{KITTI_RGB} {DRIVE}/{KITTI_DEPTH} 721.5377\n{KITTI_RGB.replace('69', '75')} None 721.5377",
    "nyuv2": "test/kitchen_0004/rgb_0046.png test/kitchen_0004/depth_0046.png test/kitchen_0004/filled_0046.png",
    "eth3d": f"rgb/office/{OFFICE} depth/office_dslr_depth/office/{OFFICE_DEPTH}",
    "scannet": "scene0406_02/color/000300.jpg scene0406_02/depth/000300.png",
    "diode": " ".join(DIODE_FILES),
}
"""The first line of each list; KITTI's second one has no depth map."""
LAYOUTS = [
    ("kitti", (KITTI_RGB, f"{DRIVE}/{KITTI_DEPTH}"), f"{DRIVE}_0000000069"),
    ("kitti", (KITTI_RGB, f"train/{DRIVE}/{KITTI_DEPTH}"), f"{DRIVE}_0000000069"),
    ("kitti", (f"raw/{KITTI_RGB}", f"data_depth_annotated/val/{DRIVE}/{KITTI_DEPTH}"), f"{DRIVE}_0000000069"),
    ("kitti", (f"raw/{KITTI_RGB}", f"data_depth_annotated/{DRIVE}/{KITTI_DEPTH}"), f"{DRIVE}_0000000069"),
    ("nyuv2", ("test/kitchen_0004/rgb_0046.png", "test/kitchen_0004/depth_0046.png"), "kitchen_0004_rgb_0046"),
    (
        "nyuv2",
        ("official_splits/test/kitchen/rgb_00045.jpg", "official_splits/test/kitchen/sync_depth_00045.png"),
        "kitchen_0004_rgb_0046",
    ),
    ("nyuv2", ("kitchen/rgb_00045.jpg", "kitchen/sync_depth_00045.png"), "kitchen_0004_rgb_0046"),
    ("eth3d", (f"rgb/office/{OFFICE}", f"depth/office_dslr_depth/office/{OFFICE_DEPTH}"), "office_DSC_0219"),
    ("eth3d", (f"office/{OFFICE}", f"office/{OFFICE_DEPTH}"), "office_DSC_0219"),
    ("scannet", ("scene0406_02/color/000300.jpg", "scene0406_02/depth/000300.png"), "scene0406_02_000300"),
    ("scannet", ("scans/scene0406_02/color/300.jpg", "scans/scene0406_02/depth/300.png"), "scene0406_02_000300"),
    ("diode", DIODE_FILES, "00021_00189_indoors_200_010"),
    ("diode", tuple(f"val/{name}" for name in DIODE_FILES), "00021_00189_indoors_200_010"),
]


@pytest.fixture
def lists(tmp_path, monkeypatch):
    """The data sets with lists of one usable line, whose hashes are put in the place of the published ones."""
    folder = tmp_path / "lists"
    folder.mkdir()
    monkeypatch.setattr(depth_data, "LISTS", folder)
    for name, text in LISTED.items():
        (folder / f"{name}.txt").write_text(text)
    return {
        name: replace(data, sha256=hashlib.sha256(LISTED[name].encode()).hexdigest()) for name, data in SETS.items()
    }


@pytest.mark.parametrize("name", SETS)
def test_the_shipped_lists_are_the_published_ones(name):
    rows = [row for row in read_list(LISTS / f"{name}.txt", SETS[name].sha256) if row[1] != "None"]
    assert len(rows) == USABLE[name]
    assert len({row[0] for row in rows}) == len(rows)
    assert all(len(row) >= SETS[name].files for row in rows)


@pytest.mark.parametrize("name", SETS)
def test_every_listed_image_has_an_id_that_can_name_a_file(name, tmp_path):
    """The whole list, with an empty file in the place of each that it names."""
    for row in read_list(LISTS / f"{name}.txt", SETS[name].sha256):
        for listed in row[: SETS[name].files] if row[1] != "None" else ():
            path = tmp_path / SETS[name].places(listed)[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    suite = Suite(name="x", version="1", task="depth", output="npy", examples=SETS[name].examples, metrics={})
    assert len(list_examples(suite, tmp_path)) == USABLE[name]


@pytest.mark.parametrize("change", [lambda text: text[:-1], lambda text: text.replace("0", "1", 1), lambda text: ""])
def test_a_list_that_does_not_match_its_hash_is_refused(change, tmp_path):
    altered = tmp_path / "nyuv2.txt"
    altered.write_text(change((LISTS / "nyuv2.txt").read_text()))
    with pytest.raises(CrossFlowError, match=r"has the sha256 \w{12}… and not d9a47a1568b7…"):
        read_list(altered, NYUV2.sha256)
    with pytest.raises(CrossFlowError, match="Cannot read the file list"):
        read_list(tmp_path / "none.txt", NYUV2.sha256)


@pytest.mark.parametrize(("name", "laid", "id"), LAYOUTS)
def test_a_data_set_is_found_in_each_of_its_layouts(name, laid, id, lists, tmp_path):
    root = tmp_path / "root"
    for place in laid:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).touch()
    (example,) = lists[name].examples(root)
    image, *targets = (root / place for place in laid)
    assert (example.id, example.source) == (id, image)
    assert example.target == (targets[0] if len(targets) == 1 else tuple(targets))
    assert example.tags["list_sha256"] == lists[name].sha256


@pytest.mark.parametrize("name", SETS)
def test_missing_files_are_counted_and_named(name, lists, tmp_path):
    count = SETS[name].files
    with pytest.raises(
        CrossFlowError, match=f"{count} of {count} files of the data set {name} are missing under .*: "
    ) as said:
        lists[name].examples(tmp_path)
    assert LISTED[name].split()[0] in str(said.value)
    assert "Marigold's" in str(said.value)
    for root in (None, tmp_path / "data.tar"):
        with pytest.raises(CrossFlowError, match=f"The data set {name} needs its root folder"):
            lists[name].examples(root)


def write_png(path, stored):
    Image.fromarray(np.asarray(stored, dtype=np.uint16)).save(path)


def test_targets_are_read_in_metres(tmp_path, monkeypatch):
    stored = np.array([[0, 256, 65535], [1000, 1, 20480]])
    write_png(tmp_path / "d.png", stored)
    for data, scale in ((KITTI, 256), (NYUV2, 1000), (SCANNET, 1000)):
        depth, mask = data.read(tmp_path / "d.png")
        assert depth.dtype == np.float32
        assert mask is None
        assert np.array_equal(depth, (stored / scale).astype(np.float32))

    monkeypatch.setattr(depth_data, "ETH3D_SIZE", (2, 3))
    raw = np.array([[1.5, np.inf, 2], [3, 4, 5]], dtype="<f4")
    (tmp_path / "DSC_0219.JPG").write_bytes(raw.tobytes())
    depth, mask = ETH3D.read(tmp_path / "DSC_0219.JPG")
    assert mask is None
    assert np.array_equal(depth, raw)

    np.save(tmp_path / "d_depth.npy", raw[..., None])
    np.save(tmp_path / "d_depth_mask.npy", np.array([[1.0, 0, 1], [1, 1, 0]]))
    depth, mask = DIODE.read((tmp_path / "d_depth.npy", tmp_path / "d_depth_mask.npy"))
    assert np.array_equal(depth, raw)
    assert mask is not None and mask.dtype == bool
    assert mask.sum() == 4


def test_one_prediction_reads_alike_from_every_format(tmp_path):
    depth = np.array([[1.0, 2.5], [80.0, 0.25]], dtype=np.float32)
    np.save(tmp_path / "a.npy", depth.astype(np.float64)[None])
    np.savez_compressed(tmp_path / "b.npz", depth=depth)
    write_png(tmp_path / "c.png", depth * 256)
    folder = depth_data.read_depth_folder(tmp_path, 256.0)
    assert folder.formats == {"a": "NPY", "b": "NPZ", "c": "PNG"}
    for path in folder.files.values():
        read = read_map(path, 256.0)
        assert read.dtype == np.float32
        assert np.array_equal(read, depth)


def test_the_hash_of_a_folder_is_of_names_contents_and_scale(tmp_path):
    seen = set()
    for name, value, scale in (("a", 1, 256.0), ("b", 1, 256.0), ("a", 2, 256.0), ("a", 1, 1000.0)):
        folder = tmp_path / f"{name}{value}{scale}"
        folder.mkdir()
        write_png(folder / f"{name}.png", [[value]])
        seen.add(depth_data.read_depth_folder(folder, scale).sha256)
    assert len(seen) == 4


def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path):
    with pytest.raises(CrossFlowError, match="There is no folder"):
        depth_data.read_depth_folder(tmp_path / "none", 256.0)
    with pytest.raises(CrossFlowError, match="holds no depth map"):
        depth_data.read_depth_folder(tmp_path, 256.0)
    np.save(tmp_path / "a.npy", np.ones((2, 2)))
    (tmp_path / "b.npz").write_bytes(b"PK\3\4 no archive")
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "c.png")
    with pytest.raises(CrossFlowError, match=r"2 of 3 depth maps cannot be read. The first: .*b\.npz"):
        depth_data.read_depth_folder(tmp_path, 256.0)
    write_png(tmp_path / "a.png", [[1]])
    with pytest.raises(CrossFlowError, match=r"share their name \(a\.npy, a\.png\)"):
        depth_data.read_depth_folder(tmp_path, 256.0)


@pytest.mark.parametrize(
    ("name", "write", "sentence"),
    [
        ("a.png", lambda path: Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(path), r"uint8 \[2, 3, 3\] where"),
        ("a.png", lambda path: Image.fromarray(np.zeros((2, 3), np.uint8)).save(path), r"uint8 \[2, 3\] where"),
        ("a.png", lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "Cannot read the depth map"),
        ("a.npy", lambda path: path.write_bytes(b"\x93NUMPY"), "Cannot read the depth map"),
        ("a.npy", lambda path: np.save(path, np.ones(4)), r"shapes \[4\]; expected one"),
        ("a.npy", lambda path: np.save(path, np.ones((2, 3), np.uint16)), "uint16, whose unit is not known"),
        ("a.npz", lambda path: np.savez(path, a=np.ones((2, 2)), b=np.ones((2, 2))), r"\[2, 2\], \[2, 2\]; expected"),
    ],
)
def test_files_that_are_no_depth_maps_are_refused(name, write, sentence, tmp_path):
    write(tmp_path / name)
    with pytest.raises(CrossFlowError, match=sentence):
        read_map(tmp_path / name, 256.0)


def test_a_raw_depth_map_of_another_size_is_refused(tmp_path):
    (tmp_path / "DSC_0219.JPG").write_bytes(bytes(400))
    with pytest.raises(CrossFlowError, match="holds 100 float32 where 4032 x 6048 are due"):
        ETH3D.read(tmp_path / "DSC_0219.JPG")
