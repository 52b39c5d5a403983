"""What docs/design.md has under "How to add", done from outside: a metric, a suite, a table, a kind of output, a model.

All of it is one module and one table of another package.
"""

import json
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from crossflow_eval.cli import app
from crossflow_eval.outputs import KINDS

PACKAGE = '''
import json
from pathlib import Path

import numpy as np

from crossflow_eval.outputs import KINDS, Kind
from crossflow_eval.types import Example, Suite, Value

KINDS["json"] = Kind(
    wanted="boxes, a float64 array [n 4]",
    check=lambda output: isinstance(output, np.ndarray) and output.dtype == np.float64 and output.shape[1:] == (4,),
    encode=lambda output: json.dumps(output.tolist()).encode(),
    decode=lambda content: np.array(json.loads(content), dtype=np.float64).reshape(-1, 4),
    picture=lambda output, side: np.full((side, side, 3), len(output), dtype=np.uint8),
)


class Count:
    """How many boxes there are."""

    protocol, higher_is_better = {"counts": "boxes"}, {"boxes": True}

    def __init__(self):
        self.counts = []

    def update(self, examples, outputs):
        self.counts += map(len, outputs)
        return [{"boxes": len(output)} for output in outputs]

    def compute(self):
        return {"boxes": Value(mean=float(np.mean(self.counts)), n=len(self.counts))}


class Boxes:
    """A model: three boxes, whatever it is asked."""

    name, identity = "three", {}

    def generate(self, sources, seeds):
        return [np.ones((3, 4)) for _ in sources]


class Nothing:
    """A reference: no boxes."""

    name, identity = "nothing", {}

    def read(self, example_id, index):
        return np.ones((0, 4))


class Listed:
    """Boxes made elsewhere: one file for all examples."""

    name = "listed"

    def __init__(self, path):
        self.boxes = json.loads(path.read_text())
        self.identity = {"boxes": self.boxes}

    def read(self, example_id, index):
        return np.array(self.boxes[example_id], dtype=np.float64).reshape(-1, 4)

    def check(self, needed, known, outputs_per_example):
        assert {each.id for each in needed} <= self.boxes.keys()


def suite(root):
    examples = [Example(id=line, source=f"find {line}") for line in root.read_text().split()] if root else []
    return Suite(
        name="boxes",
        version="1",
        task="caption",
        output="json",
        examples=lambda root: examples,
        metrics={"count": Count},
        references={"trivial": Nothing()},
        pictures=lambda example_id: {"source": np.full((4, 4, 3), 7, dtype=np.uint8)},
        made_elsewhere=Listed,
    )
'''

TABLE = """
title = "Boxes"
suites = ["boxes"]
[[columns]]
label = "found"
value = "boxes"
[[rows]]
label = "Three"
models = ["three"]
[[rows]]
label = "Nobody"
role = "trivial"
"""


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    """A package with one module and one table, its entry points known, in a folder with a file of data."""
    (tmp_path / "boxes_of_elsewhere.py").write_text(PACKAGE)
    (tmp_path / "boxes.toml").write_text(TABLE)
    (tmp_path / "data.txt").write_text("cat dog")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    monkeypatch.delitem(sys.modules, "boxes_of_elsewhere", raising=False)
    entries = {
        "crossflow_eval.suites": [metadata.EntryPoint("boxes", "boxes_of_elsewhere:suite", "crossflow_eval.suites")],
        "crossflow_eval.models": [metadata.EntryPoint("three", "boxes_of_elsewhere:Boxes", "crossflow_eval.models")],
    }
    installed = metadata.entry_points
    monkeypatch.setattr(metadata, "entry_points", lambda **of: entries.get(of.get("group", "")) or installed(**of))
    yield
    KINDS.pop("json", None)


def called(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.stderr
    return done.stdout


def measured(*words: object) -> dict:
    return json.loads(called("caption", "--suite", "boxes", "--data", "data.txt", *words, "--json"))


def test_a_metric_a_suite_a_kind_and_a_model_of_another_package_are_measured():
    told = measured("--model", "three", "--out", "run")
    assert (told["values"]["boxes"]["mean"], told["protocol"]) == (3, {"count": {"counts": "boxes"}})
    assert json.loads(Path("run/outputs/dog-0.json").read_text()) == [[1.0] * 4] * 3
    assert json.loads(Path("run/references/trivial/n-2/result.json").read_text())["values"]["boxes"]["mean"] == 0
    page = Path("run/n-2/report.html").read_text()
    (data,) = re.findall(r'id="data-0">(.*?)</script>', page)
    (dog,) = [each for each in json.loads(data)["outputs"] if each["prompt"] == "find dog"]
    (pictures,) = re.findall(r'id="pictures">(.*?)</script>', page)
    assert dog["pictures"].keys() == {"source", "output"}
    assert len({json.loads(pictures)[place] for place in dog["pictures"].values()}) == 2
    before = Path("run/n-2/result.json").read_bytes()
    called("score", "run", "--data", "data.txt")
    assert Path("run/n-2/result.json").read_bytes() == before
    known = json.loads(called("list", "--json"))
    assert known["suites"]["boxes"] == ["count"] and "three" in known["models"]


def test_a_suites_own_reader_reads_outputs_made_elsewhere():
    Path("made.json").write_text(json.dumps({"cat": [[0, 0, 1, 1]], "dog": []}))
    told = measured("--ckpt", "made.json", "--out", "made")
    assert (told["settings"]["model"], told["values"]["boxes"]["mean"]) == ("listed", 0.5)


def test_a_table_in_a_file_of_ones_own():
    measured("--model", "three", "--out", "run")
    text = called("report", "run", "--table", "boxes.toml")
    assert "Boxes" in text and "found" in text
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert "3.000" in rows["Three"] and "0.000" in rows["Nobody"]
