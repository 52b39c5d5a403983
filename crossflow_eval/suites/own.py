"""The suites of one's own data: references of any number and size, which ``--references`` names.

========================  ====================================================  ==================================
suite                     references                                            what is measured against them
========================  ====================================================  ==================================
``own-images``            a folder of images, statistics, published reference   images of a folder: FID and its kin
``own-images-captioned``  the same, and a captions file                         and how well images fit captions
``own-captions``          COCO captions .json, or .jsonl of id and caption      captions
``own-sr``                a folder of images                                    upscaled images of the same names:
                                                                                each with its own, and FID and its kin
========================  ====================================================  ==================================

``own-depth*``, against a folder of depth maps, stand with the other depth suites. No number of these can stand beside a
published one. What a number lacks is said by file (``Absent``), and measured by the next run once it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow.files.devices import own_device
from crossflow.files.listing import list_folder
from crossflow_eval.datasets.folder import match, read_captions
from crossflow_eval.datasets.references import read_references
from crossflow_eval.judges import efficientnet
from crossflow_eval.judges.features import FeatureExtractor, OnFeatures
from crossflow_eval.judges.local_weights import home
from crossflow_eval.judges.resize import preprocessing
from crossflow_eval.judges.statistics_files import Statistics
from crossflow_eval.judges.weights import PUBLISHED
from crossflow_eval.metrics.absent import Absent
from crossflow_eval.metrics.caption import CaptionScores
from crossflow_eval.metrics.distances import FeatureMetric, kid
from crossflow_eval.metrics.fid import FID, InceptionFID, KeptFeatures
from crossflow_eval.metrics.image_sets import DEFAULT, read_side, reference_features
from crossflow_eval.metrics.image_statistics import ImageStatistics
from crossflow_eval.metrics.pictures import Pictures, open_pictures
from crossflow_eval.metrics.restoration import Restoration
from crossflow_eval.models.folder import FolderModel
from crossflow_eval.suites.t2i import clip_scores
from crossflow_eval.types import Example, Metric, Output, Suite, Value

VERSION = "1"


class ImageReferences:
    """The references of images: statistics, or images whose features are made when first needed, once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def statistics(self) -> Mapping[str, Statistics] | None:
        """By tap, where the references are statistics; None where they are images."""
        return read_side(str(self.root), None)

    @cached_property
    def pictures(self) -> Pictures:
        """The images."""
        return open_pictures(self.root)

    def each(self) -> Iterable[np.ndarray]:
        """The images, one by one. Raises CrossFlowError where the references are statistics."""
        if self.statistics is not None:
            raise CrossFlowError(f"{self.root} holds statistics, and images are needed; give their folder.")
        return self.pictures.each()

    @property
    def sha256(self) -> str:
        """What names their content."""
        if self.statistics is not None:
            return self.statistics["pool"].origin["sha256"]
        return self.pictures.record["sha256"]

    @cached_property
    def lite(self) -> FeatureExtractor:
        """The network of FD-EfficientNet."""
        return efficientnet.EfficientNetFeatures(device=own_device("auto"))

    @cached_property
    def lite_features(self) -> KeptFeatures:
        """The images' features of it, all of them."""
        return reference_features(self.pictures, self.lite, whole=True)

    def fid(self) -> Metric:
        """FID under the statistics' own protocol, or ``clean`` of images."""
        from crossflow_eval.judges.inception import InceptionFeatures, published_weights

        protocol = DEFAULT if self.statistics is None else self.statistics["pool"].protocol["protocol"]
        if protocol == efficientnet.PROTOCOL:
            return Absent("the references are statistics of another network")
        weights = next(each for each in PUBLISHED if each.file == preprocessing(protocol).weights)
        if not (home() / weights.file).is_file():
            return Absent.of(weights)
        device = own_device("auto")
        if self.statistics is not None:
            statistics = self.statistics["pool"]
            published: Any = InceptionFID(published_weights(protocol), protocol, statistics, device=device)
            return published
        extractor = InceptionFeatures(published_weights(protocol), protocol, device=device)
        features = partial(reference_features, self.pictures, extractor)
        metric = FID(extractor, features, reference_name=self.root.name)
        metric.protocol = {**metric.protocol, **extractor.fingerprint}
        return metric

    def fd_efficientnet(self) -> Metric:
        """The Frechet distance that needs no download."""
        reference: Any = lambda: self.lite_features  # noqa: E731
        if self.statistics is not None:
            reference = self.statistics["pool"]
            if reference.protocol["protocol"] != efficientnet.PROTOCOL:
                return Absent("the references are statistics of another network")
        return FID(self.lite, reference, reference_name=self.root.name, name="fd_efficientnet")

    def kd_efficientnet(self) -> Metric:
        """The kernel distance that needs no download: of few images too."""
        if self.statistics is not None:
            return Absent("the references are statistics, of which there is no kernel distance")
        kernel: Any = _Kernel(self)
        return kernel


