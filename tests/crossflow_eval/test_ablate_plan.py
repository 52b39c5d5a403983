"""What an ablation is to do: the paper's tables at every scale, what they share, and the commands that do it."""

import json
import shlex
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from crossflow.cli import app as trainer
from crossflow.errors import CrossFlowError
from crossflow_eval import cli
from crossflow_eval.ablate import describe
from crossflow_eval.ablate import plan as planning
from crossflow_eval.ablate.ablation import SCALES, SUITES, ablation_names, load_ablations, load_scale
from crossflow_eval.ablate.jobs import cpu_seconds, jobs_of
from crossflow_eval.ablate.plan import Plan, make_plan
from crossflow_eval.ablate.write import results_folder
from crossflow_eval.models.crossflow import pairs_of, recipe_of, stages_of
from crossflow_eval.suites import load_suite
from crossflow_eval.tables.published import published

TABLES = [name for name in ablation_names() if name not in SUITES]


@pytest.fixture(autouse=True)
def pairs(monkeypatch):
    """Pairs that every recipe could read, wherever they are looked for."""
    monkeypatch.setattr(planning, "pairs_of", lambda recipe, folder: (folder, f"{folder.name}0123456789"))


def planned(name: str, scale: str, **options: object) -> Plan:
    given = {"data": Path("pairs"), "test_data": Path("coco")} if load_scale(scale).data else {}
    return make_plan(name, scale=scale, **given, **options)


def digests(plan: Plan, row: str, table: str | None = None) -> list[str]:
    """The measurements of a row, by seed."""
    parts = [part for each in plan.tables if table in (None, each.ablation.name) for part in each.parts]
    return [part.measurement.digest for part in parts if part.line.name == row]


def trained(plan: Plan, row: str) -> list[str]:
    """The trainings of a row, by seed."""
    parts = [part for each in plan.tables for part in each.parts if part.line.name == row]
    return [training.digest for part in parts for training in part.measurement.trainings]


def invoke(*arguments: object):
    return CliRunner().invoke(cli.app, ["ablate", *map(str, arguments)])


def test_every_table_of_the_paper_and_its_figure_is_there():
    numbers = [1, 2, "3a", "3b", "3c", "3d", "3e", *range(4, 11)]
    assert set(TABLES) == {*(f"table{number}" for number in numbers), "figure3", "codi"}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_planned_or_refused_in_a_sentence(name, scale):
    """Recipes, suites, published rows and columns are there; jobs have names of their own, each after earlier ones."""
    (ablation,) = load_ablations(name)
    rows = [row for row in ablation.rows if scale in row.scales]
    if scale in ablation.refused or not rows:
        with pytest.raises(CrossFlowError, match=r"^(Table \d+|table3d|Any to any) .*[.]$"):
            planned(name, scale)
        return
    plan = planned(name, scale)
    (table,) = plan.tables
    assert {line.row for line in table.lines} == set(rows)
    assert len(table.parts) == sum(min(plan.seeds, line.row.seeds or plan.seeds) for line in table.lines)
    for suite in (table.task.test, table.task.validation):
        assert suite is None or load_suite(suite).name == suite
    if ablation.paper is not None:
        paper = published(ablation.paper)
        assert {row.method for row in ablation.rows if row.method} <= {row.method for row in paper.rows}
        assert ablation.published in (None, *(column.name for column in paper.columns))
    for training in plan.trainings:
        assert training.steps > 0
        assert stages_of(training.recipe) or recipe_of(training.recipe).keep_at == training.kept
    jobs = jobs_of(plan)
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names)
    for number, job in enumerate(jobs):
        assert set(job.after) <= set(names[:number])


@pytest.mark.parametrize("scale", ["smoke", "tiny"])
def test_rows_that_the_paper_shares_are_one_measurement(scale):
    plan = planned("table3", scale)
    assert digests(plan, "variational") == digests(plan, "reconstruction")
    assert digests(plan, "image-contrast") == digests(plan, "none")
    assert digests(plan, "minilm") == digests(plan, "joint")
    assert trained(plan, "indicator") == trained(plan, "minilm")
    apart = [digests(planned(name, scale), row) for name, row in (("table3a", "encoder"), ("table3d", "minilm"))]
    assert apart == [digests(plan, "encoder"), digests(plan, "minilm")]
    whole = sum(len(planned(name, scale).trainings) for name in SUITES["table3"])
    assert len(plan.trainings) < whole


