"""Tables 2 and 7: the paper's values, where our runs stand beside them, and what no run of another world may do."""

import json
import re
from pathlib import Path

import pytest

from crossflow_eval.report import Entry, render
from crossflow_eval.suites import geneval
from crossflow_eval.tables import load_table, table_of_suite
from crossflow_eval.types import Result, Settings, SetupError, Value

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
@pytest.mark.parametrize("name", ["table2", "table7"])
def test_every_published_value_is_the_paper_s(name):
    paper = json.loads(SHARED.read_text())[name]
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


def test_a_run_of_the_embedded_world_never_stands_beside_published_values():
    for table in ("table2", "table7"):
        with pytest.raises(SetupError, match="gives no value of the table"):
            render([entry("scenes-t2i", "scenes-t2i", {"fid": 1.0, "geneval": 0.9})], table=load_table(table))
