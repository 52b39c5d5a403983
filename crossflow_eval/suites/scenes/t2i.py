"""The embedded text-to-image suites: prompts of ``crossflow.scenes`` in GenEval's six task forms, judged exactly.

Nothing is downloaded: the reader is exact and the two judges (feature CNN, dual encoder) are shipped. The numbers
belong to this world, so each run stands between two references: ``chance`` (real renders of scenes drawn without
looking at the prompt) and ``ceiling`` (real renders of the prompts' own scenes). Examples 0 to 999 of a split give the
prompts; 1,000 to 5,999 the real renders that FID compares with, so that the ceiling is 1,000 *other* real renders.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow_eval.types import Example, Metric, Suite

VERSION = "1"
PROMPTS = 1000
FID_REFERENCES = range(PROMPTS, PROMPTS + 5000)
SIDE = 32
"""Pixels a side of every reference render; the size that both judges see."""
SPLIT_OF = {"scenes-t2i": "test", "scenes-t2i-heldout": "test_heldout", "scenes-t2i-val": "val"}


def suite(name: str) -> Suite:
    """Build one of the suites of ``SPLIT_OF``: the first 1,000 prompts of its split.

    ``scenes-t2i-heldout`` names in each prompt a pair of shape and colour held out from training; ``scenes-t2i-val``
    is for choosing guidance, steps and checkpoints, never for reporting.
    """
    split = SPLIT_OF[name]

    def examples(root: Path | None) -> Sequence[Example]:
        if root is not None:
            raise CrossFlowError(f"The suite {name} is embedded; leave --data out.")
        from crossflow.scenes import VERSION as WORLD
        from crossflow.scenes import example

        tags = {"world": str(WORLD), "split": split}
        return [
            Example(id=each.id, source=each.prompt, target=each.specification, tags=tags | {"task": each.task})
            for each in (example(split, index) for index in range(PROMPTS))
        ]

    return Suite(
        name=name,
        version=VERSION,
        task="t2i",
        output="png",
        examples=examples,
        metrics={"geneval": _geneval, "fid": partial(_fid, split), "clip_score": _clip_score},
        references={"chance": RealRenders(split, "chance"), "ceiling": RealRenders(split, "ceiling")},
    )


class RealRenders:
    """A reference in a model's place: real renders, of the prompt's own scene (``ceiling``) or of any (``chance``)."""

    def __init__(self, split: str, role: Literal["chance", "ceiling"]) -> None:
        from crossflow.scenes import VERSION as WORLD

        self._split, self.name = split, role
        self.identity: Mapping[str, Any] = {"world": WORLD, "split": split, "renders": role, "side": SIDE}

    def read(self, example_id: str, index: int) -> np.ndarray:
        """Return the render, uint8 [SIDE SIDE 3], that stands for the ``index``-th output of an example."""
        own = int(example_id.rpartition("-")[2])
        if self.name == "ceiling":
            return _render(self._split, own)
        digest = hashlib.sha256(f"{example_id}\0{index}".encode()).digest()
        return _render(self._split, FID_REFERENCES.stop + int.from_bytes(digest[:4], "big"))


def _render(split: str, index: int) -> np.ndarray:
    from crossflow.scenes import example, render

    return render(example(split, index).scene, SIDE)


def _geneval() -> Metric:
    from crossflow.scenes import VERSION as WORLD
    from crossflow.scenes import read
    from crossflow_eval.metrics.scenes import SceneGenEval

    return SceneGenEval(read, reader=f"crossflow.scenes.read, world {WORLD}")


def _fid(split: str) -> Metric:
    from crossflow_eval.metrics.fid import FID

    name = f"{len(FID_REFERENCES)} real renders of {split} from {FID_REFERENCES.start}, {SIDE} px"
    return FID(feature_judge(), partial(_reference_features, split), reference_name=name)


def _clip_score() -> Metric:
    from crossflow.scenes.judges import load_clip
    from crossflow_eval.metrics.scenes import SceneCLIPScore

    judge = load_clip()
    return SceneCLIPScore(judge, judge.embed_texts)


@cache
def feature_judge() -> Any:
    """The shipped feature CNN, loaded once a process. Raises CrossFlowError where its file is not whole."""
    from crossflow.scenes.judges import load_features

    return load_features()


@cache
def _reference_features(split: str) -> np.ndarray:
    """Features of the real renders that FID compares with; float32 [5000 dim], computed once a process."""
    from crossflow_eval.judges.features import extract

    return extract(feature_judge(), [_render(split, index) for index in FID_REFERENCES])
