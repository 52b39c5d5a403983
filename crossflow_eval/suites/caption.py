"""The suites ``coco_karpathy*``: captions of COCO images on A. Karpathy's split, against all references of an image.

The data root is a folder with Karpathy's ``caption_datasets.zip`` as published and, where a model is to see the images,
COCO's ``val2014`` beside it. Captions made elsewhere are scored without the images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

from crossflow.errors import CrossFlowError
from crossflow.files.devices import own_device
from crossflow.files.karpathy import ARCHIVE, read_split
from crossflow_eval.judges.local_weights import checked_sha256, home
from crossflow_eval.metrics.caption import CaptionScores
from crossflow_eval.types import Example, Metric, Suite

VERSION = "1"
SHA256 = "4cfd70132527b80933105e5829dc9034eaab9573482e2e680abbab6130244817"
"""Of the archive, as TensorFlow Datasets records it."""
ORIGIN = "Fetch cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip."
IMAGES = "val2014"


def _with_spice() -> Metric:
    return CaptionScores(spice_models=home())


def _clip_score() -> Metric:
    from crossflow_eval.metrics.clip_score import HESSEL, CaptionCLIPScore

    return CaptionCLIPScore(HESSEL.load(device=own_device("auto")))


SUITES: dict[str, tuple[Literal["val", "test"], Mapping[str, Callable[[], Metric]]]] = {
    "coco_karpathy": ("test", {"captions": CaptionScores}),
    "coco_karpathy_spice": ("test", {"captions": _with_spice}),
    "coco_karpathy_clip": ("test", {"clip_score": _clip_score}),
    "coco_karpathy_val": ("val", {"captions": CaptionScores}),
}
"""The 5,000 test images, also with SPICE, also by CLIPScore; and 5,000 other images for choosing checkpoints."""


def suite(name: str) -> Suite:
    """Build one of ``SUITES``."""
    split, metrics = SUITES[name]
    return Suite(
        name=name,
        version=VERSION,
        task="caption",
        output="txt",
        examples=partial(examples, split, needs_images="clip_score" in metrics),
        metrics=metrics,
    )


def examples(split: str, root: Path | None, *, needs_images: bool = False) -> list[Example]:
    """The images of a split: id its number in COCO, source its file, or its name where the images are not there.

    The target is the list of its references, five or more, as people wrote them.

    Raises:
        CrossFlowError: no root, no archive in it, an archive that is not the published one; no images where needed.
    """
    if root is None or not (root / ARCHIVE).is_file():
        got = "none was given" if root is None else f"there is no {ARCHIVE} in {root}"
        raise CrossFlowError(f"The Karpathy split needs its data root and {got}. {ORIGIN}")
    images = root / IMAGES
    if needs_images and not images.is_dir():
        raise CrossFlowError(
            f"There are no images in {images}; unpack images.cocodataset.org/zips/val2014.zip there, "
            "or choose the suite coco_karpathy, which needs none."
        )
    checked_sha256(root / ARCHIVE, SHA256)
    return [
        Example(
            id=str(each.number),
            source=images / each.file if images.is_dir() else each.file,
            target=list(each.captions),
        )
        for each in read_split(root / ARCHIVE)
        if each.split == split
    ]
