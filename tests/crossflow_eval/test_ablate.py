"""Laws of an ablation: nothing is chosen by the test, nothing is done twice, and the table says what was measured.

Trainings, models and suites are those of ``toy_ablation``; all between is real.
"""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import toy_ablation
from scipy import stats as scipy_stats
from typer.testing import CliRunner

from crossflow.errors import CrossFlowError
from crossflow_eval import ablate as ablation
from crossflow_eval.cli import app


@pytest.fixture
def place(tmp_path, monkeypatch):
    toy_ablation.set_up(tmp_path, monkeypatch)
    return tmp_path


def invoke(*arguments: object, suite: str = "toy"):
    return CliRunner().invoke(app, ["ablate", "--suite", suite, *map(str, arguments)])


def cells(text: str) -> list[list[str]]:
    """The cells of every table in Markdown."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def calls(place: Path) -> list[list[str]]:
    return [json.loads(line) for line in (place / "runs" / "ablate" / "toy" / "calls.jsonl").read_text().splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    """What must repeat byte for byte; recorded times, and records of them, need not."""
    timed = ("timing.jsonl", "train.log", "results.json", "table.md")
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if path.name not in timed}


def test_guidance_is_chosen_on_validation_and_the_test_is_run_once_a_model(place):
    """The toy's test scores would choose 4; validation says 2."""
    done = invoke("--json")
    assert done.exit_code == 0, done.output + repr(done.exception)
    record = json.loads(done.stdout)
    for row in record["rows"].values():
        assert [each["guidance_scale"] for each in row["seeds"]] == [2, 2, 2]
        for each in row["seeds"]:
            assert each["validation"].keys() == {"1", "2", "4"}
            assert each["test"]["settings"]["identity"]["guidance_scale"] == 2
    runs = place / "runs" / "ablate" / "toy"
    assert len(list(runs.glob("*/toy-test/*"))) == 6
    assert len(list(runs.glob("*/toy-val/*"))) == 18
    assert {path.name.split("-")[1] for path in runs.glob("*/toy-test/*")} == {"2"}


def test_every_training_is_named_by_recipe_seed_and_steps(place):
    done = invoke("--seeds", 2, "--steps", 7, "--jobs", 2)
    assert done.exit_code == 0, done.output
    expected = [
        [f"recipe-{letter}", "--out", f"runs/ablate/toy/{row}-seed{seed}", "--seed", str(seed), "--steps", "7"]
        for letter, row in (("a", "plain"), ("b", "flow"))
        for seed in range(2)
    ]
    assert sorted(calls(place)) == sorted(expected)
    assert not (place / "results").exists()  # a trial never replaces the real table
    assert (place / "runs" / "ablate" / "toy" / "results" / "table.md").exists()


def test_a_broken_ablation_goes_on_where_it_was(place):
    """Law: after a failure and a rerun everything is as if undisturbed, and what was finished is not done again."""
    assert invoke("--out", "whole").exit_code == 0
    runs = place / "runs" / "ablate" / "toy"
    runs.mkdir(parents=True)
    (runs / "break").touch()
    broken = invoke()
    assert broken.exit_code == 2
    assert "Error: The training of flow, seed 0 ended with exit code 1 (The disk is full)" in broken.stderr
    assert len(calls(place)) == 4  # three of the first row and the one that fails; two are never begun
    (runs / "break").unlink()
    assert invoke().exit_code == 0
    assert [call[-1] == "--resume" for call in calls(place)] == [False] * 4 + [True] + [False] * 2
    again = len(calls(place))
    assert invoke().exit_code == 0
    assert len(calls(place)) == again
    ours, theirs = files(runs), files(place / "whole")
    assert len(ours.pop("calls.jsonl").splitlines()) == again
    theirs.pop("calls.jsonl")
    assert ours == theirs


def test_the_rows_asked_for_are_done_alone(place):
    done = invoke("--rows", "flow", "--seeds", 1)
    assert done.exit_code == 0, done.output
    assert [call[0] for call in calls(place)] == ["recipe-b"]
    assert "Plain" not in done.stdout
    assert "`crossflow-eval ablate --suite toy --seeds 1 --rows flow`" in done.stdout


