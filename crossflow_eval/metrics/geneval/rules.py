"""GenEval's decision rules: detections and a specification in, a verdict with its reason out.

Source: D. Ghosh, H. Hajishirzi and L. Schmidt, "GenEval: an object-focused framework for evaluating text-to-image
alignment", NeurIPS 2023, and its published evaluation script (MIT). No detector and no image is seen here: a detection
brings its label, score, box and, where a task asks for colour, the colour that a classifier gave it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossflow_eval.judges.geneval.detection import COLOR_ORDER, Box, Detection

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""The six tasks, in the order of the paper."""
MIN_SCORE = 0.3
"""A detection counts when its score lies above this."""
MIN_SCORE_COUNTING = 0.9
"""The same for the task ``counting``, where a doubtful extra object is as wrong as a missing one."""
MAX_OBJECTS = 16
"""How many detections of one class are kept."""
POSITION_MARGIN = 0.1
"""Part of the two boxes' summed sides by which their centres must differ before they have a relation."""


@dataclass(frozen=True)
class Verdict:
    """Whether an image is what its specification asks; ``reason`` has one line a failed clause, none if correct."""

    correct: bool
    reason: str


def judge(detections: Sequence[Detection], specification: Mapping[str, Any], max_overlap: float = 1.0) -> Verdict:
    """Judge an image's ``detections`` by a GenEval ``specification`` (``tag``, ``include``, ``exclude``).

    Of two detections of one class whose boxes overlap by ``max_overlap`` (IoU) or more, the less certain is dropped;
    1.0 drops none. Raises ValueError when a colour is asked of a detection that carries none.
    """
    task = specification["tag"]
    found = {label: kept(detections, label, task, max_overlap) for label in {d.label for d in detections}}
    reasons: list[str] = []
    groups: list[Sequence[Detection] | None] = []
    for clause in specification.get("include", []):
        used = found.get(clause["class"], [])[: clause["count"]]
        problem = _include_problem(used, clause, groups)
        groups.append(None if problem else used)
        reasons += [problem] if problem else []
    for clause in specification.get("exclude", []):
        count = len(found.get(clause["class"], []))
        if count >= clause["count"]:
            reasons.append(f"expected {clause['class']}<{clause['count']}, found {count}")
    return Verdict(correct=not reasons, reason="\n".join(reasons))


def kept(detections: Sequence[Detection], label: str, task: str, max_overlap: float = 1.0) -> list[Detection]:
    """The detections of one class that count for a task, most certain first; of equal scores the later comes first."""
    threshold = MIN_SCORE_COUNTING if task == "counting" else MIN_SCORE
    named = [detection for detection in detections if detection.label == label]
    order = np.argsort([detection.score for detection in named], kind="stable")[::-1]
    ranked = [named[i] for i in order if named[i].score > threshold][:MAX_OBJECTS]
    if max_overlap == 1.0:
        return ranked
    apart: list[Detection] = []
    for detection in ranked:
        if all(overlap(other.box, detection.box) < max_overlap for other in apart):
            apart.append(detection)
    return apart


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes whose last row and column count as covered (a side is high - low + 1)."""
    shared = _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = _area(a) + _area(b) - shared
    return shared / union if union else 0.0


def _area(box: Box) -> float:
    return float(max(box[2] - box[0] + 1, 0) * max(box[3] - box[1] + 1, 0))


def _include_problem(
    used: Sequence[Detection], clause: Mapping[str, Any], groups: Sequence[Sequence[Detection] | None]
) -> str:
    """What is wrong with the detections that stand for one ``include`` clause: a sentence, empty if nothing."""
    label, count = clause["class"], clause["count"]
    if len(used) < count:
        return f"expected {label}>={count}, found {len(used)}"
    problem = _color_problem(used, label, count, clause["color"]) if "color" in clause else ""
    if problem or "position" not in clause:
        return problem
    relation, group = clause["position"]
    targets = groups[group]
    if targets is None:
        return f"no target for {label} to be {relation}"
    for detection in used:
        for target in targets:
            actual = relations(detection.box, target.box)
            if relation not in actual:
                return f"expected {label} {relation} target, found {' and '.join(actual)} target"
    return ""


def _color_problem(used: Sequence[Detection], label: str, count: int, color: str) -> str:
    if missing := [detection for detection in used if detection.color is None]:
        raise ValueError(f"a colour is asked of {label!r}, but {len(missing)} of its {len(used)} detections carry none")
    colors = [str(detection.color) for detection in used]
    if colors.count(color) >= count:
        return ""
    names = [*(c for c in COLOR_ORDER if c in colors), *sorted(set(colors) - set(COLOR_ORDER))]
    others = ", ".join(f"{colors.count(name)} {name}" for name in names)
    return f"expected {color} {label}>={count}, found {colors.count(color)} {color}; and {others}"


def relations(box: Box, target: Box) -> tuple[str, ...]:
    """How ``box`` lies to ``target``: of "left of", "right of", "above", "below"; none, one, or two at a diagonal."""
    a, b = (np.asarray(corners, dtype=np.float64).reshape(2, 2) for corners in (box, target))
    offset = a.mean(axis=0) - b.mean(axis=0)
    sides = abs(np.diff(a, axis=0))[0] + abs(np.diff(b, axis=0))[0]
    clear = np.maximum(abs(offset) - POSITION_MARGIN * sides, 0.0) * np.sign(offset)
    if (abs(clear) < 1e-3).all():
        return ()
    right, down = clear / np.linalg.norm(offset)
    held = {"left of": right < -0.5, "right of": right > 0.5, "above": down < -0.5, "below": down > 0.5}
    return tuple(name for name, holds in held.items() if holds)
