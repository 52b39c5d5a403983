"""The suites ``imagenet_sr*``: ImageNet's validation images from 64 to 256 pixels, after Table 6 of the paper.

The pairs are made once from the original files, by SR3's recipe (C. Saharia et al., 2021): an image whose shorter side
is below 256 pixels is dropped; of the others the largest square in the middle is shrunk to 256 x 256 by averaging
areas, and that to 64 x 64 by bicubic interpolation with antialiasing. Both are kept as 8-bit RGB PNG: ``low/<id>.png``
is the source, ``high/<id>.png`` the target.

``imagenet_sr`` gives PSNR and SSIM. ``imagenet_sr_fid`` adds the Inception Score and FID, for which it needs
Inception's weights and two references, because the paper names neither: ``fid/train`` is against guided-diffusion's
statistics of the training set (the published 1.9 of the originals themselves can only be of this kind), ``fid/val``
against the targets of the suite, to which the originals have the distance 0.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from crossflow.errors import CrossFlowError, first_few
from crossflow.files.devices import own_device
from crossflow_eval.judges.local_weights import home
from crossflow_eval.metrics.restoration import Restoration
from crossflow_eval.types import Example, Metric, Suite

VERSION = "1"
HIGH, LOW = 256, 64
"""Pixels a side of the targets and of the sources."""
ORIGINALS = (".jpeg", ".jpg", ".png")
COMMAND = "`crossflow-eval prepare imagenet-sr IMAGES ROOT`"
AT_A_TIME = 64
"""Originals between two steps of a preparation's progress."""

PROTOCOL = "adm"
"""Of FID: guided-diffusion's preprocessing, under which its statistics of the training set were made."""
STATISTICS = {
    "train": ("VIRTUAL_imagenet256_labeled.npz", "fetch it from guided-diffusion's reference batches"),
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
}


def suite(name: str) -> Suite:
    """Build one of ``SUITES``; its data root is a folder that :func:`prepare` made."""
    return Suite(name=name, version=VERSION, task="sr", output="png", examples=_examples, metrics=SUITES[name])


def _examples(root: Path | None) -> Sequence[Example]:
    if root is None or not all((root / part).is_dir() for part in ("low", "high")):
        raise CrossFlowError(
            f"The suites imagenet_sr need a data root with the folders low and high, got {root}; make it from "
            f"ImageNet's validation images with {COMMAND}."
        )
    low, high = ({path.stem: path for path in (root / part).glob("*.png")} for part in ("low", "high"))
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
    except OSError:
        return False


def prepare(
    images: Path,
    root: Path,
    track: Callable[[Sequence[Sequence[Path]], str], Iterable[Sequence[Path]]] = lambda batches, stage: batches,
) -> tuple[int, int]:
    """Make the pairs of the originals under ``images`` (also of its subfolders) in ``root``; returns (made, dropped).

    Pairs that are there already are kept, so that a preparation that was stopped goes on. ``track`` passes batches of
    originals through, to show progress.

    Raises:
        CrossFlowError: no originals, two of one name, originals that cannot be read, with the first of them, or pairs
            that cannot be written.
    """
    originals = sorted(path for path in images.rglob("*") if path.suffix.lower() in ORIGINALS)
    names = [path.stem for path in originals]
    if not originals or len(set(names)) < len(names):
        raise CrossFlowError(f"{images} holds {len(names)} images ({', '.join(ORIGINALS)}) of {len(set(names))} names.")
    try:
        for part in ("low", "high"):
            (root / part).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CrossFlowError(f"Cannot write {root}: {error.strerror}; give another folder.") from error
    batches = [originals[start : start + AT_A_TIME] for start in range(0, len(originals), AT_A_TIME)]
    with ThreadPoolExecutor() as pool:
        kept = [made for batch in track(batches, "pairs") for made in pool.map(partial(_prepare, root=root), batch)]
    return sum(kept), len(kept) - sum(kept)


def _prepare(original: Path, root: Path) -> bool:
    """Write the pair of one original; False where it is too small."""
    try:
        with Image.open(original) as image:
            if min(image.size) < HIGH:
                return False
            places = {part: root / part / f"{original.stem}.png" for part in ("low", "high")}
            if all(place.exists() for place in places.values()):
                return True
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's for damage
        raise CrossFlowError(f"Cannot read the image {original}: {error}; fetch it again, or move it away.") from error
    low, high = make_pair(pixels)
    for part, made in (("low", low), ("high", high)):
        temporary = places[part].with_suffix(".tmp")
        try:
            Image.fromarray(made).save(temporary, format="PNG")
            os.replace(temporary, places[part])
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise CrossFlowError(
                f"Cannot write {places[part]}: {error.strerror}; make room and run {COMMAND} again to go on."
            ) from error
    return True


def make_pair(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Source [64 64 3] and target [256 256 3] of an image, all uint8 RGB; its shorter side is at least 256 pixels."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(image[top : top + side, left : left + side])
    high = cv2.resize(square, (HIGH, HIGH), interpolation=cv2.INTER_AREA)
    low = np.asarray(Image.fromarray(high).resize((LOW, LOW), Image.Resampling.BICUBIC))
    return low, high