def test_tables_2_and_7_are_of_the_same_measurements_and_share_a_row_with_table_1():
    second, seventh = planned("table2", "tiny"), planned("table7", "tiny")
    assert second.measurements == seventh.measurements
    assert digests(second, "linear") == digests(planned("table1", "tiny"), "crossflow")


def test_autoguidance_trains_nothing_of_its_own():
    plan = planned("table3c", "smoke")
    assert {training.recipe for training in plan.trainings} == {"smoke-image-contrast", "smoke-crossflow"}


def test_systems_trained_in_stages_begin_after_what_they_share():
    """Variants where they change something; further seeds after what is trained once; each is a folder of its own."""
    plan = planned("codi", "tiny", out=Path("out"))
    found = {(each.recipe.removeprefix("tiny-"), each.seed): each for each in plan.trainings}
    assert len(found) == len(plan.trainings) == len({each.digest for each in plan.trainings})
    first, second = found["codi", 0], found["codi", 1]
    assert first.init(Path("out")) is None
    assert second.init(Path("out")) == Path("out", first.digest, "04-prompts-video", "model.safetensors")
    for name, seed, begins, stage in (
        ("codi-self", 1, second, "09-diffuser-video"),
        ("codi-eps", 0, first, "04-prompts-video"),
        ("codi-direct", 0, first, "00-codecs"),
    ):
        assert found[name, seed].init(Path("out")) == Path("out", begins.digest, stage, "model.safetensors")
    assert found["codi-self", 1].before == (first, second)
    assert found["codi-self", 0].steps == sum(folder.name[3:7] == "pair" for folder in first.folders(Path())) * 2000
    train = {job.name: job for job in jobs_of(plan)}[f"train-{found['codi-self', 0].digest}"]
    assert "--steps" not in train.command and train.after == (f"train-{first.digest}",)
    with pytest.raises(CrossFlowError, match="trained in stages, each in steps of its own: leave --steps out"):
        planned("codi", "tiny", steps=100)


def test_rows_that_sample_one_system_in_other_ways_share_its_training():
    plan = planned("codi", "smoke", rows=("independent", "others", "concat", "in-turn"))
    assert {training.recipe for training in plan.trainings} == {"smoke-codi"}
    parts = {(part.line.name, part.seed): part.measurement for part in plan.tables[0].parts}
    assert sorted(parts) == [
        *(("concat", 0), ("in-turn", 0)),
        *((name, seed) for name in ("independent", "others") for seed in (0, 1)),
    ]
    assert len({each.digest for each in parts.values()}) == len(parts)
    assert parts["in-turn", 0].sampled == (("method", "in-turn"),)


def test_rows_of_a_table_are_sampled_in_one_precision():
    for name in SUITES["table3"] + ("figure3", "table1", "table4", "table5", "table6"):
        assert len({dict(each.sampled).get("precision") for each in planned(name, "tiny").measurements}) == 1


def test_a_measurement_keeps_its_name_through_later_versions():
    kept = json.loads(Path("results/table3/results.json").read_text(encoding="utf-8"))
    digests = {seed["digest"] for table in kept["tables"] for row in table["rows"].values() for seed in row["seeds"]}
    assert digests == {each.digest for each in planned("table3", "tiny").measurements}


def test_seeds_and_digests_tell_trainings_apart():
    plan = planned("table3", "tiny")
    names = [(training.recipe, training.seed) for training in plan.trainings]
    assert len(set(names)) == len(names) == len({training.digest for training in plan.trainings})


