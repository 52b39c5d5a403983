"""Laws of an ablation: nothing is chosen by the test, nothing is done twice, and the table says what was measured."""

import csv
import hashlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from scipy import stats as scipy_stats
from typer.testing import CliRunner

from crossflow_eval import ablate as ablation
from crossflow_eval import stats, tables
from crossflow_eval.ablate import measure, train
from crossflow_eval.cli import app
from crossflow_eval.models import Training, shipped_checkpoint
from crossflow_eval.suites import SUITES
from crossflow_eval.types import Example, Output, Result, Settings, SetupError, Suite, Value

TABLE = """
title = "Toy"
notes = "Toys."
transpose = true
[ablation]
name = "toy"
recipes = { plain = "recipe-a", flow = "recipe-b" }
seeds = 3
validation = "toy-val"
validation_limit = 4
guidance_scales = [1, 2, 4]
choose = "geneval"
test = "toy-test"
[[columns]]
label = "GenEval"
value = "geneval"
[[columns]]
label = "parameters"
value = "parameters/all"
decimals = 0
[[rows]]
label = "Plain"
models = ["plain"]
[[rows]]
label = "Flow"
models = ["flow"]
[[rows]]
label = "Chance"
role = "chance"
"""
TRAINER = """
import json, pathlib, sys, time
recipe, *rest = sys.argv[1:]
given = dict(zip(rest[::2], rest[1::2]))
folder = pathlib.Path(given["--out"])
with (folder.parent / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
(folder / "state.safetensors").touch()
if recipe == "recipe-b" and "--resume" not in rest and (folder.parent / "break").exists():
    sys.exit("Error: The disk is full.")
(folder / "log.jsonl").write_text(json.dumps({"step": 10}) + "\\n")
(folder / "model.safetensors").write_text(f"{recipe} {given['--seed']}")
"""


class Brightness:
    """A metric of toy images: their mean value, on a scale of 0 to 1."""

    protocol: ClassVar = {"formula": "mean", "interval": "none"}
    higher_is_better: ClassVar = {"geneval": True}

    def __init__(self) -> None:
        self.seen: list[float] = []

    def update(self, examples: Sequence[Example], outputs: Sequence[Output]) -> None:
        self.seen += [float(np.mean(output)) / 200 for output in outputs]

    def compute(self) -> dict[str, Value]:
        return {"geneval": Value(mean=float(np.mean(self.seen)), n=len(self.seen))}


class ToyModel:
    """On validation the best scale is 2, on the test it would be 4."""

    name = "model"
    best: ClassVar = {"val": 2, "test": 4}

    def __init__(self, checkpoint: Path, *, guidance_scale: float) -> None:
        weights = checkpoint.read_bytes()
        self.scale, self.offset = guidance_scale, int(weights[-1:]) * 3 + 10 * (b"recipe-b" in weights)
        self.identity = {
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "guidance_scale": guidance_scale,
            **{"solver": "euler", "steps": 5, "precision": "float64", "device": "cpu"},
        }

    def generate(self, sources: Sequence[str | Path], seeds: Sequence[int]) -> list[Output]:
        miss = [abs(self.scale - self.best[str(source).split()[0]]) for source in sources]
        return [np.full((4, 4, 3), int(150 - 10 * each + self.offset), np.uint8) for each in miss]


def toy_suite(split: str) -> Suite:
    examples = [Example(id=f"{split}-{i}", source=f"{split} {i}") for i in range(6)]
    return Suite(
        name=f"toy-{split}",
        version="1",
        task="t2i",
        output="png",
        examples=lambda root: examples,
        metrics={"geneval": Brightness},
    )


