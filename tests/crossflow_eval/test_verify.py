"""A run's numbers beside those of the original packages: they agree, a wrong one is found, what cannot be is named."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from crossflow_eval import records
from crossflow_eval.cli import app
from crossflow_eval.judges.local_weights import HOME
from crossflow_eval.metrics.scenes import SceneCLIPScore, SceneInceptionScore
from crossflow_eval.peers import PEERS, peer_of
from crossflow_eval.peers.distances import LITE
from crossflow_eval.peers.peer import Theirs
from crossflow_eval.suites.scenes import tasks
from crossflow_eval.types import Example


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, captions and depth of one's own, and references of each."""
    place = tmp_path_factory.mktemp("own")
    generator = np.random.default_rng(0)
    for folder, low in (("ours", 0), ("real", 60)):
        (place / folder).mkdir()
        (place / f"{folder}-depth").mkdir()
        for name in "abc":
            pixels = generator.integers(low, low + 180, size=(30, 26, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / folder / f"{name}.png")
            depth = np.linspace(1, 3, 63).reshape(7, 9) * generator.uniform(0.9, 1.1, (7, 9))
            np.save(place / f"{folder}-depth" / f"{name}.npy", depth.astype(np.float32))
    write(place / "ours.jsonl", [("1", "a red ball on a box"), ("2", "two blue cones"), ("3", "a ring")])
    write(
        place / "true.jsonl",
        [("1", "a ball on a box"), ("1", "the red ball"), ("2", "two cones, and they are blue"), ("3", "one ring")],
    )
    return place


def write(path: Path, captions: list[tuple[str, str]]) -> None:
    path.write_text("".join(json.dumps({"id": name, "caption": caption}) + "\n" for name, caption in captions))


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv(HOME, str(place / "home"))


def call(*arguments: str | Path, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == code, done.output
    return done.stdout


def verified(run: str, *arguments: str) -> dict:
    return json.loads(call("verify", run, *arguments, "--json"))


def close(found: dict) -> set[str]:
    """The names of the numbers that agree, each to well within its tolerance; there are no others but those left."""
    lines = {line["name"]: line for line in found["lines"]}
    assert all(line["difference"] < line["tolerance"] for line in lines.values() if line["agrees"] is not None)
    assert all(line["why"] for line in lines.values() if line["agrees"] is None)
    return {name for name, line in lines.items() if line["agrees"]}


RESTORED = {f"{measure}_{on}" for measure in ("psnr", "ssim", "ssim_padded") for on in ("rgb", "y")}
ERRORS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "delta1", "delta2", "delta3", "i_rmse", "si_log")
TOKENS = {"bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d"}


def test_super_resolution_agrees_with_scikit_image_and_torchmetrics() -> None:
    call("sr", "--ckpt", "ours", "--references", "real", "--out", "sr")
    found = verified("sr", "--data", "real")
    assert close(found) == RESTORED | {"fd_efficientnet", "kd_efficientnet"}
    used = ("clean-fid", "torch-fidelity", "efficientnet-lite-pytorch", "scikit-image", "torchmetrics")
    assert found["packages"] == {name: metadata.version(name) for name in used}
    assert found["sealed"] == json.loads(Path("sr/n-3/result.json").read_text())["proof"]["result"]


@pytest.mark.parametrize("suite", ["own-depth", "own-depth_affine", "own-depth_affine_disparity"])
def test_depth_agrees_with_marigolds_formulas(suite: str, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    shutil.copytree("ours-depth", ours)
    if suite.endswith("disparity"):
        for path in ours.iterdir():
            np.save(path, 5 / np.load(path))
    call("depth", "--ckpt", ours, "--references", "real-depth", "--suite", suite, "--out", tmp_path / "run")
    assert close(verified(str(tmp_path / "run"), "--data", "real-depth")) == set(ERRORS)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java")
def test_captions_agree_with_pycocoevalcap() -> None:
    """Its tokeniser, its METEOR and all."""
    call("caption", "--ckpt", "ours.jsonl", "--references", "true.jsonl", "--out", "captions")
    assert close(verified("captions", "--data", "true.jsonl")) == TOKENS | {"meteor"}


def test_images_agree_with_clean_fid_and_torch_fidelity_on_the_network_of_another_package() -> None:
    call("t2i", "--model", "folder", "--ckpt", "ours", "--references", "real", "--out", "t2i")
    found = verified("t2i", "--data", "real")
    assert close(found) == {"fd_efficientnet", "kd_efficientnet"}
    assert found["packages"].keys() == {"clean-fid", "torch-fidelity", "efficientnet-lite-pytorch"}
    alone = CliRunner().invoke(app, ["verify", "t2i"])
    assert alone.exit_code == 2 and "needs its references" in alone.stdout


def test_a_run_of_the_embedded_world_agrees_where_a_package_knows_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "COUNT", 3)
    call("caption", "--out", "scenes")
    found = verified("scenes")
    assert close(found) == TOKENS
    assert {line["name"] for line in found["lines"] if line["agrees"] is None} == {"objects", "object_f1", "light"}


def test_cosines_and_scores_of_the_worlds_judges_agree() -> None:
    """A toy judge in their place: the arithmetic is torchmetrics' and torch-fidelity's."""

    class Means:
        name, weights_sha256, dim = "means", "0" * 64, 3

        def __call__(self, images):
            return np.stack([image.mean(axis=(0, 1)) for image in images]).astype(np.float32)

    def classes(features):
        return np.concatenate([features, 300 - features], axis=1) / 900

    generator = np.random.default_rng(1)
    images = [generator.integers(1, 2 + 20 * index, size=(4, 4, 3), dtype=np.uint8) for index in range(12)]
    examples = [Example(id=str(index % 6), source="word " * index) for index in range(12)]
    for metric in (
        SceneCLIPScore(Means(), lambda texts: np.array([[len(t), 1, -3] for t in texts], dtype=np.float32)),
        SceneInceptionScore(Means(), classes, classes="six"),
    ):
        metric.update(examples, images)
        peer = peer_of(metric)
        assert not isinstance(peer, str)
        answers = peer.compute(metric, lambda: iter(zip(examples, images, strict=True)))
        for name, value in metric.compute().items():
            said = answers[name]
            assert isinstance(said, Theirs) and value.mean == pytest.approx(said.value, abs=said.tolerance)


def test_a_wrong_number_under_a_right_seal_is_found_and_ends_with_1(tmp_path: Path) -> None:
    call("sr", "--ckpt", "ours", "--references", "real", "--out", tmp_path / "run")
    run = records.run_in(tmp_path / "run")
    result = records.read_result(run)
    assert result is not None
    value = result.values["psnr_y"]
    better = {**result.values, "psnr_y": value.model_copy(update={"mean": value.mean + 0.001})}
    forged = records.seal(
        result.model_copy(update={"values": better}),
        (run / records.MANIFEST).read_bytes(),
        (run / records.ROWS).read_bytes(),
    )
    (run / records.RESULT).write_text(forged.model_dump_json())
    assert "sound" in call("check", run)
    page = tmp_path / "page.html"
    said = call("verify", run, "--data", "real", "--out", page, code=1)
    assert "1 disagree: psnr_y." in said and said.count("DISAGREES") == 1
    assert "DISAGREES" in page.read_text() and "Settings and provenance" in page.read_text()


def test_a_folder_that_was_changed_proves_nothing(tmp_path: Path) -> None:
    call("sr", "--ckpt", "ours", "--references", "real", "--out", tmp_path / "run")
    shutil.copy("real/a.png", tmp_path / "run" / "outputs" / "a-0.png")
    done = CliRunner().invoke(app, ["verify", str(tmp_path / "run"), "--data", "real"])
    assert done.exit_code == 2 and "is not as it was scored" in done.stderr and not done.stdout


def test_other_references_than_the_runs_are_refused(tmp_path: Path) -> None:
    call("sr", "--ckpt", "ours", "--references", "real", "--out", tmp_path / "run")
    done = CliRunner().invoke(app, ["verify", str(tmp_path / "run"), "--data", "ours"])
    assert done.exit_code == 2 and "made from other data than ours" in done.stderr
    done = CliRunner().invoke(app, ["verify", str(tmp_path / "run"), "--data", "real", "--out", "page.pdf"])
    assert done.exit_code == 2 and "page.pdf ends with neither .md nor .html" in done.stderr


def test_a_package_that_is_missing_or_stops_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call("t2i", "--model", "folder", "--ckpt", "ours", "--references", "real", "--out", tmp_path / "run")

    def stops(features, mean, covariance):
        raise ValueError("Imaginary component")

    there = metadata.version
    monkeypatch.setattr("crossflow_eval.peers.distances.frechet", stops)
    monkeypatch.setattr(
        "crossflow_eval.runs.verify.version", lambda name: None if name == "torch-fidelity" else there(name)
    )
    done = CliRunner().invoke(app, ["verify", str(tmp_path / "run"), "--data", "real"])
    assert done.exit_code == 2
    assert "fd_efficientnet: clean-fid stopped (ValueError: Imaginary component)" in done.stdout
    assert "kd_efficientnet: torch-fidelity is not installed: pip install 'crossflow[verify]'" in done.stdout


def test_every_peer_is_a_dependency_or_in_the_extra() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    required = {
        re.split("[<>]", line)[0] for line in project["dependencies"] + project["optional-dependencies"]["verify"]
    }
    assert {package for peer in PEERS.values() for package in peer.packages} - {"numpy", "torch"} <= required
    assert LITE in required
