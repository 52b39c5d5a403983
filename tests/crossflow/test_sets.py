"""Data sets in their own layouts: what is read of each, and what is said where a folder is another one."""

import json
import os
import tarfile
import tempfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import small_sets
from PIL import Image

from crossflow.errors import CrossFlowError, Notice
from crossflow.files.images import read_image
from crossflow.files.resizing import shrunk_pair
from crossflow.training.data.sets import LAYOUTS, hypersim, imagenet, kitti, nyuv2, open_sets, tars

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "real"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the shared data are not beside this checkout")


def test_coco_has_the_training_images_of_karpathys_split_with_all_captions(tmp_path):
    items = open_sets(("coco",), small_sets.coco(tmp_path))
    assert len(items) == 4
    assert items.names[0] == "val2014/COCO_val2014_000000000000.jpg"
    raw = items.read(1)
    assert raw.captions == tuple(f"{caption} 1" for caption in small_sets.CAPTIONS)
    assert np.array_equal(raw.image, read_image(tmp_path / items.names[1]))
    assert raw.depth is None


def test_kitti_is_read_from_its_raw_drives_and_annotated_depth(tmp_path, monkeypatch):
    items = open_sets(("kitti",), small_sets.small_kitti(tmp_path, monkeypatch, count=1))
    image, depth, _ = items.read(0)
    stored = small_sets.sparse(375, 1242, kitti.SCALE, 80, 0)
    assert image.shape == (375, 1242, 3)
    assert np.array_equal(np.isnan(depth), stored == 0)
    assert np.nanmax(np.abs(depth - stored / 256)) == 0


def test_nyuv2_has_no_measurement_in_its_white_frame(tmp_path, monkeypatch):
    items = open_sets(("nyuv2",), small_sets.small_nyuv2(tmp_path, monkeypatch, count=1))
    _, depth, _ = items.read(0)
    stored = small_sets.sparse(480, 640, nyuv2.SCALE, 10, 0)
    inside = np.zeros((480, 640), bool)
    inside[45:472, 43:608] = True
    assert np.array_equal(np.isfinite(depth), inside & (stored > 0))
    assert np.allclose(depth[np.isfinite(depth)], stored[np.isfinite(depth)] / 1000, rtol=1e-7)


def test_hypersim_has_the_public_training_frames_in_planar_depth(tmp_path):
    items = open_sets(("hypersim",), small_sets.small_hypersim(tmp_path))
    assert list(items.names) == ["ai_001_001/cam_00/0000", "ai_001_001/cam_00/0001"]
    image, depth, _ = items.read(0)
    folder = tmp_path / "ai_001_001/images/scene_cam_00_geometry_hdf5"
    with h5py.File(folder / "frame.0000.depth_meters.hdf5") as file:
        distance = np.array(file["dataset"]).astype(np.float64)
    assert np.isnan(depth[0, 0])
    x, y = np.meshgrid(np.arange(16) - 7.5, np.arange(12) - 5.5)
    expected = distance / np.sqrt(1 + (x / 886.81) ** 2 + (y / 886.81) ** 2)
    assert np.allclose(depth[1:], expected[1:], rtol=1e-6)
    assert image.dtype == np.uint8


def test_a_wall_parallel_to_the_image_has_one_planar_depth():
    """Law: points at depth z lie at the distance z sqrt(x^2 + y^2 + f^2) / f from the camera's centre."""
    x, y = np.meshgrid(np.arange(1024) - 511.5, np.arange(768) - 383.5)
    distance = 3.0 * np.sqrt(x**2 + y**2 + 886.81**2) / 886.81
    assert np.allclose(hypersim.planar(distance.astype(np.float32)), 3.0, rtol=1e-6)
    assert distance.max() > 3.69


def test_the_tone_map_brings_the_ninetieth_percentile_of_brightness_to_its_place():
    color = np.repeat(np.random.default_rng(0).uniform(0, 3, (50, 40, 1)), 3, axis=2)
    there = np.ones((50, 40), bool)
    mapped = hypersim.tone_mapped(color, there)
    assert np.percentile(mapped[..., 0], 90) / 255 == pytest.approx(0.8, abs=1 / 255)
    assert np.array_equal(hypersim.tone_mapped(7 * color, there), mapped)
    assert not hypersim.tone_mapped(1e-6 * color, there).any()


def test_virtual_kitti_has_marigolds_scenes_and_no_depth_in_the_sky(tmp_path):
    items = open_sets(("virtual-kitti",), small_sets.small_virtual_kitti(tmp_path))
    assert len(items) == 4 * 6 * 2
    assert not [name for name in items.names if "Scene01" in name or "fog" in name]
    depth = items.read(0).depth
    assert np.isnan(depth[0]).all()
    assert 1 <= depth[1:].min() <= depth[1:].max() < 79