def trained(checkpoint: Path, recipe: str, seed: int, steps: int | None = None) -> Training | None:
    if not checkpoint.exists():
        return None
    parameters = {"recipe-a": 110, "recipe-b": 120}[recipe]
    return Training(
        steps=steps or 10, batch_size=4, precision="fp32", backbone_parameters=100, all_parameters=parameters
    )


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder in which an ablation of toys is available; training and models are stand-ins, all between is real."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("crossflow_eval"), "handlers", [])
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    (tmp_path / "trainer.py").write_text(TRAINER)
    monkeypatch.setattr(train, "TRAIN", (sys.executable, str(tmp_path / "trainer.py")))
    monkeypatch.setattr(train, "finished_training", trained)
    monkeypatch.setattr(measure, "finished_training", trained)
    monkeypatch.setattr(measure, "CrossFlowModel", ToyModel)
    for split in ("val", "test"):
        monkeypatch.setitem(SUITES, f"toy-{split}", toy_suite(split))
    monkeypatch.setattr(tables, "table_names", lambda: ["toy"])
    monkeypatch.setattr(tables, "load_table", lambda name: tables.parse_table(name, TABLE))
    return tmp_path


def invoke(*arguments: object):
    return CliRunner().invoke(app, ["ablate", "--suite", "toy", *map(str, arguments)])


def calls(place: Path) -> list[list[str]]:
    return [json.loads(line) for line in (place / "runs" / "ablate" / "toy" / "calls.jsonl").read_text().splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    """What must repeat byte for byte; recorded times, and records of them, need not."""
    timed = ("timing.jsonl", "train.log", "results.json", "table.md")
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if path.name not in timed}


def result(geneval: float, suite: str = "toy-val", better: bool = True) -> Result:
    return Result(
        settings=Settings(suite=suite, suite_version="1", model="model", identity={"is": geneval}),
        protocol={"geneval": {"formula": "mean", "interval": "none"}},
        n=4,
        values={"geneval": Value(mean=geneval, n=4)},
        higher_is_better={"geneval": better},
        data_sha256="0" * 64,
        environment={},
    )


@pytest.fixture
def toy():
    described = tables.parse_table("toy", TABLE).ablation
    assert described is not None
    return described


@pytest.mark.parametrize("values", [(0.2, 0.25, 0.4), (0.1, 0.9)])
def test_intervals_over_seeds_are_student_s(values):
    """Oracle: scipy."""
    value = stats.student_mean(values, n=1000)
    expected = scipy_stats.t.interval(0.95, len(values) - 1, np.mean(values), scipy_stats.sem(values))
    assert (value.ci_low, value.ci_high) == pytest.approx(expected, abs=1e-12)
    assert (value.mean, value.n) == (pytest.approx(np.mean(values)), 1000)


def test_one_seed_and_equal_values_have_no_interval():
    assert stats.student_mean([0.5], n=7) == stats.student_mean([0.5, 0.5], n=7) == Value(mean=0.5, n=7)


def test_the_best_scale_on_validation_is_chosen_and_of_equals_the_smallest(toy):
    assert ablation.choose_scale({1.0: result(0.2), 2.0: result(0.5), 4.0: result(0.4)}, toy) == 2
    assert ablation.choose_scale({4.0: result(0.5), 2.0: result(0.5), 1.0: result(0.4)}, toy) == 2
    lower = {4.0: result(0.5, better=False), 2.0: result(0.2, better=False), 1.0: result(0.2, better=False)}
    assert ablation.choose_scale(lower, toy) == 1


def test_a_result_of_another_suite_is_refused_for_the_choice(toy):
    with pytest.raises(SetupError, match="on toy-val alone, not on toy-test"):
        ablation.choose_scale({1.0: result(0.2), 2.0: result(0.5, suite="toy-test")}, toy)


def test_a_table_that_would_choose_on_what_it_reports_is_refused():
    with pytest.raises(SetupError, match="would choose on the suite 'toy-test' that it reports"):
        tables.parse_table("toy", TABLE.replace('validation = "toy-val"', 'validation = "toy-test"'))


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
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == ["", "Plain", "Flow", "Chance"]
    assert lines[2][:2] == ["GenEval\N{NO-BREAK SPACE}↑", f"0.665 [{low:.3f}, {high:.3f}]"]
    assert lines[3] == ["parameters", "110", "120", "—"]
    assert lines[5][:4] == ["", "Plain, seed 0", "Plain, seed 1", "Plain, seed 2"]
    assert ["plain, seed 2", "0.730", "**0.780**", "0.680"] in lines
    assert "Means of 3 training seeds, intervals by Student t with df 2" in text
    assert "geneval of the first 4 examples of toy-val; the test suite was not looked at" in text
    rows = list(csv.DictReader((place / "results" / "toy" / "table.csv").open()))
    assert [float(row["mean"]) for row in rows if row["row"] == "Flow, seed 1" and row["value"] == "geneval"] == [0.715]


