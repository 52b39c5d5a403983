"""A real ablation of the smallest scale: killed, resumed, and then byte for byte as if undisturbed."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_ablate import cells, written
from typer.testing import CliRunner

import crossflow.recipes.recipe
from crossflow.errors import CrossFlowError
from crossflow_eval.cli import app
from crossflow_eval.models.crossflow import finished_training

ABLATE = (sys.executable, "-c", "from crossflow_eval.cli import app; app()", "ablate", "--scale", "smoke")
CUT = ("--suite", "table3c", "--seeds", "1", "--rows", "autoguidance", "--limit", "6")


def ablate(folder: Path, *arguments: str, kill_after: float | None = None) -> tuple[int | None, str]:
    """Exit code, None where it was killed, and what it said. Its jobs are not killed with it."""
    folder.mkdir(exist_ok=True)
    own = {"OMP_NUM_THREADS": "1", "GIT_DIR": str(folder / "none"), "CUDA_VISIBLE_DEVICES": ""}
    with (folder / "said").open("ab") as errors, (folder / "printed").open("wb") as printed:
        process = subprocess.Popen(
            (*ABLATE, *arguments, "--out", "runs"), cwd=folder, env={**os.environ, **own}, stdout=printed, stderr=errors
        )
        try:
            code = process.wait(kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
    return code, (folder / "said").read_text()


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """The folder of an ablation that was killed once, and resumed."""
    folder = tmp_path_factory.mktemp("killed")
    pause = random.Random(os.getpid()).uniform(3, 20)
    ablate(folder, *CUT, kill_after=pause)
    code, said = ablate(folder, *CUT)
    assert code == 0, f"killed after {pause} seconds: {said}"
    return folder


def test_a_killed_ablation_goes_on_and_ends_whole(killed):
    """Real trainings, suites and searches; nothing has failed, and each training took its steps once."""
    results = killed / "runs" / "results" / "table3c-smoke"
    text = (killed / "printed").read_text()
    assert (results / "table.md").read_text() == text.removesuffix("\n")
    assert cells(text)[0][:2] == ["", "Autoguidance"]
    (table,) = json.loads((results / "results.json").read_text())["tables"]
    assert {name: len(row["seeds"][0]["tried"]) for name, row in table["rows"].items()} == {"autoguidance": 4}
    assert not table["failed"]
    for log in (killed / "runs").glob("*/log.jsonl"):
        steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
        assert steps == sorted(set(steps))
        assert steps[-1] == 20


def test_its_files_are_written_again_byte_for_byte_and_nothing_is_run(killed, monkeypatch):
    results = killed / "runs" / "results" / "table3c-smoke"
    before, logs = written(results), written(killed / "runs" / "logs")
    for path in results.iterdir():
        path.unlink()
    monkeypatch.chdir(killed)
    monkeypatch.setenv("GIT_DIR", str(killed / "none"))
    done = CliRunner().invoke(app, [*ABLATE[3:], *CUT, "--out", "runs"])
    assert done.exit_code == 0, done.output
    assert written(results) == before
    assert written(killed / "runs" / "logs") == logs


def test_a_training_of_another_recipe_seed_or_world_is_named(killed, monkeypatch):
    for model in (killed / "runs").glob("*/model.safetensors"):
        trained = {name: _trained(model, name) for name in ("smoke-crossflow", "smoke-image-contrast")}
        (recipe,) = (name for name, error in trained.items() if error is None)
        with pytest.raises(
            CrossFlowError, match=f"was not trained by the recipe {recipe} as it is now, 20 steps, seed 1"
        ):
            finished_training(model, recipe, 1)
        with monkeypatch.context() as patched:
            patched.setattr(crossflow.recipes.recipe, "WORLD", -1)
            with pytest.raises(CrossFlowError, match=f"was not trained by the recipe {recipe} as it is now"):
                finished_training(model, recipe, 0)


def _trained(model: Path, recipe: str) -> CrossFlowError | None:
    try:
        finished_training(model, recipe, 0)
    except CrossFlowError as error:
        return error
    return None


@pytest.mark.slow
def test_all_of_table_3_is_killed_at_ten_moments_and_ends_as_if_undisturbed(tmp_path):
    arguments, started = ("--suite", "table3"), time.monotonic()
    code, said = ablate(tmp_path / "undisturbed", *arguments)
    assert code == 0, said
    draw, whole = random.Random(0), time.monotonic() - started
    for _ in range(10):
        ablate(tmp_path / "killed", *arguments, kill_after=draw.uniform(1, whole / 6))
    code, said = ablate(tmp_path / "killed", *arguments)
    assert code == 0, said
    ours, theirs = (
        written(tmp_path / name / "runs" / "results" / "table3-smoke") for name in ("killed", "undisturbed")
    )
    assert ours == theirs


@pytest.mark.slow
def test_systems_trained_in_stages_share_them_and_end_in_one_table(tmp_path):
    code, said = ablate(tmp_path, "--suite", "codi", "--seeds", "1", "--rows", "independent,others,self,direct")
    assert code == 0, said
    (table,) = json.loads((tmp_path / "runs" / "results" / "codi-smoke" / "results.json").read_text())["tables"]
    assert set(table["rows"]) == {"independent", "self", "others", "direct"} and not table["failed"]
    (base,) = (folder.parent for folder in (tmp_path / "runs").glob("*/00-codecs"))
    trained = {folder.name for folder in (tmp_path / "runs").glob(f"*-after-{base.name}/[0-9][0-9]-*")}
    assert {name[3:].split("-")[0] for name in trained} == {"pair", "direct"}
    values = {name: row["mean"]["told"]["mean"] for name, row in table["rows"].items()}
    assert len(set(values.values())) > 1
