"""The suites ``imagenet_sr*``: ImageNet's validation images from 64 to 256 pixels, after Table 6 of the paper.

The pairs are made once from the original files, by SR3's recipe (C. Saharia et al., 2021): an image whose shorter side
is below 256 pixels is dropped; of the others the largest square in the middle is shrunk to 256 x 256 by averaging
areas, and that to 64 x 64 by bicubic interpolation with antialiasing. Both are kept as 8-bit RGB PNG: ``low/<id>.png``
is the source, ``high/<id>.png`` the target.

``imagenet_sr`` gives PSNR and SSIM. ``imagenet_sr_fid`` adds the Inception Score and FID, for which it needs
Inception's weights and two references, because the paper names neither: ``fid/train`` is against guided-diffusion's
statistics of the training set (the published 1.9 of the originals themselves can only be of this kind), ``fid/val``
against the targets of the suite, to which the originals have the distance 0.

``imagenet_sr_conventions`` gives PSNR and SSIM by every convention in use, each under its name
(``metrics.restoration``): to compare with a paper, find the column that its code computes.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, ValidationError

from crossflow.errors import CrossFlowError, first_few
from crossflow.files.devices import own_device
from crossflow.files.hashes import file_sha256
from crossflow.files.images import DAMAGE, read_image
from crossflow.files.listing import list_folder
from crossflow.files.locks import writing_in
from crossflow.files.names import composed
from crossflow.files.processes import file_threads
from crossflow.files.resizing import shrunk_pair
from crossflow.files.writing import write_whole, written
from crossflow_eval.judges.local_weights import home
from crossflow_eval.judges.references import REFERENCES
from crossflow_eval.metrics.restoration import CHANNELS, MEASURES, Restoration
from crossflow_eval.types import Example, Metric, Suite

VERSION = "1"
HIGH, LOW = 256, 64
"""Pixels a side of the targets and of the sources."""
PARTS = ("low", "high")
"""The folders of sources and targets."""
COMMAND = "`crossflow-eval prepare imagenet-sr IMAGES ROOT`"
AT_A_TIME = 64
"""Originals between two steps of a preparation's progress."""

PROTOCOL = "adm"
"""Of FID: guided-diffusion's preprocessing, under which its statistics of the training set were made."""
_TRAIN = REFERENCES["imagenet256-adm"]
STATISTICS = {
    "train": (_TRAIN.file, f"fetch it from {_TRAIN.origin}"),
    "val": (
        "imagenet_sr_val.npz",
        "make it from the suite's folder high with `crossflow-eval stats high FILE --protocol adm`",
    ),
}
"""The references of FID by name: a file beside the weights, and where it comes from."""


def _fid(reference: str) -> Metric:
    from crossflow_eval.judges.inception import published_weights
    from crossflow_eval.judges.statistics_files import read_statistics
    from crossflow_eval.metrics.fid import InceptionFID

    name, remedy = STATISTICS[reference]
    file = home() / name
    if not file.is_file():
        raise CrossFlowError(f"fid/{reference} needs the statistics {file}; {remedy}, protocol {PROTOCOL}.")
    weights, device = published_weights(PROTOCOL), own_device("auto")
    statistics = read_statistics(file, PROTOCOL)
    metric: Any = InceptionFID(weights, PROTOCOL, statistics, device=device, name=f"fid/{reference}")
    return metric


def _inception_score() -> Metric:
    from crossflow_eval.judges.inception import InceptionFeatures, published_weights
    from crossflow_eval.metrics.distances import FeatureMetric, inception_score

    weights, device = published_weights(PROTOCOL), own_device("auto")
    return FeatureMetric(InceptionFeatures(weights, PROTOCOL, ("logits_unbiased",), device=device), inception_score())