class _Kernel(FeatureMetric):
    """The kernel distance of EfficientNet's features, of subsets as large as both sets allow, at most 1,000."""

    def __init__(self, references: ImageReferences) -> None:
        super().__init__(references.lite, self._of(references, 2))
        self._references = references
        self.higher_is_better = {"kd_efficientnet": False}

    @staticmethod
    def _of(references: ImageReferences, size: int) -> Any:
        def features() -> np.ndarray:
            found = references.lite_features.features
            assert found is not None, "all are kept"
            return found

        return kid(features, references.root.name, size=size)

    def compute(self) -> dict[str, Any]:
        """``kd_efficientnet``. Raises CrossFlowError for fewer than two outputs or references."""
        size = min(sum(map(len, self._features)), self._references.pictures.n, 1000)
        statistic = self._of(self._references, max(size, 2))
        self.statistic, self.least = statistic, statistic.least
        self.protocol = {**self.protocol, **statistic.constants}
        return {"kd_efficientnet": super().compute()["kid"]}


class _OfSeveral(OnFeatures):
    """A distance beside what a single pair has too: of one output it gives no value, and says why."""

    def __init__(self, metric: Any) -> None:
        super().__init__(metric.extractor)
        self._metric, self._n = metric, 0
        self.protocol: Mapping[str, Any] = metric.protocol
        self.higher_is_better: Mapping[str, bool] = metric.higher_is_better

    @property
    def itself(self) -> Any:
        """The distance."""
        return self._metric

    def update(
        self, examples: Sequence[Example], outputs: Sequence[Output], features: np.ndarray | None = None
    ) -> None:
        """Take the outputs' features."""
        self._n += len(outputs)
        self._metric.update(examples, outputs, features)

    def compute(self) -> dict[str, Value]:
        """The distance, where there are two outputs or more."""
        values = self._metric.compute() if self._n > 1 else {}
        self.protocol = self._metric.protocol
        if self._n < 2:
            self.protocol = {**self.protocol, "warning": "not measured: one output has no distance"}
        return values


def _of_several(make: Callable[[], Metric]) -> Metric:
    metric = make()
    several: Any = _OfSeveral(metric) if isinstance(metric, OnFeatures) else metric
    return several


def _needed(root: Path | None, name: str) -> Path:
    if root is None:
        raise CrossFlowError(
            f"The suite {name} needs its references: --references, or --data of `score`, `compare` and `verify`."
        )
    return root


def _of_images(
    root: Path | None, name: str, opened: Callable[[Path], ImageReferences]
) -> dict[str, Callable[[], Metric]]:
    """FID and its kin against the references in ``root``."""

    def made(kind: str) -> Metric:
        return getattr(opened(_needed(root, name)), kind)()

    return {kind: partial(made, kind) for kind in ("fid", "fd_efficientnet", "kd_efficientnet")}


def images(root: Path | None, captions: Path | None = None, *, captioned: bool = False) -> Suite:
    """Images against references; with ``captions`` also against these. The examples are those of the folder.

    The references whose sha256 the examples bear are those that are measured against: they are opened once.
    """
    opened = cache(ImageReferences)
    name = "own-images-captioned" if captioned else "own-images"

    def fitted(model: object) -> Suite:
        def examples(root: Path | None) -> Sequence[Example]:
            tags = {"references": opened(_needed(root, name)).sha256}
            if captions is None and not isinstance(model, FolderModel):
                raise CrossFlowError("A model makes images of prompts: give --captions too, or --model folder.")
            if captions is None:
                assert isinstance(model, FolderModel)
                return [Example(id=key, source="", tags=tags) for key in model.images.files]
            known = read_captions(captions)
            if isinstance(model, FolderModel):
                keys = match(model.images, known, model.folder, captions)
            else:
                keys = list(known.of)
            return [Example(id=key, source=known.of[key][0], tags=tags) for key in keys]

        return Suite(**{**vars(suite), "examples": examples, "fitted": None})

    suite = Suite(
        name=name,
        version=VERSION,
        task="t2i",
        output="png",
        examples=lambda root: [],
        metrics={
            "image_statistics": ImageStatistics,
            **_of_images(root, name, opened),
            **(clip_scores() if captioned else {}),
        },
        root="references",
        fitted=fitted,
        real=None if root is None else lambda: opened(root).each(),
        captioned=None if captioned else lambda file: images(root, file, captioned=True),
    )
    return suite


def captions(root: Path | None) -> Suite:
    """Captions against references of one's own."""
    return Suite(
        name="own-captions",
        version=VERSION,
        task="caption",
        output="txt",
        examples=lambda root: read_references(_needed(root, "own-captions")),
        metrics={"captions": CaptionScores},
        root="references",
    )


def sr(root: Path | None) -> Suite:
    """Super-resolved images against the originals of their names."""

    def examples(root: Path | None) -> Sequence[Example]:
        originals = list_folder(_needed(root, "own-sr")).all_read().by_stem()
        return [Example(id=name, source=path, target=path) for name, path in originals.items()]

    return Suite(
        name="own-sr",
        version="2",
        task="sr",
        output="png",
        examples=examples,
        metrics={
            "restoration": Restoration,
            **{
                kind: partial(_of_several, make)
                for kind, make in _of_images(root, "own-sr", cache(ImageReferences)).items()
            },
        },
        root="references",
    )


SUITES: dict[str, Callable[[Path | None], Suite]] = {
    "own-images": images,
    "own-images-captioned": partial(images, captioned=True),
    "own-captions": captions,
    "own-sr": sr,
}
"""By name, each a function of its references."""
