"""The decision rules against GenEval's own, case by case, and the laws that the cases may not reach."""

import json
import re
from dataclasses import replace

import pytest
from golden_files import golden_file

from crossflow_eval.metrics.geneval import (
    MAX_OBJECTS,
    Detection,
    judge,
    overlap,
    relations,
)

RING = Detection("ring", 1.0, (10, 10, 20, 20), color="cyan")
ONE_RING = {"tag": "single_object", "include": [{"class": "ring", "count": 1}]}


def unordered(reason: str) -> list[str]:
    """The lines of a reason with the relations that "and" joins sorted: their order is arbitrary in the oracle."""
    lines = reason.split("\n")
    return [re.sub(r"found (.*) target", lambda m: str(sorted(m[1].split(" and "))), line) for line in lines]


def test_every_golden_case_has_the_original_verdict_and_reason() -> None:
    cases = [json.loads(line) for line in golden_file("geneval_rules.jsonl").read_bytes().splitlines()]
    assert len(cases) == 1993
    for case in cases:
        detections = [Detection(d["label"], d["score"], tuple(d["box"]), d["color"]) for d in case["detections"]]
        verdict = judge(detections, case["metadata"], case["max_overlap"])
        assert verdict.correct == case["correct"], case
        assert unordered(verdict.reason) == unordered(case["reason"]), case


@pytest.mark.parametrize(("tag", "score", "correct"), [("colors", 0.3, False), ("colors", 0.30001, True)])
def test_the_threshold_itself_is_too_low(tag: str, score: float, correct: bool) -> None:
    specification = {"tag": tag, "include": [{"class": "ring", "count": 1}]}
    assert judge([replace(RING, score=score)], specification).correct is correct


def test_counting_asks_for_certainty() -> None:
    counting = ONE_RING | {"tag": "counting"}
    assert judge([replace(RING, score=0.9)], counting).reason == "expected ring>=1, found 0"
    assert judge([replace(RING, score=0.91)], counting).correct


def test_exclude_counts_no_more_than_sixteen() -> None:
    specification = {"tag": "counting", "exclude": [{"class": "ring", "count": 5}]}
    assert judge([RING] * 20, specification).reason == f"expected ring<5, found {MAX_OBJECTS}"


def test_only_the_most_certain_object_is_asked_its_color() -> None:
    red = {"tag": "colors", "include": [{"class": "ring", "count": 1, "color": "red"}]}
    verdict = judge([replace(RING, color="red", score=0.8), RING], red)
    assert verdict.reason == "expected red ring>=1, found 0 red; and 1 cyan"


def test_of_equal_scores_the_later_comes_first() -> None:
    red = {"tag": "colors", "include": [{"class": "ring", "count": 1, "color": "red"}]}
    assert judge([RING, replace(RING, color="red")], red).correct
    assert not judge([replace(RING, color="red"), RING], red).correct


def test_overlapping_boxes_are_dropped_only_when_asked() -> None:
    two = {"tag": "single_object", "include": [{"class": "ring", "count": 2}]}
    assert judge([RING, RING], two).correct
    assert judge([RING, RING], two, max_overlap=0.99).reason == "expected ring>=2, found 1"


def test_overlap_counts_the_last_row_and_column() -> None:
    assert overlap((0, 0, 1, 1), (1, 1, 2, 2)) == 1 / 7


def test_relations_are_antisymmetric_and_need_a_margin() -> None:
    assert relations((0, 0, 4, 4), (20, 0, 24, 4)) == ("left of",)
    assert relations((20, 0, 24, 4), (0, 0, 4, 4)) == ("right of",)
    assert relations((20, 20, 24, 24), (0, 0, 4, 4)) == ("right of", "below")
    assert relations((0, 0, 10, 10), (1, 1, 11, 11)) == ()


def test_a_colour_asked_of_a_detection_without_one_is_an_error() -> None:
    with pytest.raises(ValueError, match="carry none"):
        judge(
            [Detection("ring", 1.0, (0, 0, 1, 1))],
            {"tag": "colors", "include": [ONE_RING["include"][0] | {"color": "red"}]},
        )
