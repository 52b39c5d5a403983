"""From a data set in its own layout to a number on the field's suite, a task each, on some of its ids."""

import hashlib
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import small_sets
from small_paper_tasks import small

from crossflow.errors import CrossFlowError
from crossflow.files.tensors import read_header
from crossflow.recipes import CONFIGS
from crossflow.training.train import train
from crossflow_eval.datasets import depth as depth_data
from crossflow_eval.metrics.caption import CaptionScores
from crossflow_eval.report import load, render
from crossflow_eval.request import Request
from crossflow_eval.runs import launch
from crossflow_eval.suites import caption, depth, superres

DRIVE = "2011_09_26_drive_0002_sync"
IDS = [f"{DRIVE}_{frame:010d}" for frame in (5, 50)]


def trained(name, root, tmp_path, **changes):
    """A checkpoint of the small recipe after 30 steps; the loss and what it shows are there."""
    recipe = replace(small(name, steps=30), sample_every=30, **changes)
    path = train(recipe, tmp_path / "training", data=root, device="cpu", precision="fp32")
    assert read_header(path)["training"]["data"]["layouts"] == list(recipe.data.layouts)
    return path


def measured(task, suite, checkpoint, root, ids, tmp_path, **options):
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    request = Request(
        task=task,
        checkpoint=checkpoint,
        suite=suite,
        data=root,
        ids=tmp_path / "ids.txt",
        out=tmp_path / "run",
        **options,
    )
    result, folder = launch.evaluate(request)
    assert result.n == len(ids)
    return result, render([load(folder)], "md"), json.loads((folder / "settings.json").read_text())["identity"]


def list_of_test(monkeypatch, tmp_path):
    """KITTI's suites on a list of three images of our own."""
    lines = [
        f"2011_09_26/{DRIVE}/image_02/data/{frame:010d}.png "
        f"{DRIVE}/proj_depth/groundtruth/image_02/{frame:010d}.png 721.5377"
        for frame in (5, 50, 69)
    ]
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "kitti.txt").write_text("\n".join(lines))
    monkeypatch.setattr(depth_data, "LISTS", lists)
    data = replace(depth_data.KITTI, sha256=hashlib.sha256((lists / "kitti.txt").read_bytes()).hexdigest())
    for name in ("kitti_eigen", "kitti_affine"):
        monkeypatch.setitem(depth.SUITES, name, (data, depth.SUITES[name][1]))


def test_depth_from_kitti_to_its_suite_on_a_part_of_it(tmp_path, monkeypatch):
    """Both kinds of images lie in one root; the third image of the test list is not there, and not asked for."""
    list_of_test(monkeypatch, tmp_path)
    root = small_sets.small_kitti(tmp_path / "kitti", monkeypatch, count=2)
    for id in IDS:
        image, listed = f"2011_09_26/{DRIVE}/image_02/data/{id[-10:]}.png", f"{DRIVE}/proj_depth/groundtruth/image_02"
        small_sets.save(root / "raw" / image, small_sets.picture(375, 1242, int(id[-2:])))
        stored = small_sets.sparse(375, 1242, 256, 80, int(id[-2:]))
        small_sets.save(root / "val" / listed / f"{id[-10:]}.png", stored)
    checkpoint = trained("paper-depth-kitti", root, tmp_path)
    result, table, identity = measured("depth", "kitti_eigen", checkpoint, root, IDS, tmp_path, ensemble=3)
    assert 0 < result.values["garg/abs_rel"].mean < 20
    assert identity["ensemble"] == "the median of 3 seeds at every pixel"
    assert identity["sizes"].startswith("tiles of the size trained on")
    assert "Table 5" in table
    output = np.load(tmp_path / "run" / "outputs" / f"{IDS[0]}-0.npy")
    assert output.shape == (375, 1242)
    again = launch.score_again(tmp_path / "run", data=root)
    assert again == result


def test_relative_depth_from_two_data_sets_to_an_affine_suite(tmp_path, monkeypatch):
    list_of_test(monkeypatch, tmp_path)
    small_sets.small_hypersim(tmp_path / "sets" / "hypersim", size=(24, 32))
    small_sets.small_virtual_kitti(tmp_path / "sets" / "virtual-kitti", size=(20, 60))
    checkpoint = trained("paper-depth-zeroshot", tmp_path / "sets", tmp_path)
    root = tmp_path / "kitti"
    image, target = f"2011_09_26/{DRIVE}/image_02/data/{IDS[0][-10:]}.png", f"{DRIVE}/proj_depth/groundtruth/image_02"
    small_sets.save(root / image, small_sets.picture(375, 1242, 0))
    small_sets.save(root / target / f"{IDS[0][-10:]}.png", small_sets.sparse(375, 1242, 256, 80, 0))
    result, _, _ = measured("depth", "kitti_affine", checkpoint, root, IDS[:1], tmp_path)
    assert 0 < result.values["abs_rel"].mean < 20
    with pytest.raises(CrossFlowError, match=r"are relative: 0 is nearest, .* and this suite takes metres"):
        measured("depth", "kitti_eigen", checkpoint, root, IDS[:1], tmp_path)


def test_captions_from_coco_to_karpathys_test_images(tmp_path, monkeypatch):
    root = small_sets.coco(tmp_path / "coco")
    with zipfile.ZipFile(root / caption.ARCHIVE, "w") as archive:
        archive.write(root / "dataset_coco.json", "dataset_coco.json")
    monkeypatch.setattr(caption, "SHA256", hashlib.sha256((root / caption.ARCHIVE).read_bytes()).hexdigest())
    metrics = {"captions": lambda: CaptionScores(with_meteor=False)}
    monkeypatch.setitem(caption.SUITES, "coco_karpathy", ("test", metrics))
    checkpoint = trained("paper-caption", root, tmp_path)
    result, table, identity = measured("caption", "coco_karpathy", checkpoint, root, ["99"], tmp_path)
    assert 0 <= result.values["bleu_4"].mean <= 1
    assert "Table 4" in table
    assert identity["sizes"].startswith("the middle of an image")


@pytest.mark.parametrize("name", ["paper-sr", "paper-sr-standard"])
def test_super_resolution_from_imagenet_to_its_suite(tmp_path, name):
    originals = tmp_path / "originals"
    for number in range(2):
        small_sets.save(originals / f"ILSVRC2012_val_{number:08d}.png", small_sets.picture(256, 260, number))
    superres.prepare(originals, tmp_path / "pairs")
    root = small_sets.imagenet_folders(tmp_path / "imagenet")
    checkpoint = trained(name, root, tmp_path)
    ids = ["ILSVRC2012_val_00000001"]
    result, table, _ = measured("sr", "imagenet_sr", checkpoint, tmp_path / "pairs", ids, tmp_path)
    assert 0 < result.values["psnr_rgb"].mean < 60
    assert "Table 6" in table


def test_every_task_of_the_paper_has_its_recipes():
    tasks = ("paper-caption", "paper-depth-kitti", "paper-depth-nyuv2", "paper-depth-zeroshot", "paper-sr")
    for task in tasks:
        for name in (task, f"{task}-standard", f"{task}-small", f"{task}-small-standard"):
            assert CONFIGS[name].data.kind == "sets"