def test_results_that_may_not_be_compared_share_no_table(place):
    plan = ablation.make_plan("toy", seeds=2)
    measured, references = ablation.ablate(plan)
    other = measured[1].test.model_copy(update={"protocol": {"geneval": {"formula": "median", "interval": "none"}}})
    measured[1] = replace(measured[1], test=other)
    with pytest.raises(SetupError, match=r"formula is mean .* and median"):
        ablation.write_table(plan, measured, references, place / "results")
    assert not (place / "results").exists()


def test_a_training_s_folder_is_held_by_its_process(tmp_path):
    """The lock outlives the ablation in the child it was passed to; here it is passed to nobody, so it ends."""
    with (
        train._held(tmp_path) as lock,
        pytest.raises(SetupError, match="Another process is training"),
        train._held(tmp_path),
    ):
        raise AssertionError(lock)
    with train._held(tmp_path) as lock:
        child = os.dup(lock)
    with pytest.raises(SetupError, match="Another process is training"), train._held(tmp_path):
        pass
    os.close(child)
    with train._held(tmp_path):
        pass


@pytest.mark.parametrize(
    ("records", "seconds"),
    [
        ([(0, 10, 1.5)], 1.5),
        ([(0, 4, 1.5), (4, 10, 2.0)], 3.5),
        ([(4, 10, 2.0)], None),  # an earlier process left no record
        ([(0, 4, 1.5)], None),  # a later one did
        ([], None),
    ],
)
def test_cpu_seconds_are_told_only_where_all_are_known(tmp_path, records, seconds):
    (tmp_path / "log.jsonl").write_text('{"step": 10}\n')
    lines = [json.dumps({"from": a, "to": b, "cpu_seconds": cpu}) + "\n" for a, b, cpu in records]
    (tmp_path / "timing.jsonl").write_text("".join(lines))
    assert train.cpu_seconds(tmp_path) == seconds


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


def test_table1_is_as_the_paper_s_first_rows():
    table = ablation.available()["table1"]
    plan = ablation.make_plan("table1")
    assert table.ablation is not None
    assert [part.folder.name for part in plan.parts] == [
        *(f"standard-seed{seed}" for seed in range(3)),
        *(f"crossflow-seed{seed}" for seed in range(3)),
    ]
    assert (table.ablation.validation, table.ablation.validation_limit) == ("scenes-t2i-val", 180)
    assert table.ablation.guidance_scales == (1, 2, 4)
    assert (table.ablation.test, plan.limit) == ("scenes-t2i", None)
    assert ablation.results_folder(plan) == Path("results") / "table1"


@pytest.mark.slow
@pytest.mark.skipif(not shipped_checkpoint().with_name("scenes-clip.safetensors").exists(), reason="no dual encoder")
def test_a_short_ablation_of_real_models_from_end_to_end(tmp_path, monkeypatch):
    """Real trainings of four steps, real suites, a few prompts; then again, where nothing may be trained."""
    monkeypatch.chdir(tmp_path)
    table = tables.load_table("scenes-table1")
    assert table.ablation is not None
    update = {"recipes": {"crossflow": "scenes-tiny"}, "validation_limit": 6, "guidance_scales": (1.0, 2.0)}
    tiny = table.model_copy(update={"ablation": table.ablation.model_copy(update=update)})
    monkeypatch.setattr(tables, "table_names", lambda: ["tiny"])
    monkeypatch.setattr(tables, "load_table", lambda name: tiny)
    arguments = ["ablate", "--suite", "table1", "--seeds", "2", "--steps", "4", "--limit", "12", "--out", "runs"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output + repr(done.exception)
    assert "FID@12" in done.stdout
    assert (tmp_path / "runs" / "crossflow-seed1" / "model.safetensors").exists()
    links = [path.stat().st_nlink for path in (tmp_path / "runs").glob("*/cache/pairs-*")]
    assert links == [2, 2]
    monkeypatch.setattr(train, "TRAIN", ("false",))
    again = CliRunner().invoke(app, arguments)
    assert again.stdout == done.stdout
