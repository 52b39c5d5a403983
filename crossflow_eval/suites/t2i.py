"""The suite ``folder``: prompts from a captions file, what the images are like, and how well they fit their prompts.

The first describes, and is no score of quality. The second, CLIP score, is measured where its weights are here; where
they are not the result names them. Distances need references: ``crossflow_eval.suites.own``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from crossflow.errors import CrossFlowError
from crossflow.files.devices import own_device
from crossflow_eval.datasets.folder import ImageFolder, match, read_captions
from crossflow_eval.judges.local_weights import home
from crossflow_eval.judges.weights import PUBLISHED
from crossflow_eval.metrics.absent import Absent
from crossflow_eval.metrics.image_statistics import ImageStatistics
from crossflow_eval.models.folder import FolderModel
from crossflow_eval.types import Example, Metric, Suite

VERSION = "1"


def clip_scores() -> dict[str, Callable[[], Metric]]:
    """The two published CLIP scores of images and their prompts, each where its weights are here."""
    return {f"clip_score_{file}": partial(_clip_score, file) for file in ("ViT-B-32", "ViT-L-14")}


def _clip_score(stem: str) -> Metric:
    from crossflow_eval.metrics.clip_score import COSINE100, HESSEL, CLIPScore

    protocol = next(each for each in (HESSEL, COSINE100) if each.file == f"{stem}.pt")
    weights = next(each for each in PUBLISHED if each.file == protocol.file)
    if not (home() / protocol.file).is_file():
        return Absent.of(weights)
    return CLIPScore(protocol.load(device=own_device("auto")), protocol)


def folder(images: ImageFolder | None = None, where: Path | None = None) -> Suite:
    """Build the suite; its data root is the captions file.

    With ``images`` (of the folder ``where``) every image must have a caption and every caption an image. Several
    captions for one image: the first is the prompt, and the tag ``captions`` says how many there were.
    """

    def examples(root: Path | None) -> Sequence[Example]:
        if root is None:
            raise CrossFlowError("The suite folder needs --captions FILE (.csv, .jsonl, or COCO .json).")
        captions = read_captions(root)
        keys = list(captions.of) if images is None else match(images, captions, where or Path(), root)
        return [
            Example(id=key, source=captions.of[key][0], tags={"captions": str(len(captions.of[key]))}) for key in keys
        ]

    def fitted(model: object) -> Suite:
        return folder(model.images, model.folder) if isinstance(model, FolderModel) else folder()

    return Suite(
        name="folder",
        version=VERSION,
        task="t2i",
        output="png",
        examples=examples,
        metrics={"image_statistics": ImageStatistics, **clip_scores()},
        root="captions",
        fitted=fitted,
    )
