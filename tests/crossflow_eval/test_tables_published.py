"""The paper's tables: every cell, where our runs stand beside them, what no run of another world may do."""

import json
import re
import tomllib
from importlib.resources import files

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from crossflow.errors import CrossFlowError
from crossflow_eval.cli import app
from crossflow_eval.metrics import caption
from crossflow_eval.report import FORMATS, Entry, render
from crossflow_eval.report.grid import build_grid
from crossflow_eval.report.text import DASH, cell_text
from crossflow_eval.suites import geneval
from crossflow_eval.tables import load_table, parse_table, table_names, table_of_suite
from crossflow_eval.tables.published import Published, published, published_names
from crossflow_eval.types import Result, Settings, Value

TABLES = files("crossflow_eval.tables")
PAPER, CODI = (json.loads(TABLES.joinpath(f"{name}_tables.json").read_text()) for name in ("paper", "codi"))
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


def entry(suite: str, model: str, values: dict[str, float]) -> Entry:
    settings = Settings(suite=suite, suite_version="1", model=model, identity={"weights_sha256": "ab"})
    return Entry(
        result=Result(
            settings=settings,
            protocol={"fid": {"protocol": "crossflow"}, "geneval": {}},
            n=30_000,
            values={name: Value(mean=value, n=30_000) for name, value in values.items()},
            higher_is_better={name: not name.startswith("fid") for name in values},
            data_sha256="cd" * 32,
            environment={},
        )
    )


def test_every_table_of_the_paper_is_a_table_here():
    assert [name for name in published_names() if name not in table_names()] == ["text_claims"]
    assert len(PAPER) == 16


@pytest.mark.parametrize("name", [name for name in PAPER | CODI if name != "text_claims"])
def test_every_cell_of_the_paper_is_rendered_with_all_its_digits(name):
    grid = build_grid([], load_table(name))
    shown = {
        (line.label, cell.column.published): None if cell_text(cell) == DASH else float(cell_text(cell))
        for line in grid.lines
        for cell in line.cells
        if cell.column.published is not None
    }
    rows = (PAPER | CODI)[name]["rows"]
    assert shown == {(row["method"], column): value for row in rows for column, value in row["values"].items()}
    assert [line.label for line in grid.lines] == [row["method"] for row in rows]


@pytest.mark.parametrize("name", table_names())
def test_no_published_value_is_written_into_a_table(name):
    text = TABLES.joinpath(f"{name}.toml").read_text()
    assert not any("published" in row for row in tomllib.loads(text).get("rows", ()))


@pytest.mark.parametrize(
    ("name", "label", "published"),
    [
        ("table3a", "Variational Encoder", {"FID-10K": 40.78, "CLIP": 0.23}),
        ("table3b", "I-T Contrast.", {"FID-10K": 33.41, "CLIP": 0.24}),
        ("table3c", "CFG indicator", {"FID-10K": 24.33, "CLIP": 0.26}),
        ("table3d", "Llama3 (7B)", {"FID-10K": 21.2, "CLIP": 0.27}),
        ("table3e", "2-stage w/ joint finetuning", {"FID-10K": 23.79, "CLIP": 0.26}),
        ("table8", "Combination", {"success_rate": 87.5}),
        ("table2", "CrossFlow", {"params_B": 0.95, "FID-30K": 9.63, "GenEval": 0.55}),
        ("table2", "CrossFlow (Sin-Cos)", {"params_B": 0.95, "FID-30K": 8.95, "GenEval": 0.57}),
        ("table7", "CrossFlow", dict(zip(
            ("Overall", "Single object", "Two object", "Counting", "Colors", "Position", "Attribute binding"),
            (0.55, 0.98, 0.72, 0.39, 0.82, 0.18, 0.21), strict=True))),
        ("table4", "CrossFlow", {"BLEU@4": 36.4, "METEOR": 27.8, "ROUGE-L": 57.1, "CIDEr": 116.2, "SPICE": 20.4}),
        ("table10", "Text Variational Encoder (1x1024)", {"recon_accuracy": 94.53}),
    ],
)  # fmt: skip
def test_the_rows_of_crossflow_hold_the_papers_values(name, label, published):
    assert next(row.published for row in load_table(name).rows if row.label == label) == published


def test_rows_that_several_tables_of_the_paper_print_have_the_same_values_in_all():
    of = {name: {row.method: row.values for row in published(name).rows} for name in published_names()}
    assert of["table3a"]["Variational Encoder"] == of["table3b"]["T-T Recon."]
    assert of["table3b"]["I-T Contrast."] == of["table3c"]["No guidance"]
    indicator = of["table3c"]["CFG indicator"]
    assert indicator == of["table3d"]["CLIP (0.4B)"] == of["table3e"]["Joint training"]
    points = [values["FID-30K"] for values in of["figure3"].values()]
    assert points == [of["table1"][method]["FID-30K"] for method in ("CrossFlow", "Standard FM (baseline)")]
    both = of["table2"].keys() & of["table7"].keys()
    assert len(both) == 5
    assert all(of["table2"][method]["GenEval"] == of["table7"][method]["Overall"] for method in both)


