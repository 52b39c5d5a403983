"""Laws of an ablation: nothing is chosen by the test, nothing is done twice, and the table says what was measured.

Trainings, models and suites are those of ``toy_ablation``; all between is real.
"""

import csv
import json
import re
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
import toy_ablation
from scipy import stats as scipy_stats
from toy_ablation import brightness
from typer.testing import CliRunner

from crossflow.errors import CrossFlowError
from crossflow.recipes import CONFIGS
from crossflow_eval.ablate import measure
from crossflow_eval.ablate.plan import make_plan
from crossflow_eval.cli import app
from crossflow_eval.suites import SUITES
from crossflow_eval.types import Result, Settings, Value


@pytest.fixture
def place(tmp_path, monkeypatch):
    return toy_ablation.set_up(tmp_path, monkeypatch)


def invoke(*arguments: object, suite: str = "toy.toml"):
    return CliRunner().invoke(app, ["ablate", "--suite", suite, "--jobs", "1", *map(str, arguments)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The place of an ablation that was run to its end, and what the command said; nothing more is run there."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        place = toy_ablation.set_up(tmp_path_factory.mktemp("whole"), monkeypatch)
        done = invoke()
    assert done.exit_code == 0, done.output + repr(done.exception)
    return place, done.stdout


def table(place) -> dict:
    (found,) = json.loads((place.folder / "results" / "toy" / "results.json").read_text())["tables"]
    return found


def cells(text: str) -> list[list[str]]:
    """The cells of every table in Markdown."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def written(folder: Path) -> dict[str, bytes]:
    """What must repeat byte for byte."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "timing.md"}


def test_recipe_weaker_model_and_scale_are_chosen_on_validation_and_the_test_is_run_once(whole):
    """The toys' test scores would choose toy-flow, the weaker model of step 2, and scale 4."""
    place, _ = whole
    rows = table(place)["rows"]
    chosen = {
        "plain": {"recipe": "toy-plain", "weaker": None, "guidance_scale": 2},
        "flow": {"recipe": "toy-better", "weaker": None, "guidance_scale": 2},
        "auto": {"recipe": "toy-plain", "weaker": 0.5, "guidance_scale": 2},
        "bare": {"recipe": "toy-plain", "weaker": None, "guidance_scale": 1},
    }
    assert {name: row["seeds"][0]["chosen"] for name, row in rows.items()} == chosen
    assert {name: len(row["seeds"][0]["tried"]) for name, row in rows.items()} == dict(plain=3, flow=6, auto=6, bare=0)
    for row in rows.values():
        for each in row["seeds"]:
            of, weaker = each["chosen"], each["chosen"]["weaker"]
            step = None if weaker is None else round(weaker * toy_ablation.STEPS)
            expected = brightness("test", of["recipe"], each["seed"], of["guidance_scale"], step) / 200
            assert each["test"]["values"]["geneval"]["mean"] == pytest.approx(expected)
            assert each["test"]["settings"]["suite"] == "toy-test"
    assert len(list(place.runs.glob("*/toy-test/model-*"))) == 2 * len(rows)
    assert len(list(place.runs.glob("*/toy-val/model-*"))) == 2 * (3 + 6 + 6)


def test_rows_that_are_alike_are_trained_once(whole):
    place, _ = whole
    assert sorted(place.trained) == [(f"toy-{name}", seed) for name in ("better", "flow", "plain") for seed in (0, 1)]
    assert len(place.measured) == 2 * 4 + 1  # and the references


def test_a_second_call_does_nothing_again_and_writes_the_same_bytes(place):
    part = ("--rows", "plain,bare", "--seeds", 1, "--results", "here")
    first = invoke(*part)
    before = written(place.folder / "here")
    place.trained.clear()
    place.measured.clear()
    assert invoke(*part).stdout == first.stdout
    assert not place.trained
    assert not place.measured
    assert written(place.folder / "here") == before
    assert invoke(*part, "--print-commands").stdout == "# Nothing is left to do.\n"


def test_the_table_says_what_was_measured(whole):
    """Oracle: the toys' scores by hand."""
    place, said = whole
    text = (place.folder / "results" / "toy" / "table.md").read_text()
    assert text == said.removesuffix("\n")
    scores = [brightness("test", "toy-better", seed, 2, None) / 200 for seed in (0, 1)]
    low, high = scipy_stats.t.interval(0.95, 1, sum(scores) / 2, scipy_stats.sem(scores))
    lines = cells(text)
    head = lines[0]
    first = {line[0]: dict(zip(head, line, strict=True)) for line in lines[2:7]}
    assert [*first] == ["Plain", "Flow", "Guided by itself", "Bare", "Chance"]
    assert first["Flow"]["geneval\N{NO-BREAK SPACE}↑"] == f"{sum(scores) / 2:.3f}"
    assert f"[{low:.3f}, {high:.3f}]" in text
    steps = {line[0]: line[-1] for line in lines[9:14] if lines[7][-1] == "training steps"}
    assert (steps["Plain"], steps["Chance"]) == ("10", "—")
    best = brightness("val", "toy-better", 1, 2, None) / 200
    assert ["Flow, seed 1", "toy-better, scale 2", f"**{best:.3f}**"] in lines
    assert "geneval of the first 4 examples of toy-val; the test suite was not looked at" in text
    assert "Means of 2 training seeds, intervals by Student t with df 1" in text
    rows = list(csv.DictReader((place.folder / "results" / "toy" / "table.csv").open()))
    alone = [float(row["mean"]) for row in rows if row["row"] == "Flow, seed 1" and row["value"] == "geneval"]
    assert alone == [pytest.approx(scores[1])]
    assert {"table.tex", "table.html", "toy-training.svg", "toy-guidance.svg", "toy-samples.png", "timing.md"} < {
        path.name for path in (place.folder / "results" / "toy").iterdir()
    }


def test_verdicts_stand_beside_the_published_difference(whole):
    place, _ = whole
    found = {each["title"]: each for each in table(place)["verdicts"]}
    ours = [[brightness("test", name, seed, 2, None) / 200 for seed in (0, 1)] for name in ("toy-better", "toy-plain")]
    flow = found["Flow against Plain"]
    assert flow["difference"] == pytest.approx(sum(ours[0]) / 2 - sum(ours[1]) / 2)
    assert flow["published_difference"] == pytest.approx(10.13 - 10.79)
    assert (flow["verdict"], flow["seeds"]) == ("reproduced", 2)
    assert found["Bare against Plain"]["verdict"] == "no published difference"


def test_a_diverged_seed_fails_its_row_alone_and_the_same_command_mends_it(place, whole):
    """Nothing half-finished is averaged in: the row has no value, though one of its seeds is there."""
    place.fails = {("toy-flow", 1)}
    broken = invoke()
    assert broken.exit_code == 2
    assert broken.stderr.splitlines()[-1].startswith("Error: 2 of 15 jobs failed, the first train-")
    assert "(The loss of step 7 is not finite: the run diverged)" in broken.stderr
    half = table(place)
    assert half["rows"].keys() == {"plain", "auto", "bare"}
    assert half["failed"] == {"flow": "seed 1: The loss of step 7 is not finite: the run diverged"}
    said = {each["title"]: each["verdict"] for each in half["verdicts"]}
    assert said["Flow against Plain"] == "a row failed"
    assert "- Flow failed, seed 1: The loss of step 7 is not finite: the run diverged.\n" in broken.stdout
    assert cells(broken.stdout)[0] == ["", "Plain", "Guided by itself", "Bare", "Chance"]
    assert "Flow failed" in (place.folder / "results" / "toy" / "table.html").read_text()
    place.fails = set()
    place.trained.clear()
    assert invoke().exit_code == 0
    assert place.trained == [("toy-flow", 1)]
    assert not list((place.runs / "failed").iterdir())
    assert written(place.folder / "results" / "toy") == written(whole[0].folder / "results" / "toy")


def test_the_row_that_others_are_compared_with_may_fail_too(place):
    place.fails = {("toy-plain", 0)}
    broken = invoke("--seeds", 1, "--results", "results/toy")
    assert broken.exit_code == 2
    assert table(place)["rows"].keys() == {"flow"}
    assert {each["verdict"] for each in table(place)["verdicts"]} == {"a row failed"}


def test_where_no_row_was_measured_there_is_no_table(place):
    place.fails = {(f"toy-{name}", 0) for name in ("plain", "flow", "better")}
    done = invoke("--seeds", 1)
    assert done.exit_code == 2
    assert "Error: No row was measured: seed 0: The loss of step 7 is not finite" in done.stderr
    assert not (place.folder / "results").exists()


@pytest.mark.parametrize("row", ["plain", "bare"])
def test_a_run_of_too_few_examples_to_give_the_value_that_is_compared_says_so(place, monkeypatch, row):
    """GenEval's mean needs all six tasks; also where nothing is chosen on validation, and so only the test has none."""
    monkeypatch.setattr(toy_ablation.Brightness, "compute", lambda self: {})
    done = invoke("--rows", row, "--seeds", 1)
    assert done.exit_code == 2
    assert re.search(
        r"Error: No row was measured: seed 0: A run of \d outputs of toy-\w+ gives no geneval", done.stderr
    )


def test_labels_of_ones_own_stay_as_they_are_in_markdown_and_rows_of_fewer_seeds_are_counted(place):
    own = '  { name = "own", label = "a|b _c_", recipes = ["toy-plain"], seeds = 1 },\n'
    place.table.write_text(toy_ablation.TABLE.replace("rows = [\n", f"rows = [\n{own}"))
    done = invoke("--rows", "plain,own")
    assert done.exit_code == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if r"a\|b \_c\_" in line]
    assert len(lines) >= 3 and "a|b" not in done.stdout
    assert "Means of 1 to 2 training seeds, intervals by Student t with df = seeds - 1" in done.stdout


def test_a_part_or_a_trial_never_replaces_the_whole_table(place):
    done = invoke("--rows", "flow", "--seeds", 1, "--limit", 3)
    assert done.exit_code == 0, done.output
    assert {recipe for recipe, _ in place.trained} == {"toy-flow", "toy-better"}
    assert "Plain" not in done.stdout
    assert "`crossflow-eval ablate --suite toy.toml --seeds 1 --limit 3 --rows flow`" in done.stdout
    assert not (place.folder / "results").exists()
    assert (place.runs / "results" / "toy" / "table.md").exists()


def test_records_of_another_suite_version_or_training_are_named_in_one_sentence(place, monkeypatch):
    assert invoke("--rows", "bare", "--seeds", 1).exit_code == 0
    (record,) = place.runs.glob("measured/*/measured.json")
    monkeypatch.setitem(SUITES, "toy-test", lambda root: toy_ablation.suite("test", "2"))
    other = invoke("--rows", "bare", "--seeds", 1)
    assert other.exit_code == 2
    assert "is of another measurement, or of version 1 of the suite toy-test in place of 2" in other.stderr
    monkeypatch.setitem(SUITES, "toy-test", lambda root: toy_ablation.suite("test"))
    whole = record.read_bytes()
    record.write_bytes(whole[:100])
    said = invoke("--rows", "bare", "--seeds", 1).stderr
    assert "measured.json cannot be read as a measurement: it is not JSON" in said
    record.write_bytes(whole)
    (model,) = place.runs.glob("*/model.safetensors")
    model.write_text("toy-flow 0 10")
    foreign = invoke("--rows", "bare", "--seeds", 1)
    assert foreign.exit_code == 2
    assert foreign.stderr.splitlines()[-1].endswith("was not trained by the recipe toy-plain; remove its folder.")


def test_results_that_may_not_be_compared_share_no_table(place):
    assert invoke("--rows", "plain,bare", "--seeds", 1, "--results", "kept").exit_code == 0
    record = sorted(place.runs.glob("measured/*/measured.json"))[0]
    record.write_text(record.read_text().replace('"formula": "mean"', '"formula": "median"'))
    before = written(place.folder / "kept")
    done = invoke("--rows", "plain,bare", "--seeds", 1, "--results", "kept")
    assert done.exit_code == 2
    assert "mixes what may not be compared: geneval.formula is me" in done.stderr
    assert written(place.folder / "kept") == before


@pytest.mark.parametrize("seam", ["configs", "entry point"])
def test_a_new_row_is_one_recipe_and_one_line_of_toml(place, monkeypatch, seam):
    recipe = replace(CONFIGS["toy-plain"], warmup=9)
    if seam == "configs":
        monkeypatch.setitem(CONFIGS, "toy-own", recipe)
    else:
        entry = metadata.EntryPoint("toy-own", "toys_of_elsewhere:OWN", "crossflow.recipes")
        installed = metadata.entry_points
        monkeypatch.setattr(metadata.EntryPoint, "load", lambda self: recipe)
        monkeypatch.setattr(
            metadata, "entry_points", lambda **of: [entry] if of["group"] == "crossflow.recipes" else installed(**of)
        )
    monkeypatch.setitem(toy_ablation.BONUS["val"], "toy-own", 1)
    monkeypatch.setitem(toy_ablation.BONUS["test"], "toy-own", 50)
    line = '  { name = "own", label = "Of our own", recipes = ["toy-own"], guided = true },\n'
    place.table.write_text(toy_ablation.TABLE.replace("rows = [\n", f"rows = [\n{line}"))
    done = invoke("--rows", "own,bare")
    CONFIGS.pop("toy-own")
    assert done.exit_code == 0, done.output + repr(done.exception)
    assert cells(done.stdout)[0][1] == "Of our own"
    expected = [brightness("test", "toy-own", seed, 2, None) / 200 for seed in (0, 1)]
    record = json.loads((place.runs / "results" / "toy" / "results.json").read_text())["tables"][0]
    got = [each["test"]["values"]["geneval"]["mean"] for each in record["rows"]["own"]["seeds"]]
    assert got == pytest.approx(expected)


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


def test_of_equals_the_smallest_scale_is_chosen_and_nothing_but_by_validation(place):
    measurement = make_plan("toy.toml").measurements[0]
    at = {scale: measure.Candidate(recipe="toy-plain", guidance_scale=scale) for scale in (1.0, 2.0, 4.0)}

    def chosen(results: dict[float, Result]) -> float | None:
        return measure.choose({at[scale]: each for scale, each in results.items()}, measurement).guidance_scale

    assert chosen({1.0: result(0.2), 2.0: result(0.5), 4.0: result(0.4)}) == 2
    assert chosen({4.0: result(0.5), 2.0: result(0.5), 1.0: result(0.4)}) == 2
    assert chosen({4.0: result(0.5, better=False), 2.0: result(0.2, better=False)}) == 2
    with pytest.raises(CrossFlowError, match="on toy-val alone, not on toy-test"):
        chosen({1.0: result(0.2), 2.0: result(0.5, suite="toy-test")})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--rows", "flo"), "Unknown row of toy.toml 'flo'. Did you mean 'flow'?"),
        (("--seeds", 0), "--seeds must be at least 1"),
        (("--steps", 0), "--steps must be at least 1"),
        (("--jobs", 0), "--jobs must be at least 1"),
        (("--gpus", 0), "--gpus must be at least 1"),
        (("--limit", 0), "--limit must be at least 1"),
        (("--scale", "tinny"), "Unknown scale 'tinny'. Did you mean 'tiny'?"),
        (("--only", "measure-0"), "There is no job 'measure-0' that measures in this plan"),
        (("--engine", "slurm", "--slurm", "partition"), "--slurm partition is not KEY=VALUE"),
    ],
)
def test_wrong_calls_end_with_one_sentence_before_any_training(place, arguments, sentence):
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"Error: {sentence}")
    assert done.stderr.count("\n") == 1
    assert not place.trained
