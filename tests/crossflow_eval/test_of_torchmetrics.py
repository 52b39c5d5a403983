"""torchmetrics' image metrics measure runs: their own numbers, under their version and arguments, or one sentence."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchmetrics import image as torchmetrics
from typer.testing import CliRunner

from crossflow_eval.cli import app
from crossflow_eval.judges.local_weights import HOME
from crossflow_eval.judges.resize import PYTORCH_FID
from crossflow_eval.types import Metric

NAMES = "abc"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folders of images of the same names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(HOME, str(tmp_path / "home"))
    generator = np.random.default_rng(0)
    for folder in ("ours", "real"):
        Path(folder).mkdir()
        for name in NAMES:
            pixels = generator.integers(0, 256, size=(44, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path(folder) / f"{name}.png")
    return tmp_path


def measured(*arguments: str) -> dict:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def read(folder: str, name: str) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(f"{folder}/{name}.png")).transpose(2, 0, 1).copy())[None]


SR = ("sr", "--ckpt", "ours", "--references", "real")
PSNR, VIF, FID = (
    f"torchmetrics:{name}" for name in ("PeakSignalNoiseRatio", "VisualInformationFidelity", "FrechetInceptionDistance")
)


def test_pairs_have_torchmetrics_own_numbers_together_and_alone() -> None:
    found = measured(*SR, "--also", f"{PSNR}, {VIF}")
    for name, metric in (
        (PSNR, torchmetrics.PeakSignalNoiseRatio(data_range=1.0)),
        (VIF, torchmetrics.VisualInformationFidelity()),
    ):
        each = [float(metric(read("ours", name) / 255, read("real", name) / 255)) for name in NAMES]
        assert found["values"][name] == {"mean": float(metric.compute()), "ci_low": None, "ci_high": None, "n": 3}
        rows = (Path(found["run"]) / "per_example.jsonl").read_text().splitlines()
        assert [json.loads(row)[name] for row in rows] == each
    assert found["protocol"][PSNR] == {
        "torchmetrics": metadata.version("torchmetrics"),
        "class": "PeakSignalNoiseRatio",
        "arguments": {"data_range": 1.0},
        "interval": "none",
    }
    assert found["higher_is_better"][PSNR] is True


def test_metrics_come_and_go_with_the_option_and_stay_when_a_run_is_scored_again() -> None:
    bare = measured(*SR)
    more = measured(*SR, "--also", PSNR)
    assert more["run"] == bare["run"] and more["values"].keys() - bare["values"].keys() == {PSNR}
    other = measured(*SR, "--name", "other")
    for pair in ((more, other), (other, more)):
        words = ["compare", *(each["run"] for each in pair), "--data", "real", "--json"]
        found = json.loads(CliRunner().invoke(app, words, catch_exceptions=False).stdout)
        assert f"{PSNR} is left out: only {more['run']} was measured by it." in found["notes"]
        assert (
            "kd_efficientnet is left out: of numbers of all outputs together, FIDs alone are compared."
            in found["notes"]
        )
        assert {"psnr_y", "fd_efficientnet"} < found["scores"].keys() and PSNR not in found["scores"]
    again = measured("score", more["run"], "--data", "real")
    assert again["values"] == more["values"]
    assert measured(*SR)["values"] == bare["values"]


class Means(nn.Module):
    """In the place of Inception: nine numbers an image."""

    num_features = 9

    def __init__(self, *arguments: object) -> None:
        super().__init__()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.uint8
        return nn.functional.adaptive_avg_pool2d(images.float(), (3, 1)).flatten(1)


@pytest.mark.parametrize("arguments", [SR, ("t2i", "--model", "folder", "--ckpt", "ours", "--references", "real")])
def test_sets_are_compared_with_all_references(
    arguments: tuple[str, ...], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = measured(*arguments, "--also", FID)
    assert PYTORCH_FID in lacking["protocol"][FID]["absent"] and FID not in lacking["values"]
    (place / "home").mkdir()
    (place / "home" / PYTORCH_FID).touch()
    monkeypatch.setattr("torchmetrics.image.fid.NoTrainInceptionV3", Means)
    found = measured(*arguments, "--also", FID)
    theirs = torchmetrics.FrechetInceptionDistance(feature=Means())
    for folder in ("ours", "real"):
        for name in NAMES:
            theirs.update(read(folder, name), real=folder == "real")
    assert found["values"][FID]["mean"] == pytest.approx(float(theirs.compute()), rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*SR, "--also", "torchmetrics:PeakSignalNoiseRation"), "Did you mean 'PeakSignalNoiseRatio'"),
        ((*SR, "--also", "torchmetrics:TotalVariation"), "is updated by (img); metrics of pairs"),
        ((*SR, "--also", "psnr"), "expected torchmetrics:NAME"),
        ((*SR, "--also", "torchmetrics:SpatialDistortionIndex"), "torchmetrics stopped ("),
        (("t2i", "--model", "folder", "--ckpt", "ours", "--references", "real", "--also", PSNR), "needs an original"),
    ],
)
def test_what_cannot_measure_is_one_sentence(arguments: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(app, list(arguments))
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    assert done.exit_code == 2 and len(errors) == 1 and said in errors[0], done.output


def test_they_are_metrics() -> None:
    from crossflow_eval.metrics.of_torchmetrics import load

    assert isinstance(load(PSNR), Metric)