def test_what_the_paper_leaves_open_or_prints_wrong_is_said_beside_its_values():
    tasks = {row.method: row.values["success_rate"] or 0 for row in published("table8").rows}
    overall = tasks.pop("Overall")
    assert (overall, round(sum(tasks.values()) / 3, 1)) == (91.4, 91.8)
    for source in (published("table8"), load_table("table8")):
        assert "91.4" in source.notes and "91.8" in source.notes
    assert [name for name in published_names() if not published(name).confirmed] == ["figure3"]
    for source in (published("figure3"), load_table("figure3")):
        assert "printed nowhere" in source.notes
    swapped = {column.name: column.note for column in published("table9").columns if column.note}
    assert "swapped" in published("table9").notes
    assert swapped.keys() == {f"{data} {error}" for data in ("KITTI", "NYUv2") for error in ("AbsRel", "delta1")}
    assert "contradicts itself" in published("table10").notes


def test_a_published_table_is_read_only_and_has_a_value_or_null_in_every_cell():
    table = published("table6")
    assert (table.columns[0].better, table.columns[2].unit, table.rows[0].values["PSNR"]) == ("lower", "dB", None)
    with pytest.raises(ValidationError, match="frozen"):
        table.title = "mine"  # pyright: ignore[reportAttributeAccessIssue]
    less = table.model_dump() | {"rows": [{"method": "SR3", "ours": False, "values": {"FID": 5.2}}]}
    with pytest.raises(ValidationError, match="'SR3' needs a value or null for each of FID, IS, PSNR, SSIM"):
        Published.model_validate(less)


def test_of_codi_only_what_was_checked_stands_here_and_its_status_beside():
    for name, table in CODI.items():
        for row in table["rows"]:
            given = {column for column, value in row["values"].items() if value is not None}
            assert row["status"].keys() == given, "a value that was not checked is left out"
        assert published(name).standing and load_table(name).notes.endswith(published(name).standing)
        assert all(column.value is None for column in load_table(name).columns), "no run of ours stands among them"
    assert published("codi_t2").standing == (
        "Read in the text of a paper that prints it: GLIDE FID, LDM FID. "
        "Read in notes on a paper that quotes it: Stable Diffusion 1.4 FID, CoDi FID."
    )
    row = CODI["codi_t2"]["rows"][0]
    with pytest.raises(ValidationError, match="'GLIDE' needs a status for each of its values"):
        Published.model_validate(CODI["codi_t2"] | {"rows": [row | {"status": {"IS": "measured"}}]})


HEAD = 'title = "t"\ncolumns = [{ label = "FID", published = "FID-30K" }]\n'


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: published("tabel4"), "Unknown published table 'tabel4'. Did you mean 'table4'"),
        (lambda: parse_table("x", HEAD + 'paper = "tabel1"'), "'x' cannot be read: .*Did you mean 'table1'"),
        (lambda: parse_table("x", HEAD + 'paper = "table3a"'), "column of table3a 'FID-30K'. Did you mean 'FID-10K'"),
        (
            lambda: parse_table("x", HEAD + 'paper = "table1"\n[[rows]]\nmethod = "CrosFlow"'),
            "row of table1 'CrosFlow'. Did you mean 'CrossFlow'",
        ),
        (lambda: parse_table("x", HEAD + '[[rows]]\nmethod = "CrossFlow"'), "name the `paper` that has it"),
        (
            lambda: parse_table("x", HEAD + 'paper = "table1"\n[[rows]]\nlabel = "a"\npublished = { FID-30K = 1 }'),
            "'a' repeats published values",
        ),
    ],
)
def test_what_the_paper_does_not_have_is_one_sentence(call, sentence):
    with pytest.raises(CrossFlowError, match=sentence):
        call()


def test_a_row_may_have_another_label_than_its_method_and_references_stand_below_all_methods():
    table = parse_table("x", HEAD + 'paper = "table1"\n[[rows]]\nlabel = "Noise"\nmethod = "Standard FM (baseline)"')
    assert [(row.label, row.published["FID-30K"]) for row in table.rows] == [("Noise", 10.79)]
    table = parse_table("x", HEAD + 'paper = "table1"\n[[rows]]\nlabel = "Chance"\nrole = "chance"')
    assert [row.label for row in table.rows] == ["Standard FM (baseline)", "CrossFlow", "Chance"]


@pytest.mark.parametrize("name", [f"table3{part}" for part in "abcde"])
def test_a_run_of_ten_thousand_prompts_stands_in_table_3(name):
    run = entry("crossflow-10k", "mine", {"fid/coco": 25.5, "clip_score/crossflow": 0.255})
    text = render([run], table=load_table(name))
    assert re.search(r"\| mine +\| +25\.50 \| +— \| +0\.255 \| +— \|", text)


