"""The suite ``ucf101``: films of the actions of UCF-101 by FVD, as StyleGAN-V computes it.

The examples are 2,048 films of the first split's training list, drawn by their names: the source is the class in words,
the target the film, of which FVD takes 16 frames from a place that its name draws. Papers differ in prompts, number,
length and rate of their films, and rarely say which they took, so that a published FVD stands beside one of here only
as a sign of its size. The Inception Score of UCF-101 is not measured: the C3D that defines it is published as a program
whose sha256 is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from crossflow.errors import CrossFlowError
from crossflow.files.devices import own_device
from crossflow_eval.datasets.coco import lot
from crossflow_eval.datasets.ucf101 import read_films, read_part
from crossflow_eval.metrics.absent import Absent
from crossflow_eval.types import Example, Metric, Suite

VERSION = "1"
N = 2_048
NO_SCORE = (
    "the Inception Score of UCF-101 needs a C3D that is published as a program, and none is run here whose sha256 "
    "is not published"
)


def _fvd() -> Metric:
    from crossflow_eval.judges.i3d import FRAMES, published_i3d
    from crossflow_eval.metrics.fvd import FVD

    read = f"{FRAMES} frames in a row, from a place drawn by the film's name"
    return FVD(published_i3d(device=own_device("auto")), lambda each: read_part(Path(each.target), FRAMES), read)


def examples(root: Path | None) -> Sequence[Example]:
    """The films drawn, in the order of their lots. Raises CrossFlowError."""
    if root is None:
        raise CrossFlowError("The suite ucf101 needs its data root: --data FOLDER.")
    drawn = sorted(read_films(root), key=lambda film: lot(film.name, 0))[:N]
    return [Example(id=film.name, source=film.action, target=film.path) for film in drawn]


SUITE = Suite(
    name="ucf101",
    version=VERSION,
    task="t2v",
    output="webp",
    examples=examples,
    metrics={"fvd": _fvd, "inception_score": partial(Absent, NO_SCORE)},
)