def test_imagenet_as_folders_and_as_its_tar_of_tars_is_the_same(tmp_path):
    folders = small_sets.imagenet_folders(tmp_path / "folders")
    archive = small_sets.imagenet_archive(folders, tmp_path / "archive")
    unpacked, packed = (open_sets(("imagenet",), root) for root in (folders, archive))
    assert unpacked.names == packed.names
    assert unpacked.fingerprint == packed.fingerprint
    for index in range(4):
        assert np.array_equal(unpacked.read(index).image, packed.read(index).image)


def test_the_index_of_a_tar_is_made_once_and_again_for_another_file(tmp_path, monkeypatch):
    walked = []
    monkeypatch.setattr(tars, "_walked", lambda path, walk=tars._walked: walked.append(path) or walk(path))
    root = small_sets.tar_shards(tmp_path)
    first, again = (open_sets(("tars",), root) for _ in range(2))
    assert walked == [root / "part-0.tar", root / "part-1.tar"]
    assert first.names == again.names
    assert np.array_equal(first.read(2).image, again.read(2).image)
    small_sets.tar_shards(tmp_path, count=6)
    assert len(open_sets(("tars",), root)) == 6


def test_names_of_a_tar_may_be_of_any_bytes(tmp_path):
    """Of the walk and of the index that it leaves."""
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        small_sets.add(archive, "caf\u00e9.png", small_sets.jpeg(small_sets.picture(4, 4, 0)))
    first, again = (open_sets(("tars",), tmp_path) for _ in range(2))
    assert list(first.names) == list(again.names) == ["a.tar/caf\udce9"]
    assert first.fingerprint == again.fingerprint


def test_processes_of_one_launch_may_index_a_tar_at_the_same_time(tmp_path, monkeypatch):
    """Each walks the archive, for none has an index yet; the second is done while the first still writes."""
    path, fsync, inside = small_sets.tar_shards(tmp_path) / "part-0.tar", os.fsync, []

    def meanwhile(file: int) -> None:
        fsync(file)
        if not inside:
            with monkeypatch.context() as other:
                other.setattr(os, "getpid", lambda: -1)
                inside.append(1)
                inside.append(tars.members(path).names)

    monkeypatch.setattr(os, "fsync", meanwhile)
    assert tars.members(path).names == inside[1] == tars.members(path).names


def test_an_index_of_a_tar_that_is_damaged_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSFLOW_CACHE", str(tmp_path / "cache"))
    path = small_sets.tar_shards(tmp_path) / "part-0.tar"
    tars.members(path)
    [index] = (tmp_path / "cache" / "tars").iterdir()
    index.write_bytes(b"x")
    with pytest.raises(CrossFlowError, match="cannot be read: remove it, and it is made again"):
        tars.members(path)