def test_the_command_knows_every_table_of_the_paper():
    listed = json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)["tables"]
    assert set(published_names()) - set(listed) == {"text_claims"}
    shown = CliRunner().invoke(app, ["report", "--table", "figure3"]).stdout
    assert re.search(r"\| CrossFlow @0\.95B, 300K +\| +— \| +10\.13 \|", shown)


def row_of(label: str, text: str) -> list[str]:
    """The cells of a row, through all parts of a Markdown table that is too wide for one."""
    rows = [[cell.strip() for cell in line.strip("| \n").split("|")] for line in text.splitlines()]
    return [cell for first, *cells in rows if first == label for cell in cells]


def test_our_runs_stand_in_the_row_of_their_model_beside_the_published_values():
    coco = entry("uvit-crossflow", "t2i_256px_clip_dimr", {"fid/coco": 9.71, "clip_score/crossflow": 0.291})
    tasks = entry("geneval", "t2i_256px_clip_dimr", {"geneval": 0.541} | {f"geneval/{task}": 0.5 for task in TASKS})
    other = entry("uvit-crossflow", "stable-diffusion-v1-5", {"fid/coco": 12.5, "clip_score/crossflow": 0.3})
    text = render([coco, tasks, other], "md", table=load_table("table2"))
    assert row_of("CrossFlow", text)[:7] == ["0.95", "9.71", "9.63", "0.291", "0.541", "0.55", "30000"]
    assert row_of("LDMv1.5", text)[:6] == ["0.90", "12.50", "9.62", "0.300", "—", "0.43"]
    assert table_of_suite("uvit-crossflow") == load_table("table2")
    assert "0.541" in row_of("CrossFlow", render([tasks], "md", table=load_table("table7")))


def test_table_7_has_a_column_for_every_score_of_geneval():
    measured = [column.value for column in load_table("table7").columns if column.value]
    assert measured == ["geneval", *(f"geneval/{task}" for task in TASKS)]
    assert {example.tags["task"] for example in geneval.examples()} == set(TASKS)


CAPTIONS = {"bleu_4": 0.3651, "meteor": 0.2784, "rouge_l": 0.572, "cider_d": 1.1624, "spice": 0.2041}


def test_captions_are_shown_in_the_papers_unit_beside_its_values():
    """Our scores are on 0 to 1, CIDEr-D on 0 to 10, the paper's are 100 times that; so is the interval."""
    text = render([entry("coco_karpathy_spice", "crossflow-caption", CAPTIONS)])
    assert load_table("table4") == table_of_suite("coco_karpathy") == table_of_suite("coco_karpathy_spice")
    cells = ["36.5", "36.4", "27.8", "27.8", "57.2", "57.1", "116.2", "116.2", "20.4", "20.4", "30000"]
    assert row_of("CrossFlow", text)[: len(cells)] == cells
    column = load_table("table4").columns[0]
    assert column.scaled(Value(mean=0.25, ci_low=0.125, ci_high=None, n=3)) == Value(mean=25, ci_low=12.5, n=3)


def test_table_4_has_columns_for_scores_that_the_metric_gives(tmp_path, monkeypatch):
    monkeypatch.setattr(caption, "find_java", lambda: "java")
    monkeypatch.setattr(caption, "check_spice", lambda models: None)
    measured = {column.value for column in load_table("table4").columns if column.value}
    assert measured == CAPTIONS.keys() <= caption.CaptionScores(spice_models=tmp_path).higher_is_better.keys()


def test_table_10_is_published_alone_and_says_what_its_label_hides():
    """It needs no run, in any format; the stated ratio is that of 4096 numbers."""
    done = CliRunner().invoke(app, ["report", "--table", "table10"])
    assert re.search(r"\| Text Variational Encoder \(1x1024\) \| +94\.53 \|", done.stdout)
    assert "4096 = 14.4" in done.stdout
    assert all("94.53" in render([], format, table=load_table("table10")) for format in FORMATS)
    assert (round(77 * 768 / 4096, 1), round(77 * 768 / 1024, 1)) == (14.4, 57.8)


@pytest.mark.parametrize("name", [name for name in table_names() if load_table(name).paper])
def test_a_run_of_the_embedded_world_or_of_another_suite_never_stands_beside_published_values(name):
    """Whatever its values are called: BLEU of the world's captions is no BLEU of COCO."""
    table = load_table(name)
    values = {column.value: 0.5 for column in table.columns if column.value}
    for suite in ("scenes-t2i", "scenes-caption", "scenes-sr", "own-sr", "msrvtt_caption", "coco_karpathy_val"):
        with pytest.raises(CrossFlowError, match="gives no value of the table"):
            render([entry(suite, "model", values)], table=table)
