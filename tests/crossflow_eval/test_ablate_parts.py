"""The parts of an ablation: the choice of guidance, intervals, locks and times of trainings, and its tables."""

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_recipes
from pydantic import ValidationError
from scipy import stats as scipy_stats
from typer.testing import CliRunner

from crossflow.errors import CrossFlowError
from crossflow.files.folders import shipped
from crossflow.files.locks import only_writer
from crossflow.recipes import CONFIGS
from crossflow_eval import ablate as ablation
from crossflow_eval import stats, tables
from crossflow_eval.ablate import train
from crossflow_eval.cli import app
from crossflow_eval.suites import load_suite
from crossflow_eval.suites.scenes import references as scene_references
from crossflow_eval.tables import Ablation
from crossflow_eval.types import Result, Settings, Value


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


GUIDANCE = tables.Guidance(scales=(1, 2, 4), validation="toy-val", limit=4, choose="geneval")


@pytest.mark.parametrize("values", [(0.2, 0.25, 0.4), (0.1, 0.9)])
def test_intervals_over_seeds_are_student_s(values):
    """Oracle: scipy."""
    value = stats.student_mean(values, n=1000)
    expected = scipy_stats.t.interval(0.95, len(values) - 1, np.mean(values), scipy_stats.sem(values))
    assert (value.ci_low, value.ci_high) == pytest.approx(expected, abs=1e-12)
    assert (value.mean, value.n) == (pytest.approx(np.mean(values)), 1000)


def test_one_seed_and_equal_values_have_no_interval():
    assert stats.student_mean([0.5], n=7) == stats.student_mean([0.5, 0.5], n=7) == Value(mean=0.5, n=7)


def test_the_best_scale_on_validation_is_chosen_and_of_equals_the_smallest():
    assert ablation.choose_scale({1.0: result(0.2), 2.0: result(0.5), 4.0: result(0.4)}, GUIDANCE) == 2
    assert ablation.choose_scale({4.0: result(0.5), 2.0: result(0.5), 1.0: result(0.4)}, GUIDANCE) == 2
    lower = {4.0: result(0.5, better=False), 2.0: result(0.2, better=False), 1.0: result(0.2, better=False)}
    assert ablation.choose_scale(lower, GUIDANCE) == 1


def test_a_run_without_the_value_to_choose_by_is_refused():
    with pytest.raises(CrossFlowError, match="A run of 4 outputs gives no fid"):
        ablation.choose_scale({1.0: result(0.2)}, GUIDANCE.model_copy(update={"choose": "fid"}))


def test_a_result_of_another_suite_is_refused_for_the_choice():
    with pytest.raises(CrossFlowError, match="on toy-val alone, not on toy-test"):
        ablation.choose_scale({1.0: result(0.2), 2.0: result(0.5, suite="toy-test")}, GUIDANCE)


def test_a_table_that_would_choose_on_what_it_reports_is_refused():
    with pytest.raises(ValidationError, match="would choose on the suite 'toy-test' that it reports"):
        Ablation(name="toy", recipes={"plain": "recipe-a"}, seeds=3, test="toy-test", guidance=GUIDANCE.model_copy(
            update={"validation": "toy-test"}))  # fmt: skip


STEPS = 60
RECORDING_TRAINER = """
import dataclasses, os, pathlib, sys
import small_recipes
from crossflow.cli import app
from crossflow.recipes import CONFIGS

small_recipes.shrink(sys.argv[2])
CONFIGS[sys.argv[2]] = dataclasses.replace(CONFIGS[sys.argv[2]], save_every=5)
pathlib.Path(sys.argv[4], f"pid-{os.getpid()}").touch()
app()
"""