def test_the_table_says_what_was_measured(place):
    """Oracle: the toy's scores by hand, (150 - 20 + 3 seed + 10 for flow) / 200 at scale 2."""
    done = invoke()
    assert done.exit_code == 0, done.output
    text = (place / "results" / "toy" / "table.md").read_text()
    assert text == done.stdout.removesuffix("\n")
    low, high = scipy_stats.t.interval(0.95, 2, 0.665, scipy_stats.sem([0.65, 0.665, 0.68]))
    lines = cells(text)
    assert lines[0] == ["", "Plain", "Flow", "Chance"]
    assert lines[2][:2] == ["GenEval\N{NO-BREAK SPACE}↑", f"0.665 [{low:.3f}, {high:.3f}]"]
    assert lines[3] == ["parameters", "110", "120", "—"]
    assert lines[5][:4] == ["", "Plain, seed 0", "Plain, seed 1", "Plain, seed 2"]
    assert ["plain, seed 2", "0.730", "**0.780**", "0.680"] in lines
    assert "Means of 3 training seeds, intervals by Student t with df 2" in text
    assert "geneval of the first 4 examples of toy-val; the test suite was not looked at" in text
    rows = list(csv.DictReader((place / "results" / "toy" / "table.csv").open()))
    assert [float(row["mean"]) for row in rows if row["row"] == "Flow, seed 1" and row["value"] == "geneval"] == [0.715]


def test_without_guidance_nothing_is_searched_and_the_references_of_the_suite_stand_beside(place):
    """Oracle: the toy's lengths by hand, 10 + 3 seed + 10 for flow; the model is that of the suite's task."""
    done = invoke(suite="told")
    assert done.exit_code == 0, done.output + repr(done.exception)
    low, high = scipy_stats.t.interval(0.95, 2, 23, scipy_stats.sem([20, 23, 26]))
    lines = cells(done.stdout)
    assert lines[0] == ["", "Plain", "Flow", "One word", "The truth"]
    assert lines[2][2:] == [f"23.000 [{low:.3f}, {high:.3f}]", "1.000", "30.000"]
    assert lines[3] == ["training steps", "10", "10", "—", "—"]
    assert "guidance" not in done.stdout
    assert "unclipped. One word and the truth have none." in done.stdout
    record = json.loads((place / "results" / "told" / "results.json").read_text())
    assert record["references"].keys() == {"trivial", "ceiling"}
    seeds = [each for row in record["rows"].values() for each in row["seeds"]]
    assert [(each["guidance_scale"], each["validation"]) for each in seeds] == [(1.0, {})] * 6
    runs = place / "runs" / "ablate" / "told"
    assert len(list(runs.glob("*/toy-told/scale-1-*"))) == 6
    assert not list(runs.glob("*/toy-val"))


def test_results_that_may_not_be_compared_share_no_table(place):
    plan = ablation.make_plan("toy", seeds=2)
    measured, references = ablation.ablate(plan)
    other = measured[1].test.model_copy(update={"protocol": {"geneval": {"formula": "median", "interval": "none"}}})
    measured[1] = replace(measured[1], test=other)
    with pytest.raises(CrossFlowError, match=r"formula is mean .* and median"):
        ablation.write_table(plan, measured, references, place / "results")
    assert not (place / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--rows", "flo"), "Unknown row of toy 'flo'. Did you mean 'flow'?"),
        (("--seeds", 0), "--seeds must be at least 1"),
        (("--steps", 0), "--steps must be at least 1"),
        (("--jobs", 0), "--jobs must be at least 1"),
        (("--limit", 7), "--limit 7 is not between 1 and the suite's 6 examples"),
    ],
)
def test_wrong_calls_end_with_one_sentence_before_any_training(place, arguments, sentence):
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"Error: {sentence}")
    assert not (place / "runs").exists()