def test_a_blank_caption_is_none(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        small_sets.add(archive, "a.png", small_sets.jpeg(small_sets.picture(4, 4, 0)))
        small_sets.add(archive, "a.json", b'{"caption": " "}')
    assert open_sets(("tars",), tmp_path).read(0).captions == ()


HEAD = b"included_in_public_release,split_partition_name,scene_name,camera_name,frame_id\n"


@pytest.mark.parametrize("split", [b"\xff\xfe", HEAD + b"True,train,ai_001_001\n", HEAD + b"True,train,,cam,1\n"])
def test_a_split_of_hypersim_that_is_none_is_one_sentence(tmp_path, split):
    (tmp_path / hypersim.SPLIT).write_bytes(split)
    with pytest.raises(CrossFlowError, match=r"split_scene_v1\.csv .* fetch Hypersim"):
        open_sets(("hypersim",), tmp_path)


def test_a_damaged_archive_of_captions_is_one_sentence(tmp_path):
    path = tmp_path / "caption_datasets.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("dataset_coco.json", json.dumps({"images": []}) + " " * 500)
    content = bytearray(path.read_bytes())
    content[30 + len("dataset_coco.json")] = 0xFF  # the first byte of what is compressed
    path.write_bytes(content)
    with pytest.raises(CrossFlowError, match=r"cannot be read, .* fetch caption_datasets\.zip"):
        open_sets(("coco",), tmp_path)


@pytest.mark.parametrize("name", ["..", "a/b", "a\0b", ""])
def test_a_split_that_names_files_elsewhere_is_refused(tmp_path, name):
    image = {"sentences": [], "filepath": "val2014", "cocoid": 1, "split": "train"}
    for changed in ({**image, "filename": name}, {**image, "filepath": name, "filename": "a.jpg"}):
        (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": [changed]}))
        with pytest.raises(CrossFlowError, match="is not Karpathy's split of COCO"):
            open_sets(("coco",), tmp_path)


def test_a_depth_map_of_another_size_is_left_to_whoever_cuts_it(tmp_path, monkeypatch):
    root = small_sets.small_nyuv2(tmp_path, monkeypatch, count=1)
    small_sets.save(root / "sync/kitchen_0028b/sync_depth_00000.png", np.ones((60, 80), np.uint16))
    assert open_sets(("nyuv2",), root).read(0).depth.shape == (60, 80)


def test_shards_of_tars_have_their_captions_as_text_or_json(tmp_path):
    items = open_sets(("tars",), small_sets.tar_shards(tmp_path))
    assert list(items.names) == ["part-0.tar/0000", "part-0.tar/0002", "part-1.tar/0001", "part-1.tar/0003"]
    assert [items.read(index).captions for index in (0, 2)] == [small_sets.CAPTIONS, small_sets.CAPTIONS[:1]]
    assert np.array_equal(items.read(2).image, small_sets.picture(40, 40, 1))


LINES = "\ufeffa ball\u2028on a table\r\n \na second\x0bcaption\n"
"""As editors and the web leave them: a byte order mark, Windows' ends of lines, separators that are none of ours."""


@pytest.mark.parametrize("layout", ["images", "tars"])
def test_captions_are_read_alike_beside_an_image_and_in_a_tar(tmp_path, layout):
    def read(text: bytes) -> tuple[str, ...]:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        parts = {"a.png": small_sets.jpeg(small_sets.picture(8, 8, 0)), "a.txt": text}
        if layout == "images":
            for name, content in parts.items():
                (folder / name).write_bytes(content)
        else:
            with tarfile.open(folder / "a.tar", "w") as archive:
                for name, content in parts.items():
                    small_sets.add(archive, name, content)
        return open_sets((layout,), folder).read(0).captions

    assert read(LINES.encode()) == ("a ball\u2028on a table", "a second\x0bcaption")
    with pytest.raises(CrossFlowError, match=r"The captions .* cannot be read \(it is not UTF-8 text"):
        read("café".encode("latin-1"))


def test_images_of_ones_own_have_the_captions_beside_them(tmp_path):
    small_sets.save(tmp_path / "a" / "one.jpg", small_sets.picture(8, 12, 0))
    small_sets.save(tmp_path / "two.png", small_sets.picture(4, 4, 1))
    (tmp_path / "a" / "one.txt").write_text("\n".join(["", *small_sets.CAPTIONS, " "]))
    items = open_sets(("images",), tmp_path)
    assert list(items.names) == ["a/one.jpg", "two.png"]
    assert [items.read(index).captions for index in range(2)] == [small_sets.CAPTIONS, ()]
    assert np.array_equal(items.read(1).image, small_sets.picture(4, 4, 1))


@pytest.mark.parametrize("table", ["captions.jsonl", "metadata.jsonl", "metadata.csv", "captions.json"])
def test_one_file_may_hold_the_captions_of_all_images_as_ours_or_cocos_or_hugging_faces(tmp_path, table):
    for name in ("a/one.jpg", "two.png"):
        small_sets.save(tmp_path / name, small_sets.picture(8, 12, 0))
    rows = [("a/one.jpg", "A cat."), ("a/one.jpg", "Two, cats.")]
    image, text = ("file_name", "text") if table.startswith("metadata") else ("image", "caption")
    written = {
        ".jsonl": "\n".join(json.dumps({image: name, text: caption}) for name, caption in rows),
        ".csv": "\n".join([f"{image},{text}", *(f'{name},"{caption}"' for name, caption in rows)]),
        ".json": json.dumps(
            {
                "images": [{"id": 1, "file_name": "a/one.jpg"}],
                "annotations": [{"image_id": 1, "caption": caption} for _, caption in rows],
            }
        ),
    }
    (tmp_path / table).write_text(written[Path(table).suffix])
    items = open_sets(("images",), tmp_path)
    assert [items.read(index).captions for index in range(2)] == [("A cat.", "Two, cats."), ()]
    (tmp_path / "captions.csv").write_text("image,caption\ntwo.png,a dog\n")
    with pytest.raises(CrossFlowError, match=r"several files of captions .*keep one"):
        open_sets(("images",), tmp_path)


def test_depth_maps_of_ones_own_are_found_beside_images_and_in_folders_of_their_own(tmp_path):
    """Metres of arrays, millimetres of 16-bit PNGs, which are no images; zero is no depth."""
    for name in ("rgb/x/1.png", "rgb/y/1.png", "2.jpg", "3.jpg"):
        small_sets.save(tmp_path / name, small_sets.picture(2, 3, 0))
    for name, depth in (("x/1", 1500), ("y/1", 2500)):
        small_sets.save(tmp_path / "depth" / f"{name}.png", np.full((2, 3), depth, np.uint16))
    np.save(tmp_path / "2.npy", np.array([[1.5, 0, np.inf], [2, np.nan, 3]], np.float32))
    items = open_sets(("images",), tmp_path)
    assert list(items.names) == ["2.jpg", "3.jpg", "rgb/x/1.png", "rgb/y/1.png"]
    depths = [items.read(index).depth for index in range(4)]
    nan = np.nan
    assert np.array_equal(depths[0], np.array([[1.5, nan, nan], [2, nan, 3]], np.float32), equal_nan=True)
    assert depths[1] is None
    assert [float(depth.mean()) for depth in depths[2:]] == [1.5, 2.5]
    with pytest.warns(Notice, match=r"1 of 4 images have no depth and are left out: 3\.jpg"):
        found = items.having("depth")
    assert list(found.names) == ["2.jpg", "rgb/x/1.png", "rgb/y/1.png"]
    assert float(found.read(1).depth.mean()) == 1.5
    small_sets.save(tmp_path / "other" / "x" / "1.png", np.full((2, 3), 9, np.uint16))
    with pytest.raises(CrossFlowError, match=r"Several depth maps are called as rgb/x/1\.png is"):
        open_sets(("images",), tmp_path)


def test_what_images_of_ones_own_lack_is_said_with_the_way_to_give_it(tmp_path):
    small_sets.save(tmp_path / "two.png", small_sets.picture(4, 4, 1))
    items = open_sets(("images",), tmp_path)
    with pytest.raises(CrossFlowError, match=r"None of the 1 images has a caption \(two.png\): write a caption a line"):
        items.having("captions")
    with pytest.raises(CrossFlowError, match=r"None of the 1 images has a depth .*NAME.npy of metres"):
        items.having("depth")
    np.save(tmp_path / "depth_two.npy", np.ones((4, 4), np.float32))
    with pytest.raises(CrossFlowError, match=r"the depth maps there are called otherwise \(depth_two\.npy\)"):
        open_sets(("images",), tmp_path).having("depth")


def test_several_data_sets_are_one_after_the_other(tmp_path):
    small_sets.small_hypersim(tmp_path / "hypersim")
    small_sets.small_virtual_kitti(tmp_path / "virtual-kitti")
    items = open_sets(("hypersim", "virtual-kitti"), tmp_path)
    assert len(items) == 2 + 48
    assert items.names[1].startswith("ai_001_001")
    assert items.names[2].startswith("Scene02")
    assert items.read(2).image.shape == (12, 40, 3)


@pytest.mark.parametrize(
    ("layout", "looked_for"),
    [
        ("coco", "caption_datasets.zip or dataset_coco.json"),
        ("kitti", "eigen_train_files_with_gt.txt"),
        ("nyuv2", "nyudepthv2_train_files_with_gt.txt"),
        ("hypersim", "metadata_images_split_scene_v1.csv"),
        ("virtual-kitti", "Scene02/15-deg-left/frames/rgb"),
        ("imagenet", "ILSVRC2012_img_train.tar"),
        ("images", "image"),
        ("tars", "*.tar"),
    ],
)
def test_a_wrong_layout_is_one_sentence_that_says_what_was_looked_for(tmp_path, layout, looked_for):
    with pytest.raises(CrossFlowError) as caught:
        open_sets((layout,), tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path} is not laid out as ")
    assert looked_for in message
    assert message.endswith(".")


def test_the_layouts_that_are_refused_are_all_there_are():
    assert set(LAYOUTS) == {"coco", "kitti", "nyuv2", "hypersim", "virtual-kitti", "imagenet", "images", "tars"}


def test_another_list_than_the_published_one_is_refused(tmp_path):
    (tmp_path / kitti.LIST).write_text("a b 1\n")
    with pytest.raises(CrossFlowError, match="is not the published list"):
        open_sets(("kitti",), tmp_path)


def test_a_list_most_of_whose_files_are_missing_is_another_layout(tmp_path, monkeypatch):
    small_sets.small_kitti(tmp_path, monkeypatch, count=3, size=(4, 8))
    (tmp_path / "train").rename(tmp_path / "elsewhere")
    with pytest.raises(CrossFlowError, match="3 of the 6 files that its list names are not there"):
        open_sets(("kitti",), tmp_path)


def test_a_tar_that_is_compressed_or_cut_off_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz") as archive:
        small_sets.add(archive, "a.png", small_sets.jpeg(small_sets.picture(4, 4, 0)))
    with pytest.raises(CrossFlowError, match="is no plain tar file"):
        open_sets(("tars",), tmp_path)
    folder = small_sets.tar_shards(tmp_path / "shards")
    items = open_sets(("tars",), folder)
    whole = (folder / "part-1.tar").read_bytes()
    (folder / "part-1.tar").write_bytes(whole[:3000])
    with pytest.raises(CrossFlowError, match="is cut off within 0003"):
        items.read(3)


def test_a_damaged_image_of_an_archive_is_named(tmp_path):
    root = tmp_path / "archive"
    root.mkdir()
    with tarfile.open(root / imagenet.ARCHIVE, "w") as archive:
        small_sets.add(archive, "n01440764/n01440764_1.JPEG", b"no image")
    items = open_sets(("imagenet",), root)
    with pytest.raises(CrossFlowError, match=r"n01440764_1\.JPEG of .* cannot be read"):
        items.read(0)


@needs_real
def test_real_pairs_of_kitti_and_nyuv2_are_read_as_they_are(tmp_path, monkeypatch):
    """KITTI's depth is 16 % dense and up to 80 m, NYU's nearly dense and up to 10 m; only links are made to them."""
    kitti_root, nyu_root = tmp_path / "kitti", tmp_path / "nyu"
    lines = []
    for path in sorted((REAL / "depth/kitti_demo/rgb").iterdir()):
        image, depth = f"2011_09_26/{path.name}", f"drive/{path.name}"
        for place, real in ((kitti_root / image, path), (kitti_root / depth, path.parents[1] / "depth" / path.name)):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(real)
        lines.append(f"{image} {depth} 707.0493")
    small_sets.listed(kitti, kitti_root, lines, monkeypatch)
    items = open_sets(("kitti",), kitti_root)
    for index in range(3):
        image, depth, _ = items.read(index)
        assert image.shape[:2] == depth.shape
        assert 0.1 < np.isfinite(depth).mean() < 0.25
        assert 2 < np.nanmin(depth) < np.nanmax(depth) < 90
    nyu_root.mkdir()
    nyu = REAL / "depth/nyu_demo"
    (nyu_root / "rgb").symlink_to(nyu / "rgb")
    (nyu_root / "depth").symlink_to(nyu / "depth")
    pairs = zip(sorted((nyu / "rgb").iterdir()), sorted((nyu / "depth").iterdir()), strict=True)
    small_sets.listed(nyuv2, nyu_root, [f"/rgb/{a.name} /depth/{b.name} 518.8579" for a, b in pairs], monkeypatch)
    items = open_sets(("nyuv2",), nyu_root)
    for index in range(3):
        image, depth, _ = items.read(index)
        assert image.shape == (480, 640, 3)
        assert np.isfinite(depth[nyuv2.INSIDE]).mean() > 0.5
        assert 0.4 < np.nanmin(depth) < np.nanmax(depth) <= 10
    with Image.open(REAL / "depth/nyu_demo/rgb" / items.names[0].split("/")[-1]) as opened:
        assert np.array_equal(items.read(0).image, np.asarray(opened))


@needs_real
def test_real_photographs_of_coco_are_read_with_their_captions(tmp_path):
    """Their split is ours, for the published one has none of val2017; every image is read, and shrinks to a pair."""
    mini = REAL / "coco_mini"
    (tmp_path / "val2017").symlink_to(mini / "val2017")
    record = json.loads((mini / "captions_val2017.json").read_text())
    captions = {each["id"]: [] for each in record["images"]}
    for each in record["annotations"]:
        captions[each["image_id"]].append({"raw": each["caption"]})
    rows = [
        {
            "cocoid": each["id"],
            "filepath": "val2017",
            "filename": each["file_name"],
            "split": "train",
            "sentences": captions[each["id"]],
        }
        for each in record["images"]
        if (mini / "val2017" / each["file_name"]).exists()
    ]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": rows}))
    items = open_sets(("coco",), tmp_path)
    assert len(items) == 24
    for index in range(len(items)):
        raw = items.read(index)
        assert len(raw.captions) >= 5
        low, high = shrunk_pair(raw.image, 256, 64)
        assert (low.shape, high.shape) == ((64, 64, 3), (256, 256, 3))
        assert abs(float(low.mean()) - float(high.mean())) < 0.5
