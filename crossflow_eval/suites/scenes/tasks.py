"""The embedded suites whose sources are images: captions, depth and super-resolution of ``crossflow.scenes``.

``scenes-caption``, ``scenes-depth`` and ``scenes-sr`` are the first 1,000 scenes of the split ``test``; the same with
``-val`` are those of ``val``, for choosing settings, never for reporting. Nothing is downloaded, and but for METEOR in
``scenes-caption-meteor`` nothing needs Java. The renders are drawn into ``CROSSFLOW_CACHE``
(:mod:`crossflow_eval.suites.scenes.images`). The numbers belong to this world; each run stands between the references
of :mod:`crossflow_eval.suites.scenes.references`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow_eval.metrics.crops import WHOLE
from crossflow_eval.metrics.depth import DepthErrors, DepthProtocol
from crossflow_eval.suites.scenes import images as scene_images
from crossflow_eval.suites.scenes import t2i as scenes
from crossflow_eval.suites.scenes.references import references
from crossflow_eval.suites.scenes.sizes import FACTOR, FARTHEST, HIGH, NEAREST, SIDE, Task
from crossflow_eval.types import Example, Metric, Suite

VERSION = "1"
COUNT = 1000
SUITES: dict[str, tuple[Task, str]] = {
    "scenes-caption": ("caption", "test"),
    "scenes-depth": ("depth", "test"),
    "scenes-sr": ("sr", "test"),
    "scenes-caption-meteor": ("caption", "test"),
    "scenes-caption-val": ("caption", "val"),
    "scenes-depth-val": ("depth", "val"),
    "scenes-sr-val": ("sr", "val"),
}
"""Suite -> its task and its split."""
WITH_METEOR = ("scenes-caption-meteor",)
"""Captions by METEOR too, beside all that ``scenes-caption`` gives: it needs Java. No suite has SPICE."""


def suite(name: str) -> Suite:
    """Build one of ``SUITES``."""
    task, split = SUITES[name]
    output = {"caption": "txt", "depth": "npy", "sr": "png"}
    metrics: dict[Task, Mapping[str, Callable[[], Metric]]] = {
        "caption": {"scene": _scene_captions, "captions": partial(_caption_scores, name in WITH_METEOR)},
        "depth": {"depth": partial(SceneDepth, ""), "objects": partial(SceneDepth, "objects")},
        "sr": {"restoration": _restoration, "fid": partial(_fid, split), "looks": _look_scores},
    }
    return Suite(
        name=name,
        version=VERSION,
        task=task,
        output=output[task],
        examples=partial(_examples, name),
        metrics=metrics[task],
        references=references(task, split),
        pictures=partial(pictures, task),
        one_size=True,
    )


def _examples(name: str, root: Path | None) -> Sequence[Example]:
    if root is not None:
        raise CrossFlowError(f"The suite {name} is embedded; leave --data out.")
    from crossflow.scenes import VERSION as WORLD
    from crossflow.scenes import example

    task, split = SUITES[name]
    drawn = [example(split, index) for index in range(COUNT)]
    tags = {"world": str(WORLD), "split": split}
    sources, targets = _pictures(task, split, {each.id: each.scene for each in drawn})
    if task == "caption":
        targets = {each.id: list(each.captions) for each in drawn}
    return [Example(id=each.id, source=sources[each.id], target=targets[each.id], tags=tags) for each in drawn]


def _pictures(task: Task, split: str, scene_of: Mapping[str, Any]) -> tuple[dict[str, Path], dict[str, Any]]:
    """Source files and, but for captions, targets by example id; the files are drawn where they are not right."""
    from crossflow.scenes import render
    from crossflow.scenes.depth import low_res

    if task == "sr":
        pairs = {name: low_res(scene, HIGH, FACTOR) for name, scene in scene_of.items()}
        low, high = (
            scene_images.keep(
                scene_images.cache_folder(split, side), {name: pair[number] for name, pair in pairs.items()}
            )
            for number, side in enumerate((HIGH // FACTOR, HIGH))
        )
        return low, dict(high)
    images = {name: render(scene, SIDE) for name, scene in scene_of.items()}
    sources = scene_images.keep(scene_images.cache_folder(split, SIDE), images)
    return sources, {name: depth_target(scene) for name, scene in scene_of.items()} if task == "depth" else {}


def pictures(task: Task, example_id: str) -> dict[str, np.ndarray]:
    """What an example looks like: its ``source`` and, but for captions, its ``target``.

    Images are uint8 [h w 3], depth maps float32 [h w] in metres.
    """
    from crossflow.scenes import example, render
    from crossflow.scenes.depth import depth_map, low_res

    split, _, index = example_id.rpartition("-")
    scene = example(split, int(index)).scene
    if task == "sr":
        return dict(zip(("source", "target"), low_res(scene, HIGH, FACTOR), strict=True))
    source = {"source": render(scene, SIDE)}
    return source | {"target": depth_map(scene, SIDE)} if task == "depth" else source


def depth_target(scene: Any) -> dict[str, np.ndarray]:
    """What depth is judged against: ``depth``, float32 [h w] in metres, inf in the sky; ``objects``, bool [h w]."""
    from crossflow.scenes.depth import depth_map
    from crossflow.scenes.render import object_masks

    return {"depth": depth_map(scene, SIDE), "objects": np.any(object_masks(scene, SIDE), axis=0)}


def _scene_captions() -> Metric:
    from crossflow_eval.metrics.scenes import SceneCaptions
    from crossflow_eval.suites.scenes.captions import GRAMMAR, look_at, read_caption

    return SceneCaptions(read_caption, look_at, grammar=GRAMMAR)


def _caption_scores(with_meteor: bool) -> Metric:
    from crossflow_eval.metrics.caption import CaptionScores

    return CaptionScores(tokens="words", with_meteor=with_meteor)


class SceneDepth(DepthErrors):
    """The ten errors over every valid pixel, or over those of ``objects``, whose names then begin with ``objects/``."""

    def __init__(self, part: Literal["", "objects"]) -> None:
        def read(target: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
            depth = target["depth"]
            valid = (depth > NEAREST) & (depth <= FARTHEST)
            return depth, valid & target["objects"] if part else valid

        super().__init__(DepthProtocol(min_depth=NEAREST, max_depth=FARTHEST, crops={part: WHOLE}), read)
        which = "that an object covers by half or more, " if part else ""
        self.protocol: Mapping[str, Any] = {
            **self.protocol,
            "pixels": f"those {which}with {NEAREST} m < depth <= {FARTHEST} m",
        }


def _restoration() -> Metric:
    from crossflow_eval.metrics.restoration import Restoration

    return Restoration()


def _fid(split: str) -> Metric:
    from crossflow_eval.metrics.fid import FID

    of = scenes.FID_REFERENCES
    name = f"{len(of)} real renders of {split} from {of.start}, {HIGH} px, reduced as the outputs are"
    return FID(HalvedFeatures(scenes.feature_judge()), partial(_reference_features, split), reference_name=name)


def _look_scores() -> Metric:
    from crossflow_eval.metrics.scenes import SceneInceptionScore

    judge = HalvedFeatures(scenes.feature_judge())
    return SceneInceptionScore(judge, judge.looks, classes="48 looks, a shape and a colour, of one object at random")


class HalvedFeatures:
    """The feature judge, which sees 32 pixels a side, on images of 64: each 2 x 2 pixels become their rounded mean."""

    def __init__(self, judge: Any) -> None:
        self._judge = judge
        self.name = f"{judge.name} of {SIDE} px area means"
        self.weights_sha256, self.dim = str(judge.weights_sha256), int(judge.dim)

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return the features, float32 [n dim]. Raises CrossFlowError for an image of another size."""
        return self._judge([halved(image) for image in images])

    def looks(self, features: np.ndarray) -> np.ndarray:
        """The judge's probabilities of what an object of each image is, float64 [n classes]."""
        return self._judge.looks(features)


def halved(image: np.ndarray) -> np.ndarray:
    """An image of HIGH pixels a side at SIDE, uint8 both. Raises CrossFlowError for another size."""
    if image.shape != (HIGH, HIGH, 3):
        raise CrossFlowError(
            f"The suite's images have the shape {[HIGH, HIGH, 3]}, got {list(image.shape)}; resize it."
        )
    step = HIGH // SIDE
    return np.rint(image.reshape(SIDE, step, SIDE, step, 3).mean(axis=(1, 3))).astype(np.uint8)


@cache
def _reference_features(split: str) -> np.ndarray:
    """Features of the real renders that FID compares with; float32 [5000 dim], computed once a process."""
    from crossflow.scenes import example, render
    from crossflow_eval.judges.features import extract

    renders = [render(example(split, index).scene, HIGH) for index in scenes.FID_REFERENCES]
    return extract(HalvedFeatures(scenes.feature_judge()), renders)
