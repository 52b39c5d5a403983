"""The data sets that models train on and suites test on: where they come from, how large they are, whose they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class PublishedSet:
    """One data set: the recipes and suites that read it, its official page, its size and its licence.

    ``sign`` are files or folders, below the data root or a subfolder of the set's name, that show that it is there.
    """

    name: str
    used_by: str
    page: str
    size: str
    licence: str
    sign: tuple[str, ...]

    def found(self, root: Path | None) -> Path | None:
        """Where the set lies below ``root``; None where it does not."""
        if root is None:
            return None
        folders = (root, root / self.name)
        return next((folder for folder in folders if any((folder / sign).exists() for sign in self.sign)), None)

    @property
    def said(self) -> str:
        """What it is for, where it comes from, how large it is and under what licence, in one line."""
        return f"for {self.used_by}; {self.size}; {self.licence}; {self.page}"


PUBLISHED_SETS = (
    PublishedSet(
        name="coco",
        used_by="paper-caption, coco_karpathy and the COCO suites",
        page="cocodataset.org, with caption_datasets.zip of cs.stanford.edu/people/karpathy/deepimagesent",
        size="train2014 13 GB, val2014 6 GB",
        licence="annotations CC BY 4.0, photographs under Flickr's terms",
        sign=("caption_datasets.zip", "dataset_coco.json", "annotations/captions_val2014.json"),
    ),
    PublishedSet(
        name="kitti",
        used_by="paper-depth-kitti, kitti_eigen and kitti_affine",
        page="cvlibs.net/datasets/kitti, with the list of train_test_inputs of github.com/cleinc/bts",
        size="raw drives about 175 GB, annotated depth 14 GB",
        licence="CC BY-NC-SA 3.0",
        sign=("eigen_train_files_with_gt.txt", "train_test_inputs", "2011_09_26", "raw/2011_09_26"),
    ),
    PublishedSet(
        name="nyuv2",
        used_by="paper-depth-nyuv2, nyuv2 and nyuv2_affine",
        page="cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html, as sync.zip of github.com/cleinc/bts",
        size="labelled images 2.8 GB, raw 428 GB, sync.zip a few GB",
        licence="research use, no licence stated",
        sign=("nyudepthv2_train_files_with_gt.txt", "sync", "official_splits"),
    ),
    PublishedSet(
        name="hypersim",
        used_by="paper-depth-zeroshot",
        page="github.com/apple/ml-hypersim",
        size="1.9 TB in all, of which colours, depth and entities are a part",
        licence="CC BY-SA 3.0",
        sign=("metadata_images_split_scene_v1.csv",),
    ),
    PublishedSet(
        name="virtual-kitti",
        used_by="paper-depth-zeroshot",
        page="europe.naverlabs.com/research/computer-vision/proxy-virtual-worlds-vkitti-2",
        size="vkitti_2.0.3_rgb.tar and vkitti_2.0.3_depth.tar, below 10 GB each",
        licence="CC BY-NC-SA 3.0",
        sign=("vkitti_2.0.3_rgb", "rgb/Scene02", "Scene02"),
    ),
    PublishedSet(
        name="imagenet",
        used_by="paper-sr and the suites imagenet_sr",
        page="image-net.org, after registration",
        size="training 138 GB, validation 6.3 GB",
        licence="non-commercial research and education, by its terms of access",
        sign=("ILSVRC2012_img_train.tar", "train/n01440764", "n01440764", "low"),
    ),
    PublishedSet(
        name="eth3d",
        used_by="eth3d_affine",
        page="eth3d.net, the high-resolution multi-view training images and depth",
        size="tens of GB",
        licence="CC BY-NC-SA 4.0",
        sign=("rgb", "courtyard"),
    ),
    PublishedSet(
        name="scannet",
        used_by="scannet_affine",
        page="scan-net.org, after its terms are signed",
        size="1.2 TB in all, of which 800 frames are read",
        licence="ScanNet's terms of use, research only",
        sign=("scans", "scene0011_00"),
    ),
    PublishedSet(
        name="diode",
        used_by="diode_affine",
        page="diode-dataset.org",
        size="validation 2.6 GB",
        licence="MIT",
        sign=("val/indoors", "indoors"),
    ),
    PublishedSet(
        name="audiocaps",
        used_by="audiocaps and audiocaps_caption",
        page="github.com/cdjkim/audiocaps has the captions, AudioSet's videos on YouTube the sounds",
        size="the test set's 975 clips of 10 s, 0.3 GB at 16 kHz",
        licence="captions MIT, sounds under the terms of their videos",
        sign=("test.csv",),
    ),
    PublishedSet(
        name="msrvtt",
        used_by="msrvtt, msrvtt_all and msrvtt_caption",
        page="the ACM MM challenge's pages are gone; test_videodatainfo.json and TestVideo are mirrored widely",
        size="the test set's 2,990 clips 2 GB, its list a few MB",
        licence="research use, no licence stated",
        sign=("test_videodatainfo.json", "MSRVTT_data.json"),
    ),
    PublishedSet(
        name="ucf101",
        used_by="ucf101",
        page="crcv.ucf.edu/data/UCF101.php, the films and the recognition task's splits",
        size="13,320 films, 6.5 GB",
        licence="research use, no licence stated",
        sign=("UCF-101", "ucfTrainTestlist"),
    ),
)
"""Sizes are rounded, and those of archives."""