def test_a_training_outlives_a_killed_ablation_and_no_other_begins_beside_it(tmp_path, monkeypatch):
    """The trainer itself holds its folder: the next ablation is told so at once, and goes on once it has ended."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(small_recipes.__file__).parent), *sys.path]))
    plan = ablation.make_plan("table1", out=tmp_path, rows=("crossflow",), seeds=1, steps=STEPS)
    (part,) = plan.parts
    monkeypatch.setitem(CONFIGS, part.recipe, CONFIGS[part.recipe])
    small_recipes.shrink(part.recipe)
    monkeypatch.setitem(CONFIGS, part.recipe, replace(CONFIGS[part.recipe], save_every=5))
    monkeypatch.setattr(train, "TRAIN", (sys.executable, "-c", RECORDING_TRAINER, "train"))
    fork = multiprocessing.get_context("fork").Process(target=train.train_all, args=(plan, 1))
    fork.start()
    _until(lambda: (part.folder / "state.safetensors").exists(), fork.is_alive)
    os.kill(fork.pid or 0, signal.SIGKILL)
    fork.join()
    with pytest.raises(CrossFlowError, match=r"^Another process is training in .*; wait for it or stop it\.$"):
        train.train_all(plan, 1)
    (trainer,) = [int(path.name.removeprefix("pid-")) for path in part.folder.glob("pid-*")]
    os.kill(trainer, signal.SIGKILL)
    _until(lambda: not _held(part.folder))
    assert train.finished_training(part.checkpoint, part.recipe, part.seed, plan.steps) is None
    train.train_all(plan, 1)
    assert "resuming after step" in (part.folder / "train.log").read_text()
    assert train.finished_training(part.checkpoint, part.recipe, part.seed, plan.steps) is not None
    assert (train.cpu_seconds(part.folder) or 0) > 0
    assert len(list(part.folder.glob("pid-*"))) == 2


def _until(happened: Callable[[], bool], hope: Callable[[], bool] = lambda: True) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert hope()
        assert time.monotonic() < end
        time.sleep(0.02)


def _held(folder: Path) -> bool:
    try:
        with only_writer(folder, "training"):
            return False
    except CrossFlowError:
        return True


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


def test_table1_is_as_the_paper_s_first_rows():
    table = ablation.available()["table1"]
    plan = ablation.make_plan("table1")
    assert table.ablation is not None
    assert [part.folder.name for part in plan.parts] == [
        *(f"standard-seed{seed}" for seed in range(3)),
        *(f"crossflow-seed{seed}" for seed in range(3)),
    ]
    assert (guidance := table.ablation.guidance) is not None
    assert (guidance.validation, guidance.limit, guidance.scales) == ("scenes-t2i-val", 180, (1, 2, 4))
    assert (table.ablation.test, plan.limit) == ("scenes-t2i", None)
    assert ablation.results_folder(plan) == Path("results") / "table1"


@pytest.mark.parametrize("task", ["caption", "depth", "sr"])
def test_an_ablation_of_another_task_compares_its_two_recipes_on_its_suite(task):
    """Every column but the training's is a value of the suite, every reference has its row, and nothing is guided."""
    suite = load_suite(f"scenes-{task}")
    plan = ablation.make_plan(suite.name)
    assert (suite.task, plan.ablation.test, plan.ablation.guidance, plan.seeds) == (task, suite.name, None, 3)
    assert plan.ablation.recipes == {"standard": f"scenes-{task}-standard", "crossflow": f"scenes-{task}"}
    assert {"parameters/all", "training/steps"} < {column.value for column in plan.table.columns}
    known = {name for make in suite.metrics.values() for name in make().higher_is_better}
    shown = {str(column.value) for column in plan.table.columns}
    assert {name for name in shown if not name.startswith(("parameters/", "training/"))} <= known
    assert {row.role for row in plan.table.rows} == {"model", *suite.references}
    assert all(CONFIGS[recipe].model.guidance.null_rate == 0 for recipe in plan.ablation.recipes.values())


@pytest.mark.slow
@pytest.mark.skipif(not shipped("t2i").with_name("scenes-clip.safetensors").exists(), reason="no dual encoder")
def test_a_short_ablation_of_real_models_from_end_to_end(tmp_path, monkeypatch):
    """Real trainings of four steps, real suites, a few prompts; then again, where nothing may be trained."""
    monkeypatch.chdir(tmp_path)
    table = tables.load_table("scenes-table1")
    assert table.ablation is not None
    assert table.ablation.guidance is not None
    guidance = table.ablation.guidance.model_copy(update={"limit": 6, "scales": (1.0, 2.0)})
    update = {"recipes": {"crossflow": "scenes-tiny"}, "guidance": guidance}
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


@pytest.mark.slow
@pytest.mark.parametrize("task", ["caption", "depth", "sr"])
def test_a_short_ablation_of_another_task_from_end_to_end(task, tmp_path, monkeypatch):
    """Its very recipes on a little data, for three steps; then again, where nothing may be trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CROSSFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    monkeypatch.setattr(scene_references, "CAPTIONED", 100)
    monkeypatch.setattr(scene_references, "MEASURED", 20)
    for recipe in (f"scenes-{task}", f"scenes-{task}-standard"):
        monkeypatch.setitem(CONFIGS, recipe, CONFIGS[recipe])
        small_recipes.shrink(recipe)
    monkeypatch.setattr(train, "TRAIN", (sys.executable, small_recipes.__file__, "train"))
    arguments = ["ablate", "--suite", f"scenes-{task}", "--seeds", "1", "--steps", "3", "--limit", "4", "--out", "runs"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output + repr(done.exception)
    assert "Standard flow matching, seed 0" in done.stdout
    roles = {path.parent.name.split("-")[0] for path in Path("runs", "references").glob("*/result.json")}
    assert roles == load_suite(f"scenes-{task}").references.keys()
    monkeypatch.setattr(train, "TRAIN", ("false",))
    assert CliRunner().invoke(app, arguments).stdout == done.stdout