SUITES: dict[str, Mapping[str, Callable[[], Metric]]] = {
    "imagenet_sr": {"restoration": Restoration},
    "imagenet_sr_fid": {
        "restoration": Restoration,
        **{f"fid/{reference}": partial(_fid, reference) for reference in STATISTICS},
        "inception_score": _inception_score,
    },
    "imagenet_sr_conventions": {
        "whole": partial(Restoration, measures=tuple(MEASURES), channels=tuple(CHANNELS)),
        "cropped": partial(Restoration, measures=tuple(MEASURES), channels=tuple(CHANNELS), border=HIGH // LOW),
    },
}


def suite(name: str) -> Suite:
    """Build one of ``SUITES``; its data root is a folder that :func:`prepare` made."""
    return Suite(name=name, version=VERSION, task="sr", output="png", examples=_examples, metrics=SUITES[name])


def _examples(root: Path | None) -> Sequence[Example]:
    if root is None or not all((root / part).is_dir() for part in PARTS):
        raise CrossFlowError(
            f"The suites imagenet_sr need a data root with the folders low and high, got {root}; make it from "
            f"ImageNet's validation images with {COMMAND}."
        )
    low, high = (list_folder(root / part, (".png",)).by_stem() for part in PARTS)
    alone = sorted(low.keys() ^ high.keys())
    if alone or not low:
        what = f"{len(alone)} images are in low or high alone: {first_few(alone)}" if alone else "there are no images"
        raise CrossFlowError(f"The pairs in {root} are not whole: {what}. Run {COMMAND} again.")
    wrong = [path.name for files, side in ((low, LOW), (high, HIGH)) for path in files.values() if not _is(path, side)]
    if wrong:
        raise CrossFlowError(
            f"{len(wrong)} files in {root} are not RGB images of {LOW} (low) or {HIGH} (high) pixels a side: "
            f"{first_few(sorted(wrong))}. Remove them and run {COMMAND} again."
        )
    return [Example(id=name, source=low[name], target=high[name]) for name in sorted(low)]


def _is(path: Path, side: int) -> bool:
    try:
        with Image.open(path) as image:
            return image.size == (side, side) and image.mode == "RGB"
    except DAMAGE:
        return False


def prepare(
    images: Path,
    root: Path,
    track: Callable[[Sequence[Sequence[Path]], str], Iterable[Sequence[Path]]] = lambda batches, stage: batches,
) -> tuple[int, int]:
    """Make the pairs of the originals under ``images`` (also of its subfolders) in ``root``; returns (made, dropped).

    ``pairs.jsonl`` records of which original each pair was made, and what its files hold. Pairs that are whole and of
    the same originals are kept, so that a preparation that was stopped goes on; the others are made again. ``track``
    passes batches of originals through, to show progress.

    Raises:
        CrossFlowError: no originals, two of one name, originals that cannot be read, with the first of them; a root
            with pairs of other images or files made by something else, in which another process prepares, or that
            cannot be written.
    """
    originals = list_folder(images).all_read().by_stem()
    inside = root.resolve().is_relative_to(images.resolve())
    if inside or images.resolve() in [(root / part).resolve() for part in PARTS]:
        raise CrossFlowError(f"The root {root} and the originals {images} lie in one another: give another root.")
    paths = list(originals.values())
    batches = [paths[start : start + AT_A_TIME] for start in range(0, len(paths), AT_A_TIME)]
    with writing_in(root, "preparing"), file_threads() as pool:
        record = _Record(root)
        if others := sorted(record.names() - originals.keys()):
            raise CrossFlowError(
                f"{root} holds pairs of {len(others)} images that are not in {images} ({first_few(others)}): give "
                "another root, or move them away."
            )
        kept = [made for batch in track(batches, "pairs") for made in pool.map(record.prepare, batch)]
        record.sort()
    return sum(kept), len(kept) - sum(kept)


class _Pair(BaseModel, frozen=True, extra="forbid"):
    """A line of ``pairs.jsonl``: the name of a pair, and the sha256 of its original and of its two files."""

    name: str
    original: str
    low: str
    high: str


class _Record:
    """``pairs.jsonl`` in a root, read up to a line that was cut short, then appended to by several threads."""

    def __init__(self, root: Path) -> None:
        self._root, self._path, self._lock = root, root / "pairs.jsonl", Lock()
        self._pairs: dict[str, _Pair] = {}
        content = self._path.read_bytes() if self._path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        try:
            pairs = map(_Pair.model_validate_json, whole.splitlines())
            self._pairs = {pair.name: pair for pair in pairs}
        except ValidationError as error:
            raise CrossFlowError(f"{self._path} is no record of pairs: move it away, or give another root.") from error
        with written(self._path), self._path.open("ab") as file:
            file.truncate(len(whole))

    def names(self) -> set[str]:
        """The names of all pairs and files in the root."""
        there = [self._root / part for part in PARTS if (self._root / part).is_dir()]
        return {stem for folder in there for stem in list_folder(folder).by_stem()} | self._pairs.keys()

    def prepare(self, original: Path) -> bool:
        """Make the pair of one original where it is not there; False where the original is too small."""
        name = composed(original.stem)
        places = {part: self._root / part / f"{name}.png" for part in PARTS}
        known = self._pairs.get(name)
        try:
            content = original.read_bytes()
            sha256 = hashlib.sha256(content).hexdigest()
            if known and known.original == sha256 and all(_holds(places[p], getattr(known, p)) for p in PARTS):
                return True
            with Image.open(io.BytesIO(content)) as image:
                pixels = np.asarray(image.convert("RGB")) if min(image.size) >= HIGH else None
        except DAMAGE as error:
            raise CrossFlowError(
                f"Cannot read the image {original}: {error}; fetch it again, or move it away."
            ) from error
        if pixels is None:
            _refuse(original, [place for place in places.values() if place.exists()])
            return False
        made: dict[str, np.ndarray] = dict(zip(PARTS, shrunk_pair(pixels, HIGH, LOW), strict=True))
        left = [part for part in PARTS if not _shows(places[part], made[part])]
        if known is None:
            _refuse(original, [places[part] for part in left if places[part].exists()])
        for part in left:
            write_whole(places[part], _png(made[part]))
        self._append(_Pair(name=name, original=sha256, **{part: file_sha256(places[part]) for part in PARTS}))
        return True

    def sort(self) -> None:
        """Write the record anew, each pair once and by name, so that it does not depend on interruptions."""
        pairs = sorted(self._pairs.values(), key=lambda pair: pair.name)
        write_whole(self._path, "".join(f"{pair.model_dump_json()}\n" for pair in pairs).encode())

    def _append(self, pair: _Pair) -> None:
        self._pairs[pair.name] = pair
        with self._lock, written(self._path), self._path.open("ab") as file:
            file.write(pair.model_dump_json().encode() + b"\n")


def _refuse(original: Path, foreign: Sequence[Path]) -> None:
    if foreign:
        raise CrossFlowError(
            f"{foreign[0]} is there, and was not made of {original}: give another root, or move it away."
        )


def _holds(path: Path, sha256: str) -> bool:
    """Whether a file is there and whole."""
    return path.is_file() and file_sha256(path) == sha256


def _shows(path: Path, image: np.ndarray) -> bool:
    """Whether a file is a picture of exactly this image."""
    try:
        return np.array_equal(np.asarray(read_image(path)), image)
    except CrossFlowError:
        return False


def _png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG")
    return stream.getvalue()
