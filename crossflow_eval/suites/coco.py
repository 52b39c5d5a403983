"""The published text-to-image suites on COCO 2014 and their kin: five protocols that go by the name of FID-30K.

``crossflow-val`` is for choosing settings of models that ``uvit-crossflow`` or ``crossflow-10k`` report.

==================  =====================================  =======================================  ==================
suite               prompts                                reference of FID                         FID, CLIP score
==================  =====================================  =======================================  ==================
``uvit-crossflow``  30,000 of 40,504 images, one caption   U-ViT's statistics of val2014, 256 px    CrossFlow's own
``crossflow-10k``   the first 10,000 of these              the same                                 CrossFlow's own
``crossflow-val``   the 2,000 drawn after the 30,000       the same                                 CrossFlow's own
``coco30k-full``    30,000 of all captions                 all of val2014, 256 px                   TensorFlow, ViT-L
``t2ibenchmark``    30,000, published                      published statistics                     T2IBenchmark's own
``mjhq30k``         30,000, published                      all images of MJHQ-30K                   clean-fid, ViT-L
==================  =====================================  =======================================  ==================

The data root holds the data set as published (``datasets.coco``) and the statistics of the reference. Where
these are not published, or not there, they are made of the images once and kept in the data root.

What the papers leave open is settled here: CrossFlow and U-ViT draw prompts by the order of a shuffled loader, which
depends on the number of GPUs; Imagen, GLIDE and DALL-E 2 name neither seed nor resampling for ``coco30k-full``, and
outputs that are not 256 px are made so like the reference; T2IBenchmark itself resets one seed before every prompt and
keeps its own outputs as JPEG.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from crossflow.errors import CrossFlowError
from crossflow.files.devices import own_device
from crossflow.files.locks import writing_in
from crossflow.files.processes import file_threads
from crossflow_eval.datasets import coco as coco_data
from crossflow_eval.environment import environment
from crossflow_eval.judges.features import CHUNK, FeatureExtractor, extract
from crossflow_eval.judges.references import REFERENCES
from crossflow_eval.judges.statistics_files import Statistics, read_statistics, write_statistics
from crossflow_eval.metrics.fid import InceptionFID, RunningMoments
from crossflow_eval.types import Example, Metric, Suite

_log = logging.getLogger(__name__)
VERSION = "1"
SIDE = 256
"""Pixels a side of the reference images of COCO."""


@dataclass(frozen=True)
class Preparation:
    """What is done with an image before its features: nothing, or its central square is made ``SIDE`` pixels."""

    resampling: Image.Resampling | None = None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """A uint8 image [h w 3], prepared."""
        return image if self.resampling is None else coco_data.central_square(image, SIDE, self.resampling)

    @property
    def said(self) -> str:
        """The same in words, for the protocol."""
        if self.resampling is None:
            return "as it is"
        return f"the central square, {SIDE} px by Pillow, {self.resampling.name.lower()}"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What FID compares with, in the data root, under the FID ``protocol``.

    ``published`` is a file of statistics, ``origin`` where it comes from; without it ``made`` is read, and made of
    ``images`` where it is not there. ``name`` stands in the value: ``fid/<name>``.
    """

    name: str
    protocol: str
    published: str = ""
    origin: str = ""
    made: str = ""
    images: Callable[[Path], Sequence[Path]] | None = None
    preparation: Preparation = Preparation()


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One suite: ``n`` prompts of the data root, the reference of FID, and the CLIP score."""

    n: int
    prompts: Callable[[Path, int], list[Example]]
    reference: Reference
    clip: Literal["crossflow", "cosine100", "t2ibenchmark"]
    outputs: Preparation = Preparation()


UVIT = Reference(
    name="coco",
    protocol="crossflow",
    published=REFERENCES["coco-uvit"].file,
    origin=REFERENCES["coco-uvit"].origin,
    made="val2014-lanczos256-crossflow.npz",
    images=coco_data.val2014_images,
    preparation=Preparation(Image.Resampling.LANCZOS),
)
FULL = Reference(
    name="coco",
    protocol="legacy_tensorflow",
    made="val2014-bicubic256-legacy_tensorflow.npz",
    images=coco_data.val2014_images,
    preparation=Preparation(Image.Resampling.BICUBIC),
)
T2IBENCHMARK = Reference(
    name="coco",
    protocol="t2ibenchmark",
    published=REFERENCES["coco-t2ibenchmark"].file,
    origin=REFERENCES["coco-t2ibenchmark"].origin,
)
MJHQ = Reference(name="mjhq", protocol="clean", made="mjhq30k-clean.npz", images=coco_data.mjhq_images)

SUITES: dict[str, Protocol] = {
    "uvit-crossflow": Protocol(n=30_000, prompts=coco_data.one_caption_an_image, reference=UVIT, clip="crossflow"),
    "crossflow-10k": Protocol(n=10_000, prompts=coco_data.one_caption_an_image, reference=UVIT, clip="crossflow"),
    "crossflow-val": Protocol(
        n=2_000,
        prompts=partial(coco_data.one_caption_an_image, after=30_000),
        reference=UVIT,
        clip="crossflow",
    ),
    "coco30k-full": Protocol(
        n=30_000,
        prompts=coco_data.any_captions,
        reference=FULL,
        clip="cosine100",
        outputs=FULL.preparation,
    ),
    "t2ibenchmark": Protocol(
        n=30_000, prompts=coco_data.t2ibenchmark_captions, reference=T2IBENCHMARK, clip="t2ibenchmark"
    ),
    "mjhq30k": Protocol(n=30_000, prompts=coco_data.mjhq_prompts, reference=MJHQ, clip="cosine100"),
}


def suite(name: str, root: Path | None = None) -> Suite:
    """Build one of ``SUITES`` on the data root; without one its examples and its FID raise CrossFlowError."""
    protocol = SUITES[name]

    def examples(root: Path | None) -> list[Example]:
        return protocol.prompts(_given(root, name), protocol.n)

    return Suite(
        name=name,
        version=VERSION,
        task="t2i",
        output="png",
        examples=examples,
        metrics={"fid": partial(_fid, name, root), "clip_score": partial(_clip_score, protocol.clip)},
    )


def _given(root: Path | None, name: str) -> Path:
    if root is None:
        raise CrossFlowError(f"The suite {name} needs its data root: --data FOLDER.")
    return root


class Prepared:
    """An extractor behind a preparation of its images."""

    def __init__(self, extractor: FeatureExtractor, preparation: Preparation) -> None:
        self._extractor, self._prepare = extractor, preparation
        self.name = f"{extractor.name}-{preparation.said}"
        self.weights_sha256, self.dim = extractor.weights_sha256, extractor.dim

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """The features, float32 [n dim], of n images. One given several times is prepared once."""
        prepared = {id(image): self._prepare(image) for image in {id(image): image for image in images}.values()}
        return self._extractor([prepared[id(image)] for image in images])


class PreparedFID(InceptionFID):
    """FID against the reference of a ``protocol``, of outputs that are prepared like it."""

    def __init__(self, protocol: Protocol, weights: Any, statistics: Statistics, device: str) -> None:
        name = f"fid/{protocol.reference.name}"
        super().__init__(weights, protocol.reference.protocol, statistics, device=device, name=name)
        self.extractor = Prepared(self.extractor, protocol.outputs)
        self.protocol: Mapping[str, Any] = {**self.protocol, "outputs": protocol.outputs.said}


def _fid(name: str, root: Path | None) -> Metric:
    """FID against the suite's reference, called ``fid/<reference>``."""
    from crossflow_eval.judges.inception import published_weights

    protocol, reference, device = SUITES[name], SUITES[name].reference, own_device("auto")
    weights = published_weights(reference.protocol)
    statistics = _statistics(reference, _given(root, name), weights, device)
    return PreparedFID(protocol, weights, statistics, device)


