"""Tables 2, 4, 7 and 10: the paper's values, where our runs stand beside them, what no run of another world may do."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from crossflow.errors import CrossFlowError
from crossflow_eval.cli import app
from crossflow_eval.metrics import caption
from crossflow_eval.report import FORMATS, Entry, render
from crossflow_eval.suites import geneval
from crossflow_eval.tables import load_table, table_of_suite
from crossflow_eval.types import Result, Settings, Value

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "paper_tables.json"
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


@pytest.mark.skipif(not SHARED.is_file(), reason="the paper's numbers are not beside this checkout")
@pytest.mark.parametrize("name", ["table2", "table4", "table7", "table10"])
def test_every_published_value_is_the_paper_s(name):
    paper = json.loads(SHARED.read_text())[{"table10": "table10_v2_text_compression"}.get(name, name)]
    rows = [(row["method"], {k: v for k, v in row["values"].items() if v is not None}) for row in paper["rows"]]
    table = load_table(name)
    assert [(row.label, row.published) for row in table.rows] == rows
    assert [column.published for column in table.columns if column.published] == [
        column["name"] for column in paper["columns"]
    ]


@pytest.mark.parametrize(
    ("name", "label", "published"),
    [
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


def test_our_runs_stand_in_the_row_of_their_model_beside_the_published_values():
    coco = entry("uvit-crossflow", "t2i_256px_clip_dimr", {"fid/coco": 9.71, "clip_score/crossflow": 0.291})
    tasks = entry("geneval", "t2i_256px_clip_dimr", {"geneval": 0.541} | {f"geneval/{task}": 0.5 for task in TASKS})
    other = entry("uvit-crossflow", "stable-diffusion-v1-5", {"fid/coco": 12.5, "clip_score/crossflow": 0.3})
    text = render([coco, tasks, other], "md", table=load_table("table2"))
    assert re.search(r"\| CrossFlow +\| +0\.95 \| +9\.71 \| +9\.63 \| +0\.291 \| +0\.541 \| +0\.55 \| +30000 \|", text)
    assert re.search(r"\| LDMv1\.5 +\| +0\.90 \| +12\.50 \| +9\.62 \| +0\.300 \| +— \| +0\.43 \|", text)
    assert table_of_suite("uvit-crossflow") == load_table("table2")
    assert re.search(r"\| overall\W+↑ +\|.* 0\.541 \|", render([tasks], "md", table=load_table("table7")))


def test_table_7_has_a_column_for_every_score_of_geneval():
    measured = [column.value for column in load_table("table7").columns if column.value]
    assert measured == ["geneval", *(f"geneval/{task}" for task in TASKS)]
    assert {example.tags["task"] for example in geneval.examples()} == set(TASKS)


CAPTIONS = {"bleu_4": 0.3651, "meteor": 0.2784, "rouge_l": 0.572, "cider_d": 1.1624, "spice": 0.2041}


def test_captions_are_shown_in_the_papers_unit_beside_its_values():
    """Our scores are on 0 to 1, CIDEr-D on 0 to 10, the paper's are 100 times that; so is the interval."""
    text = render([entry("coco_karpathy_spice", "crossflow-caption", CAPTIONS)])
    assert load_table("table4") == table_of_suite("coco_karpathy") == table_of_suite("coco_karpathy_spice")
    cells = (36.5, 36.4, 27.8, 27.8, 57.2, 57.1, 116.2, 116.2, 20.4, 20.4)
    assert re.search(r"\| CrossFlow +\| " + r" \| ".join(rf" *{cell}" for cell in cells) + r" \| 30000 \|", text)
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


def test_a_run_of_the_embedded_world_never_stands_beside_published_values():
    for table in ("table2", "table4", "table7", "table10"):
        with pytest.raises(CrossFlowError, match="gives no value of the table"):
            render([entry("scenes-t2i", "scenes-t2i", {"fid": 1.0, "geneval": 0.9})], table=load_table(table))
