"""The score on fakes whose answers are known by hand: what is asked, what is counted, what a row says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest

from crossflow_eval.metrics.geneval import TASKS, Detection, GenEval
from crossflow_eval.types import Example, Metric

IMAGE = np.zeros((40, 60, 3), np.uint8)


class Sees:
    """Detects in an image what its first pixel's number stands for."""

    protocol: ClassVar = {"weights_sha256": "d" * 64}

    def __init__(self, *scenes: Sequence[Detection]) -> None:
        self.scenes = scenes

    def __call__(self, image: np.ndarray) -> Sequence[Detection]:
        return self.scenes[image[0, 0, 0]]


class Red:
    """Calls everything red, and remembers what it was asked."""

    protocol: ClassVar = {"weights_sha256": "c" * 64}

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[float]]] = []

    def __call__(self, image: np.ndarray, detections: Sequence[Detection], label: str) -> list[str]:
        self.asked.append((label, [each.score for each in detections]))
        return ["red"] * len(detections)


def seen(label: str, score: float = 0.95) -> Detection:
    return Detection(label, score, (1, 2, 11, 12), mask=np.ones((40, 60), bool))


def numbered(number: int) -> np.ndarray:
    image = IMAGE.copy()
    image[0, 0, 0] = number
    return image


def example(id: str, task: str, *clauses: dict) -> Example:
    return Example(id=id, source=id, target={"tag": task, "include": list(clauses or [{"class": "cow", "count": 1}])})


def test_it_is_a_metric() -> None:
    assert isinstance(GenEval(Sees(), Red()), Metric)


def test_overall_is_the_mean_of_tasks_and_a_prompt_needs_one_right_image() -> None:
    """By hand: of one task two prompts, 1 of 4 and 0 of 4 images right; of each other task one prompt, 4 of 4."""
    metric = GenEval(Sees([], [seen("cow")]), Red())
    examples = [example("a", TASKS[0]), example("b", TASKS[0]), *(example(task, task) for task in TASKS[1:])]
    right = {"a": [1, 0, 0, 0], "b": [0, 0, 0, 0]}
    for each in examples:
        metric.update([each] * 4, [numbered(number) for number in right.get(each.id, [1] * 4)])
    values = metric.compute()
    assert values["geneval/single_object"].mean == 1 / 8
    assert values["geneval"].mean == pytest.approx((1 / 8 + 5) / 6)
    assert values["geneval_images"].mean == pytest.approx(21 / 28)
    assert values["geneval_prompts"].mean == pytest.approx(6 / 7)
    assert (values["geneval"].n, values["geneval/single_object"].n) == (7, 2)
    assert values["geneval"].ci_low is None and TASKS[1] in metric.protocol["warning"], "tasks of one example"
    first = values["geneval/single_object"]
    assert 0 <= first.ci_low < first.mean < first.ci_high <= 1
    assert values.keys() == metric.higher_is_better.keys()


def test_there_is_no_overall_value_where_a_task_is_missing() -> None:
    metric = GenEval(Sees([]), Red())
    metric.update([example("a", "colors")], [IMAGE])
    assert list(metric.compute()) == ["geneval/colors", "geneval_images", "geneval_prompts"]


def test_a_color_is_asked_of_the_objects_that_the_rules_use_and_of_no_other() -> None:
    """The most certain of the class that the clause names, as many as it counts, above the threshold."""
    red = Red()
    scene = [seen("cow", 0.5), seen("cow", 0.8), seen("cow", 0.2), seen("dog", 0.9), seen("tie", 0.9)]
    clauses = [{"class": "cow", "count": 1, "color": "red"}, {"class": "dog", "count": 1},
               {"class": "cat", "count": 1, "color": "blue"}]  # fmt: skip
    (row,) = GenEval(Sees(scene), red).update([example("a", "color_attr", *clauses)], [IMAGE])
    assert red.asked == [("cow", [0.8])]
    assert row["reason"] == "expected cat>=1, found 0"
    assert [(each["label"], each["score"], each["color"]) for each in row["detections"]] == [
        ("cow", 0.8, "red"), ("cow", 0.5, None), ("dog", 0.9, None), ("tie", 0.9, None)]  # fmt: skip


def test_the_wrong_color_is_wrong() -> None:
    clause = {"class": "cow", "count": 1, "color": "blue"}
    (row,) = GenEval(Sees([seen("cow")]), Red()).update([example("a", "colors", clause)], [IMAGE])
    assert row["reason"] == "expected blue cow>=1, found 0 blue; and 1 red"


def test_a_row_is_json_and_says_where_things_are() -> None:
    (row,) = GenEval(Sees([seen("cow", 0.94)]), Red()).update([example("a", "single_object")], [IMAGE])
    assert json.loads(json.dumps(row)) == row
    assert row["size"] == [60, 40]
    assert row["detections"] == [{"label": "cow", "color": None, "score": 0.94, "box": [1, 2, 11, 12]}]
    (row,) = GenEval(Sees([seen("cow", 0.89)]), Red()).update([example("a", "counting")], [IMAGE])
    assert row["detections"] == [] and row["correct"] is False


def test_both_judges_stand_in_the_protocol() -> None:
    protocol = GenEval(Sees(), Red()).protocol
    assert (protocol["detector"], protocol["colors"]) == (Sees.protocol, Red.protocol)