def test_steps_keep_the_ratios_of_rows_and_checkpoints():
    plan = planned("table3e", "tiny", steps=300, seeds=1)
    steps = {training.recipe.removeprefix("tiny-"): training.steps for training in plan.trainings}
    assert steps == {
        **{"crossflow": 300, "two-stage-separate-total": 300, "two-stage-finetuned-total": 300},
        **{"two-stage-separate": 375, "two-stage-finetuned": 375},
    }
    (long,) = (training for training in plan.trainings if training.recipe == "tiny-two-stage-finetuned")
    assert long.kept == (195, 225, 270, 315, 375)
    assert long.checkpoint(Path(), 0.52).name == "model-000195.safetensors"
    assert long.checkpoint(Path(), 1.0).name == "model.safetensors"


@pytest.mark.parametrize("steps", [1, 3, 10, 19, 27])
def test_every_checkpoint_that_is_measured_is_kept_in_any_number_of_steps(steps):
    for name in ("figure3", "table3c"):
        for scale in ("smoke", "tiny"):
            plan = planned(name, scale, steps=steps, seeds=1)
            for measurement in plan.measurements:
                for training in measurement.trainings:
                    kept = {training.steps, *recipe_of(training.recipe, training.steps).keep_at}
                    assert {training.step(at) for at in (measurement.at, *measurement.weaker)} <= kept


def test_a_checkpoint_that_no_recipe_keeps_is_refused(tmp_path):
    own = tmp_path / "own.toml"
    own.write_text(
        'title = "Own"\ntask = "t2i"\nrows = [{ name = "a", label = "A", recipes = ["{scale}-crossflow"], at = [0.3] }]'
    )
    with pytest.raises(CrossFlowError, match=r"The row a measures tiny-crossflow after 0\.3 of its 1600 steps, and"):
        planned(str(own), "tiny")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("title = ", "own.toml: it is not TOML"),
        ('title = "A"\ntask = "t2i"\nrows = []', "own.toml cannot be read as ablation: rows: "),
        (
            'title = "A"\ntask = "t2i"\nagainst = ["b"]\nrows = [{ name = "a", label = "A", recipes = ["x"] }]',
            "rows are compared with 'b', which is no row",
        ),
        (
            'title = "A"\ntask = "t2i"\nrows = [{ name = "a", label = "A", recipes = ["scenes-tin"] }]',
            "Unknown config 'scenes-tin'. Did you mean 'scenes-tiny'?",
        ),
        (
            'title = "A"\ntask = "walking"\nrows = [{ name = "a", label = "A", recipes = ["scenes-tiny"] }]',
            "The scale tiny does not measure the task walking of own",
        ),
        (
            'title = "A"\ntask = "sr"\n'
            'rows = [{ name = "a", label = "A", recipes = ["scenes-sr", "scenes-sr-standard"] }]',
            "The row a has something to choose, and scenes-sr has no suite to choose on",
        ),
    ],
)
def test_a_file_that_is_no_ablation_is_refused_in_one_sentence(tmp_path, text, sentence):
    (tmp_path / "own.toml").write_text(text)
    done = invoke("--suite", tmp_path / "own.toml")
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: ")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--suite", "tabel3"), "Unknown ablation 'tabel3'. Did you mean 'table3'?"),
        (("--suite", "table3a", "--rows", "noisy"), "Unknown row of table3a 'noisy'. Did you mean 'noise'?"),
        (("--suite", "table9"), "Table 9 is depth of real scenes by a model that was trained on Hypersim and Virtual"),
        (("--suite", "table1", "--scale", "base"), "The scale base trains on image-text pairs of yours: give their"),
        (("--suite", "table1", "--scale", "base", "--data", "."), "The scale base is tested on COCO: give the suite's"),
        (("--suite", "table1", "--data", "."), "The scale tiny draws its own data: leave --data and --test-data out"),
        (("--suite", "table1", "--data", "nowhere"), "There is no file or folder nowhere: give one that is there."),
        (("--suite", "nowhere.toml"), "There is no file or folder nowhere.toml: give one that is there."),
    ],
)
def test_what_is_unknown_or_refused_ends_with_one_sentence(arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"Error: {sentence}")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [("--scale", "smoke"), ("--scale", "base", "--data", "my pairs", "--gpus", "2")])
def test_printed_commands_are_commands_in_the_order_of_their_dependencies(options, tmp_path, monkeypatch):
    """Each is read by the very command line that it calls, though folders have spaces in their names."""
    monkeypatch.chdir(tmp_path)
    given = (*options, "--test-data", "my coco") if "base" in options else options
    arguments = ("--suite", "table3c", *given, "--seeds", "2", "--out", "my runs")
    done = invoke(*arguments, "--print-commands")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    commands = [line for line in lines if not line.startswith("#")]
    made: set[str] = set()
    for command in commands:
        words = shlex.split(command)
        if words[0] == "torchrun":
            words = words[words.index("--no-python") + 1 :]
        program, name, *rest = words
        parser = get_command({"crossflow": trainer, "crossflow-eval": cli.app}[program]).commands[name]
        parsed = parser.make_context(name, rest).params
        if name == "train":
            made.add(str(parsed["out"]))
        else:
            assert parsed["only"].startswith(("measure-", "references-"))
            assert parsed["only"].startswith("references-") or made
    assert len(commands) == len(set(commands))
    assert next(line for line in lines if line.startswith("#")).startswith("# 1. in any order")
    assert not (tmp_path / "my runs").exists()


