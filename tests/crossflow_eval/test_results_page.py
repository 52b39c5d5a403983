"""``python -m benchmarks.results_page``: the list of all records in results/ is made of them, and is not stale."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.results_page import MARKS, main, page
from crossflow.errors import CrossFlowError

ROOT = Path(__file__).parents[2]
APP = typer.Typer()
APP.command()(main)

NUMBER = {"mean": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 100, "of": "a field that a later release adds"}
VERDICT = {
    "title": "CrossFlow | standard",
    "verdict": "not decided at this budget",
    "difference": 0.1,
    "ci_low": -0.05,
    "ci_high": 0.25,
    "p": 0.12,
    "published_difference": None,
}
RECORD = {
    "suite": "table1",
    "scale": "tiny",
    "command": "crossflow-eval ablate --suite table1",
    "interval": "Student t",
    "tables": [
        {
            "table": "table1",
            "title": "Table 1",
            "value": "fid",
            "rows": {
                "crossflow": {"mean": {"fid": NUMBER}, "seeds": [{"test": {"higher_is_better": {"fid": False}}}, {}]},
            },
            "failed": {"diverged": "seed 0: the loss is NaN"},
            "references": {"chance": {"values": {"fid": NUMBER}}},
            "verdicts": [VERDICT],
        }
    ],
}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder with one ablation and one page in its ``results``, and that folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results"
    for name in ("table1", "benchmarks"):
        (folder / name).mkdir(parents=True)
    (folder / "table1" / "results.json").write_text(json.dumps(RECORD))
    (folder / "table1" / "table.md").write_text("**Table 1 at tiny**\n\n| | |\n")
    (folder / "benchmarks" / "speed.md").write_text("# How fast\n\nWritten by\n`python -m benchmarks.speed\n--n 3`.\n")
    (tmp_path / "README.md").write_text(f"before\n{MARKS[0]}an old table\n{MARKS[1]}after\n")
    return folder


def test_the_page_in_results_is_what_its_records_say(monkeypatch):
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(APP, ["--check"])
    assert (done.exit_code, done.output) == (0, "")


def test_every_record_and_page_is_listed_with_its_score_verdict_and_command(results):
    text = page(results)
    assert "### [Table 1 at tiny](table1/table.md)" in text
    assert "| row | fid ↓ | n | seeds |" in text
    assert "| diverged | failed | — | — |" in text
    assert "| crossflow | 0.500 [0.400, 0.600] | 100 | 2 |" in text
    assert "| chance | 0.500 | 100 | — |" in text
    assert r"| CrossFlow \| standard | not decided at this budget | +0.1 [-0.05, +0.25] | 0.12 | — |" in text
    assert "Command: `crossflow-eval ablate --suite table1`. Scale: tiny. Brackets: Student t." in text
    assert "| [How fast](benchmarks/speed.md) | `python -m benchmarks.speed --n 3` |" in text


def test_a_record_of_several_tables_shows_each_and_one_of_the_first_version_still_reads(results):
    part = RECORD["tables"][0]
    several = RECORD | {"tables": [part | {"title": "Table 3a"}, part | {"title": "Table 3b"}]}
    (results / "table1" / "results.json").write_text(json.dumps(several))
    text = page(results)
    assert text.index("**Table 3a**") < text.index("**Table 3b**")
    first = {"command": "c", "interval": "i", "rows": part["rows"], "references": part["references"]}
    (results / "table1" / "results.json").write_text(json.dumps(first))
    assert "| crossflow | 0.500 [0.400, 0.600] | 100 | 2 |" in page(results)


def test_a_stale_page_ends_with_2_and_one_sentence_and_is_left_alone(results):
    assert CliRunner().invoke(APP, ["--check"]).exit_code == 2, "there is none yet"
    assert CliRunner().invoke(APP).exit_code == 0
    assert CliRunner().invoke(APP, ["--check"]).exit_code == 0
    written = (results / "README.md").read_text()
    (results / "benchmarks" / "new.md").write_text("# New\n")
    done = CliRunner().invoke(APP, ["--check"])
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: results/README.md is not what its records say; write it again by python -m")
    assert (results / "README.md").read_text() == written


def test_readme_has_the_rows_of_table_3_with_the_paper_s_values_and_verdicts(results):
    value = {"geneval": NUMBER}
    said = VERDICT | {"title": "Encoder against Variational Encoder"}
    rows = {
        "encoder": {"label": "Encoder", "mean": value},
        "encoder@0.5": {"label": "Encoder, 50 % of the steps", "mean": value},
        "variational": {"label": "Variational Encoder", "mean": value},
    }
    part = {"table": "table3a", "title": "Table 3a: the source", "value": "geneval", "rows": rows, "verdicts": [said]}
    (results / "table3").mkdir()
    (results / "table3" / "results.json").write_text(json.dumps(RECORD | {"tables": [part]}))
    (results / "table3" / "table.md").write_text("**Table 3**\n")
    assert CliRunner().invoke(APP).exit_code == 0
    before, _, rest = (results.parent / "README.md").read_text().partition(MARKS[0])
    table, _, after = rest.partition(MARKS[1])
    assert (before, after) == ("before\n", "after\n")
    assert table.splitlines()[2:] == [
        "| **3a: the source** |  |  |  |",
        "| Encoder | 0.500 [0.400, 0.600] | 66.65 | not decided at this budget: +0.100 [-0.050, +0.250], p = 0.120 |",
        "| Variational Encoder | 0.500 [0.400, 0.600] | 40.78 | *the others are compared with it* |",
    ]
    (results.parent / "README.md").write_text(before)
    assert "README.md has no table between" in CliRunner().invoke(APP, ["--check"]).stderr


def test_a_record_that_cannot_be_read_is_named(results):
    (results / "table1" / "results.json").write_text("{}")
    with pytest.raises(CrossFlowError, match=r"table1/results.json cannot be read as the record of an ablation"):
        page(results)