def _clip_score(protocol: str) -> Metric:
    from crossflow_eval.metrics import clip_score

    known = {
        "crossflow": clip_score.CROSSFLOW,
        "cosine100": clip_score.COSINE100,
        "t2ibenchmark": clip_score.ClipProtocol(name="t2ibenchmark", file="ViT-B-32.pt", weight=1.0, floor="mean"),
    }
    return clip_score.CLIPScore(known[protocol].load(device=own_device("auto")), known[protocol])


def _statistics(reference: Reference, root: Path, weights: Any, device: str) -> Statistics:
    """The statistics of the reference, from their file; they are made where they are not published or not there."""
    published, made = root / reference.published, root / reference.made
    if reference.published and published.is_file():
        return read_statistics(published, reference.protocol)
    if reference.images is None:
        raise CrossFlowError(f"FID needs {published}; fetch it from {reference.origin}.")
    if not made.is_file():
        with writing_in(root, "making statistics", wait=True):  # the processes of a launch make a reference once
            if not made.is_file():
                _make(reference, made, reference.images(root), weights, device)
    return read_statistics(made, reference.protocol)


def _make(reference: Reference, out: Path, images: Sequence[Path], weights: Any, device: str) -> None:
    """Write the statistics of ``images``, each prepared, with the JSON that says how they were made."""
    from crossflow_eval.judges.inception import InceptionFeatures

    _log.info("Making %s of %d images, once.", out, len(images))
    extractor = InceptionFeatures(weights, reference.protocol, device=device)
    moments = RunningMoments(extractor.dim)
    with file_threads() as pool:
        for start in range(0, len(images), CHUNK):
            photographs = pool.map(coco_data.read_photograph, images[start : start + CHUNK])
            moments.add(extract(extractor, list(pool.map(reference.preparation, photographs))))
    source = {"folder": out.parent.name, "count": len(images), "prepared": reference.preparation.said}
    made = {"n": moments.n, "protocol": extractor.fingerprint, "images": source, "environment": environment()}
    write_statistics(out, {"pool": (moments.mean, moments.covariance)}, made)
