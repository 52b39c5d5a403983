"""Data sets of a few small files, each in its own layout, as the tests of training on them make them."""

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from crossflow.training.data.sets import hypersim, kitti, nyuv2, virtual_kitti

DRIVE = "2011_09_26_drive_0057_sync"
CAPTIONS = ("A man rides a wave.", "Two dogs on a red sofa!")


def picture(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **({} if path.suffix != ".png" else {"compress_level": 1}))


def sparse(height: int, width: int, scale: float, farthest: float, seed: int) -> np.ndarray:
    """A 16-bit depth map, a fifth of which is measured."""
    generator = np.random.default_rng(seed)
    depth = generator.uniform(1, farthest, (height, width)) * (generator.random((height, width)) < 0.2)
    return (depth * scale).astype(np.uint16)


def coco(root: Path, count: int = 4, side: int = 40) -> Path:
    rows = []
    for number in range(count):
        folder, split = ("train2014", "train") if number % 2 else ("val2014", "restval")
        file = f"COCO_{folder}_{number:012d}.jpg"
        save(root / folder / file, picture(side, side + 8, number))
        sentences = [{"raw": f"{caption} {number}"} for caption in CAPTIONS]
        rows.append({"cocoid": number, "filepath": folder, "filename": file, "split": split, "sentences": sentences})
    rows.append({**rows[0], "cocoid": 99, "split": "test"})
    (root / "dataset_coco.json").write_text(json.dumps({"images": rows}))
    return root


def listed(module: object, root: Path, lines: list[str], patch) -> None:  # a list of our own in place of the published
    text = "\n".join(lines)
    (root / module.LIST).write_text(text)
    patch.setattr(module, "SHA256", hashlib.sha256(text.encode()).hexdigest())


def small_kitti(root: Path, patch, count: int = 4, size: tuple[int, int] = (375, 1242)) -> Path:
    lines = []
    for frame in range(count):
        image = f"2011_09_26/{DRIVE}/image_02/data/{frame:010d}.png"
        depth = f"{DRIVE}/proj_depth/groundtruth/image_02/{frame:010d}.png"
        save(root / "raw" / image, picture(*size, frame))
        save(root / "train" / depth, sparse(*size, kitti.SCALE, 80, frame))
        lines.append(f"{image} {depth} 721.5377")
    listed(kitti, root, lines, patch)
    return root


def small_nyuv2(root: Path, patch, count: int = 2) -> Path:
    lines = []
    for frame in range(count):
        image, depth = (f"/kitchen_0028b/{name}_{frame:05d}" for name in ("rgb", "sync_depth"))
        save(root / f"sync{image}.jpg", picture(480, 640, frame))
        save(root / f"sync{depth}.png", sparse(480, 640, nyuv2.SCALE, 10, frame))
        lines.append(f"{image}.jpg {depth}.png 518.8579")
    listed(nyuv2, root, lines, patch)
    return root


def small_hypersim(root: Path, count: int = 2, size: tuple[int, int] = (12, 16)) -> Path:
    """Public training frames, and two rows of the split that are neither."""
    rows: list[Mapping[str, object]] = []
    for frame in range(count + 2):
        public, part = ("True", "train") if frame < count else (("False", "train"), ("True", "val"))[frame - count]
        rows.append(
            {
                "scene_name": "ai_001_001",
                "camera_name": "cam_00",
                "frame_id": frame,
                "included_in_public_release": public,
                "exclude_reason": "",
                "split_partition_name": part,
            }
        )
    root.mkdir(parents=True, exist_ok=True)
    with (root / hypersim.SPLIT).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for frame in range(count):
        generator = np.random.default_rng(frame)
        entities = np.ones(size, np.int16)
        entities[0, 0] = -1
        parts = {
            "final_hdf5/frame.{:04d}.color": generator.uniform(0, 2, (*size, 3)).astype(np.float16),
            "geometry_hdf5/frame.{:04d}.depth_meters": generator.uniform(1, 9, size).astype(np.float16),
            "geometry_hdf5/frame.{:04d}.render_entity_id": entities,
        }
        for name, values in parts.items():
            path = root / "ai_001_001" / "images" / f"scene_cam_00_{name.format(frame)}.hdf5"
            path.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(path, "w") as file:
                file["dataset"] = values
    return root


def small_virtual_kitti(root: Path, size: tuple[int, int] = (12, 40)) -> Path:
    """One frame of every scene, condition and camera that is read, and of one of each that is not."""
    seed = 0
    for scene in (*virtual_kitti.SCENES, "Scene01"):
        for condition in (*virtual_kitti.CONDITIONS, "fog"):
            for camera in virtual_kitti.CAMERAS:
                frames, seed = f"{scene}/{condition}/frames", seed + 1
                image = root / "vkitti_2.0.3_rgb" / frames / "rgb" / camera / "rgb_00000.jpg"
                depth = root / "vkitti_2.0.3_depth" / frames / "depth" / camera / "depth_00000.png"
                save(image, picture(*size, seed))
                values = np.random.default_rng(seed).integers(100, 7900, size).astype(np.uint16)
                values[0] = 65535  # the sky
                save(depth, values)
    return root


def jpeg(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, format="PNG")
    return stream.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def imagenet_folders(root: Path, count: int = 4, side: int = 40) -> Path:
    for number in range(count):
        kind = f"n0144{number % 2:04d}"
        save(root / "train" / kind / f"{kind}_{number}.png", picture(side, side + number, number))
    return root


def imagenet_archive(folders: Path, root: Path) -> Path:
    """The images of ``folders`` as the tar of tars that ImageNet is given out as."""
    root.mkdir(parents=True)
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for kind in sorted((folders / "train").iterdir(), reverse=True):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for path in sorted(kind.iterdir()):
                    add(archive, path.name, path.read_bytes())
            add(outer, f"{kind.name}.tar", inner.getvalue())
    return root


def tar_shards(root: Path, count: int = 4, side: int = 40) -> Path:
    """Captions as text in one shard and as JSON in the other."""
    root.mkdir(parents=True, exist_ok=True)
    for shard in range(2):
        with tarfile.open(root / f"part-{shard}.tar", "w") as archive:
            for number in range(shard, count, 2):
                add(archive, f"{number:04d}.png", jpeg(picture(side, side, number)))
                if shard:
                    add(archive, f"{number:04d}.json", json.dumps({"caption": CAPTIONS[0]}).encode())
                else:
                    add(archive, f"{number:04d}.txt", "\n".join(CAPTIONS).encode())
    return root