def test_other_pairs_are_another_training_and_their_place_is_no_part_of_a_measurement():
    one, moved, other = (
        make_plan("table1", scale="base", data=Path(folder), test_data=Path("coco")) for folder in ("a", "x/a", "b")
    )
    assert [each.digest for each in one.trainings] == [each.digest for each in moved.trainings]
    assert [each.digest for each in one.measurements] == [each.digest for each in moved.measurements]
    assert not {each.digest for each in one.trainings} & {each.digest for each in other.trainings}


def test_pairs_are_looked_for_in_the_subfolder_of_their_language_model_and_missing_ones_are_said_at_once(tmp_path):
    with pytest.raises(CrossFlowError, match=str(tmp_path / "none")):
        pairs_of("base-crossflow", tmp_path / "none")
    (tmp_path / "clip-vit-l14").mkdir()
    with pytest.raises(CrossFlowError, match="clip-vit-l14"):
        pairs_of("base-crossflow", tmp_path)


def test_a_table_whose_path_has_spaces_is_measured_by_commands_too(tmp_path):
    own = tmp_path / "my table.toml"
    own.write_text('title = "A"\ntask = "t2i"\nrows = [{ name = "a", label = "A", recipes = ["scenes-tiny"] }]')
    plan = planned(str(own), "tiny")
    (measuring, *_) = [job for job in jobs_of(plan) if job.name.startswith("measure-")]
    assert measuring.command[:4] == ("crossflow-eval", "ablate", "--suite", str(own))
    assert shlex.split(measuring.line) == list(measuring.command)


def test_a_dry_run_says_what_is_shared_and_how_long_it_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(describe, "seconds_a_step", lambda name: 6.0)
    done = invoke("--suite", "table3c", "--scale", "smoke", "--seeds", "1", "--dry-run")
    assert done.exit_code == 0, done.output
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if "seed" in line]
    rows = "table3c none, table3c autoguidance"
    assert ["smoke-image-contrast, seed 0", rows, "20", "2.0", "to do"] in cells
    assert "2 of 2 trainings to do, about 4 minutes of one core, and 4 other jobs; runs in runs/ablate." in done.stdout
    assert not list(tmp_path.iterdir())


def test_parts_trials_and_the_smallest_scale_keep_out_of_the_results():
    whole = planned("table1", "tiny")
    assert results_folder(whole) == Path("results") / "table1"
    for scale, options in (("smoke", {}), ("tiny", {"seeds": 1}), ("tiny", {"rows": ("crossflow",)})):
        assert results_folder(planned("table1", scale, **options)).is_relative_to(whole.out)
    assert results_folder(planned("table1", "base")) == Path("results") / "table1-base"


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
    assert cpu_seconds(tmp_path) == seconds
