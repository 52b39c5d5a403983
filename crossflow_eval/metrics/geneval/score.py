"""The GenEval score: each image is judged by what is detected in it; the score is the mean of six tasks.

Source: D. Ghosh, H. Hajishirzi and L. Schmidt, "GenEval: an object-focused framework for evaluating text-to-image
alignment", NeurIPS 2023. It drifts from human judgement as models improve: by up to 17.7 points, says "GenEval 2",
arXiv 2512.16853.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from crossflow_eval.metrics.geneval.rules import (
    MAX_OBJECTS,
    MIN_SCORE,
    MIN_SCORE_COUNTING,
    POSITION_MARGIN,
    TASKS,
    Detection,
    judge,
    kept,
)
from crossflow_eval.stats import UNIT, WITHIN_BOUNDS, single_strata, stratified_mean
from crossflow_eval.types import Example, Output, Row, Value


@runtime_checkable
class Detects(Protocol):
    """What finds the objects of an image, uint8 RGB [h w 3]; ``Detector`` is GenEval's."""

    protocol: Mapping[str, Any]

    def __call__(self, image: np.ndarray) -> Sequence[Detection]:
        """Return the objects with their masks."""
        ...


@runtime_checkable
class NamesColors(Protocol):
    """What names the colours of an image's objects of one class; ``ColorClassifier`` is GenEval's."""

    protocol: Mapping[str, Any]

    def __call__(self, image: np.ndarray, detections: Sequence[Detection], label: str) -> Sequence[str]:
        """Return one colour a detection."""
        ...


class GenEval:
    """GenEval on images. An example's target is its specification; its outputs are judged one by one.

    Values, with intervals that resample examples: ``geneval/<task>``, the share of right images; ``geneval``, the
    unweighted mean of the six tasks, absent unless all have outputs; ``geneval_images``, the share of right images of
    all tasks; ``geneval_prompts``, the share of examples with a right image among theirs.
    """

    higher_is_better: Mapping[str, bool] = dict.fromkeys(
        ("geneval", *(f"geneval/{task}" for task in TASKS), "geneval_images", "geneval_prompts"), True
    )

    def __init__(self, detect: Detects, name_colors: NamesColors) -> None:
        self._detect, self._name_colors = detect, name_colors
        self.protocol: Mapping[str, Any] = {
            "rules": "GenEval",
            "min_score": MIN_SCORE,
            "min_score_counting": MIN_SCORE_COUNTING,
            "max_objects": MAX_OBJECTS,
            "max_overlap": 1.0,
            "position_margin": POSITION_MARGIN,
            "detector": dict(detect.protocol),
            "colors": dict(name_colors.protocol),
            "interval": WITHIN_BOUNDS,
        }
        self._verdicts: dict[str, dict[str, list[bool]]] = {task: defaultdict(list) for task in TASKS}

    def update(self, examples: Sequence[Example], outputs: Sequence[Output]) -> list[Row]:
        """Judge the images. Rows: task, correct, reason, size (width, height), detections (label, color, score, box).

        The detections of a row are those that count: certain enough, and at most 16 of a class.
        """
        return [self._judge(example, np.asarray(output)) for example, output in zip(examples, outputs, strict=True)]

    def _judge(self, example: Example, image: np.ndarray) -> Row:
        specification = example.target
        task = specification["tag"]
        detections = self._color(image, self._detect(image), specification)
        verdict = judge(detections, specification)
        self._verdicts[task][example.id].append(verdict.correct)
        labels = dict.fromkeys(detection.label for detection in detections)
        shown = [
            {"label": label, "color": each.color, "score": round(each.score, 4), "box": list(each.box)}
            for label in labels
            for each in kept(detections, label, task)
        ]
        return {
            "task": task,
            "correct": verdict.correct,
            "reason": verdict.reason,
            "size": [image.shape[1], image.shape[0]],
            "detections": shown,
        }

    def _color(
        self, image: np.ndarray, detections: Sequence[Detection], specification: Mapping[str, Any]
    ) -> list[Detection]:
        """The detections; those that the rules will ask for their colour now have one."""
        colors: dict[int, str] = {}
        for clause in specification.get("include", []):
            used = kept(detections, clause["class"], specification["tag"])[: clause["count"]]
            if "color" in clause and used:
                named = self._name_colors(image, used, clause["class"])
                colors |= {id(each): color for each, color in zip(used, named, strict=True)}
        return [replace(each, color=colors.get(id(each))) for each in detections]

    def compute(self) -> dict[str, Value]:
        """The mean of the tasks where all six have outputs, each task that has, and all images and prompts."""
        shares = {
            task: [float(np.mean(verdicts)) for verdicts in by_example.values()]
            for task, by_example in self._verdicts.items()
            if by_example
        }
        if warning := single_strata({task: len(of_task) for task, of_task in shares.items()}):
            self.protocol = {**self.protocol, "warning": warning}
        values = {"geneval": stratified_mean(shares, bounds=UNIT)} if len(shares) == len(TASKS) else {}
        values |= {f"geneval/{task}": stratified_mean({task: of_task}, bounds=UNIT) for task, of_task in shares.items()}
        everything = [share for of_task in shares.values() for share in of_task]
        values["geneval_images"] = stratified_mean({"all": everything}, bounds=UNIT)
        right = [float(share > 0) for share in everything]
        values["geneval_prompts"] = stratified_mean({"all": right}, bounds=UNIT)
        return values
