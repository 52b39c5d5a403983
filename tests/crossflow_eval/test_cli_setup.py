"""The doctor and the weights commands say what is there, and what to do about the rest."""

import hashlib
import json

import pytest
import typer
from typer.testing import CliRunner

from crossflow.recipes import CONFIGS
from crossflow_eval.cli import app as main
from crossflow_eval.cli import setup
from crossflow_eval.judges import fetch
from crossflow_eval.judges import weights as registry
from crossflow_eval.judges.weights import EvaluatorWeights
from crossflow_eval.runs import doctor

CONTENT = b"numbers"
OURS = EvaluatorWeights(
    metric="FID",
    file="net.pt",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    source="example.org",
    url="https://x/net.pt",
)
app = typer.Typer()
app.add_typer(setup.weights, name="weights")
app.command()(setup.doctor)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSFLOW_EVAL_HOME", str(tmp_path))
    monkeypatch.setattr(registry, "PUBLISHED", (OURS,))
    monkeypatch.setattr(doctor, "PUBLISHED", (OURS,))
    return tmp_path


def called(*words: str):
    return CliRunner().invoke(app, list(words))


def test_files_are_listed_with_where_they_come_from(place):
    [row] = json.loads(called("weights", "list", "--json").stdout)["weights"]
    assert (row["file"], row["url"], row["here"]) == ("net.pt", "https://x/net.pt", False)
    (place / "net.pt").write_bytes(CONTENT)
    assert json.loads(called("weights", "list", "--json").stdout)["weights"][0]["here"]
    assert "net.pt" in called("weights", "list").stdout


def test_files_are_verified(place):
    missing = called("weights", "verify", "--json")
    assert missing.exit_code == 2
    [finding] = json.loads(missing.stdout)
    assert not finding["ready"]
    assert "weights fetch net.pt" in finding["detail"]
    (place / "net.pt").write_bytes(b"other")
    assert called("weights", "verify").exit_code == 2
    (place / "net.pt").write_bytes(CONTENT)
    assert called("weights", "verify", "net.pt").exit_code == 0


def test_names_that_are_unknown(place):
    done = called("weights", "fetch", "nut.pt")
    assert done.exit_code == 2
    assert "Did you mean 'net.pt'?" in done.stderr


def test_fetching_prints_the_path(place, monkeypatch):
    monkeypatch.setattr(fetch, "fetch", lambda weights, advance: place / weights.file)
    done = called("weights", "fetch", "all")
    assert (done.exit_code, done.stdout) == (0, f"{place / 'net.pt'}\n")


def test_the_doctor_names_what_each_suite_lacks(place, monkeypatch):
    monkeypatch.setattr(doctor, "suite_names", lambda: ["folder", "geneval", "scenes-sr"])
    done = called("doctor", "--json")
    assert done.exit_code == 0
    found = {each["name"]: each for each in json.loads(done.stdout)}
    assert found["scenes-sr"]["ready"]
    assert not found["folder"]["ready"], "its data are not here"
    assert "--captions" in found["folder"]["detail"]
    assert not found["geneval"]["ready"]
    assert "mask2former" in found["geneval"]["detail"]
    assert found["python"]["ready"]
    assert not found["net.pt"]["ready"]


def test_a_data_root_is_for_the_suites_that_read_one(place, monkeypatch):
    monkeypatch.setattr(doctor, "suite_names", lambda: ["scenes-sr", "own-captions", "kitti_eigen"])
    found = {each["name"]: each for each in json.loads(called("doctor", "--data", str(place), "--json").stdout)}
    assert found["scenes-sr"]["ready"], "it reads none"
    assert "--references" in found["own-captions"]["detail"], "that root is no list of captions"
    assert not found["kitti_eigen"]["ready"] and str(place) in found["kitti_eigen"]["detail"]


def test_the_doctor_knows_where_data_sets_come_from_and_sees_those_that_are_there(place, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "suite_names", lambda: [])
    (tmp_path / "kitti" / "raw" / "2011_09_26").mkdir(parents=True)
    done = called("doctor", "--data", str(tmp_path), "--json")
    found = {each["name"]: each for each in json.loads(done.stdout) if each["kind"] == "data"}
    read = {layout for recipe in CONFIGS.values() if recipe.data.kind == "sets" for layout in recipe.data.layouts}
    assert found.keys() >= read - {"images"}, "all but one's own come from somewhere"
    assert (found["kitti"]["ready"], found["kitti"]["detail"]) == (True, str(tmp_path / "kitti"))
    assert not found["hypersim"]["ready"]
    for part in ("for paper-depth-zeroshot", "1.9 TB", "CC BY-SA 3.0", "github.com/apple/ml-hypersim"):
        assert part in found["hypersim"]["detail"]


def test_statistics_need_the_published_weights(place):
    done = CliRunner().invoke(main, ["stats", str(place), "out.npz"])
    assert done.exit_code == 2
    assert "inception-2015-12-05.pt" in done.stderr
    assert (
        "Did you mean 'clean'?"
        in CliRunner().invoke(main, ["stats", str(place), "out.npz", "--protocol", "cleen"]).stderr
    )
