"""Two runs are compared example by example, and only where they may be."""

import json

import pytest
from typer.testing import CliRunner

from crossflow.errors import CrossFlowError
from crossflow_eval.cli import app
from crossflow_eval.runs.compare import compare_runs
from crossflow_eval.stats import Comparison
from crossflow_eval.types import Result, Settings


def finished(folder, rows, **changes):
    """A finished run of hand-written rows."""
    settings = Settings(suite="s", suite_version="1", model="m", identity={"folder": folder.name})
    record = {
        "settings": settings,
        "protocol": {"judge": {"threshold": 0.5}},
        "n": len(rows),
        "values": {},
        "higher_is_better": {},
        "data_sha256": "0" * 64,
        "environment": {},
    }
    folder.mkdir()
    (folder / "result.json").write_text(Result.model_validate(record | changes).model_dump_json())
    (folder / "per_example.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def rows(*scores, **more):
    return [{"id": f"e{i}", "index": 0, "prompt": "p", "score": score, **more} for i, score in enumerate(scores)]


def test_the_difference_is_second_minus_first(tmp_path):
    found = compare_runs(finished(tmp_path / "a", rows(1, 2, 4)), finished(tmp_path / "b", rows(2.0, 4.0, 6.0)))
    assert found.keys() == {"score"}
    assert found["score"].difference == pytest.approx(5 / 3)
    assert found["score"].n == 3


def test_an_example_counts_once_whatever_its_outputs(tmp_path):
    """By hand: e0 scores (0 + 1) / 2 over its two outputs, e1 scores 1."""
    several = [{"id": "e0", "index": 0, "correct": False}, {"id": "e0", "index": 1, "correct": True}]
    several.append({"id": "e1", "index": 0, "correct": True})
    none = [row | {"correct": False} for row in several]
    found = compare_runs(finished(tmp_path / "a", none), finished(tmp_path / "b", several))
    assert found["correct"].difference == pytest.approx(0.75)
    assert found["correct"].n == 2


def test_tasks_weigh_alike(tmp_path):
    """By hand: the task of three examples gains 0, the task of one gains 1: the mean over tasks is 1/2."""
    tasks = [{"task": "counting"}] * 3 + [{"task": "colors"}]
    first = [row | task for row, task in zip(rows(0, 0, 0, 0), tasks, strict=True)]
    second = [row | task for row, task in zip(rows(0, 0, 0, 1), tasks, strict=True)]
    found = compare_runs(finished(tmp_path / "a", first), finished(tmp_path / "b", second))
    assert found["score"].difference == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_sha256": "1" * 64}, "differ in their data"),
        ({"protocol": {"judge": {"threshold": 0.6}}}, "differ in their protocol of judge"),
        ({"protocol": {}}, "differ in their metrics"),
        ({"settings": Settings(suite="t", suite_version="1", model="m", identity={})}, "differ in their suite"),
        (
            {"settings": Settings(suite="s", suite_version="1", model="m", identity={}, limit=2)},
            "differ in their limit",
        ),
    ],
)
def test_what_may_not_be_compared_is_refused(tmp_path, changes, message):
    with pytest.raises(CrossFlowError, match=message):
        compare_runs(finished(tmp_path / "a", rows(1, 2)), finished(tmp_path / "b", rows(1, 2), **changes))


def test_runs_without_a_score_in_common_or_without_rows_are_refused(tmp_path):
    one = finished(tmp_path / "a", rows(1, 2))
    with pytest.raises(CrossFlowError, match="no score of single outputs in common"):
        compare_runs(one, finished(tmp_path / "b", [{"id": "e0", "index": 0, "other": 1}]))
    (one / "per_example.jsonl").write_text(json.dumps({})[:1])
    with pytest.raises(CrossFlowError, match="score the run again"):
        compare_runs(one, one)


def test_what_is_printed_names_its_method_and_never_contradicts_itself(tmp_path, monkeypatch):
    """An end that is just above 0 is not printed as 0, and p just below 0.05 not as 0.05."""
    one = finished(tmp_path / "a", [row | {"other": row["score"]} for row in rows(1, 2, 4)])
    two = finished(tmp_path / "b", [row | {"other": row["score"]} for row in rows(2.0, 4.0, 6.0)])
    method = compare_runs(one, two)["score"].method
    edge = Comparison(difference=0.01, ci_low=2e-5, ci_high=0.02, p=0.049996, n=3, method=method)
    monkeypatch.setattr("crossflow_eval.runs.compare.compare", lambda *_, **__: edge)
    said = CliRunner().invoke(app, ["compare", str(one), str(two)]).stdout
    assert "[+2.0e-05, +0.0200]" in said and "<0.05" in said
    assert said.count(f"score, other: {method}.\n") == 1 and "covers less" in method


def test_a_task_of_one_example_is_named_as_the_reason_for_no_interval(tmp_path):
    tasks = [{"task": "counting"}] * 3 + [{"task": "colors"}]
    first = [row | task for row, task in zip(rows(0, 0, 0, 0), tasks, strict=True)]
    second = [row | task for row, task in zip(rows(0, 1, 0, 1), tasks, strict=True)]
    found = compare_runs(finished(tmp_path / "a", first), finished(tmp_path / "b", second))["score"]
    assert found.ci_low is None and "no interval of colors" in found.method
