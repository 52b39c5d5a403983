"""Streaming moments, FID from two folders to one number, what may be compared, and statistics made of images."""

from __future__ import annotations

import json
import logging
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from crossflow.errors import CrossFlowError
from crossflow_eval.cli import app
from crossflow_eval.judges.inception import CONVERSIONS, TAPS, InceptionFeatures, Weights, load_weights
from crossflow_eval.judges.statistics_files import Statistics, read_statistics, write_statistics
from crossflow_eval.metrics import fid
from crossflow_eval.metrics.fid import FID, NO_INTERVAL, InceptionFID, RunningMoments, make_statistics
from crossflow_eval.metrics.frechet import Moments, frechet_distance
from crossflow_eval.stats import JACKKNIFE
from crossflow_eval.types import Example, Metric

DIM = 5
pytestmark = pytest.mark.usefixtures("small_batches")


class CornerExtractor:
    """The first pixels: an extractor that costs nothing."""

    name, weights_sha256, dim = "corner", "d" * 64, DIM

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([image.ravel()[:DIM] for image in images]).astype(np.float32)


def noise(n: int, seed: int = 0, low: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(low, 256, size=(n, 4, 4, 3), dtype=np.uint8))


def feed(metric: Metric, images: list[np.ndarray], size: int = 64) -> None:
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        metric.update([Example(id="x", source="")] * len(batch), batch)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.floats(0, 1e6), st.integers(0, 10**6))
def test_running_moments_are_those_of_all_features_in_any_chunks(sizes: list[int], offset: float, seed: int) -> None:
    """To the rounding of the mean, about the offset; E[x x'] - m m' would round about its square."""
    features = np.random.default_rng(seed).normal(size=(sum(sizes) + 1, 4)) * [1, 0.1, 3, 1] + offset
    moments = RunningMoments(4)
    for chunk in np.split(features, np.cumsum(sizes)):
        moments.add(chunk)
    assert moments.n == len(features)
    rounding = 1e-14 * (1 + offset)
    np.testing.assert_allclose(moments.mean, features.mean(axis=0), rtol=0, atol=rounding)
    np.testing.assert_allclose(moments.covariance, np.cov(features, rowvar=False), rtol=1e-12, atol=rounding)


def test_beyond_what_is_kept_fid_streams_to_the_same_value(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, reference = noise(300), CornerExtractor()(noise(200, seed=1, low=30))
    values, protocols = [], []
    for kept in (300 * DIM, 300 * DIM - 1, 64 * DIM):
        monkeypatch.setattr(fid, "KEPT", kept)
        metric = FID(CornerExtractor(), reference, reference_name="noise")
        feed(metric, outputs)
        values.append(metric.compute()["fid"])
        protocols.append(metric.protocol["interval"])
    assert [value.mean for value in values] == pytest.approx([values[0].mean] * 3, rel=1e-12)
    assert [value.n for value in values] == [300] * 3
    assert protocols == [JACKKNIFE, NO_INTERVAL, NO_INTERVAL]
    assert values[0].ci_low is not None and values[1].ci_low is None


def test_a_streaming_fid_holds_no_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a metric holds after 4,000 outputs is less than their features; without streaming it is more."""

    def held(kept: int) -> int:
        monkeypatch.setattr(fid, "KEPT", kept)
        metric: Metric = FID(CornerExtractor(), np.zeros((2, DIM)), reference_name="zeros")
        tracemalloc.start()
        feed(metric, images)
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert isinstance(metric, Metric)
        return size

    images = noise(4000)
    features = 4000 * DIM * np.dtype(np.float32).itemsize
    held(100 * DIM)  # what is imported and cached once
    assert held(100 * DIM) < features < held(4000 * DIM)


def statistics(features: np.ndarray, protocol: str = "clean", **changes: object) -> Statistics:
    made = Statistics(
        mean=features.mean(axis=0),
        covariance=np.cov(features, rowvar=False),
        n=len(features),
        protocol={"protocol": protocol},
        origin={"file": "reference.npz", "sha256": "e" * 64, "protocol": f"{protocol} (said by the user)"},
    )
    return replace(made, **changes)


def test_statistics_stand_for_the_features_they_are_of() -> None:
    outputs, features = noise(80), CornerExtractor()(noise(90, seed=1)).astype(np.float64)
    expected = frechet_distance(Moments.of_features(CornerExtractor()(outputs)), Moments.of_features(features))
    for reference, warned in ((statistics(features), False), (statistics(features, n=DIM), True)):
        metric = FID(CornerExtractor(), reference, reference_name="reference", name="sfid")
        feed(metric, outputs)
        assert metric.compute()["sfid"].mean == pytest.approx(expected, rel=1e-9)
        assert ("warning" in metric.protocol) == warned and metric.higher_is_better == {"sfid": False}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mean": np.zeros(4), "covariance": np.eye(4)}, "4 dimensions"),
        ({"covariance": -np.eye(DIM)}, "semidefinite"),
        ({"covariance": np.triu(np.ones((DIM, DIM)))}, "symmetric"),
    ],
)
def test_statistics_that_are_none_are_refused_before_any_work(change: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(CrossFlowError, match=said):
        FID(CornerExtractor(), statistics(np.eye(DIM), **change), reference_name="reference")


@pytest.fixture(scope="module")
def weights(inception_pth: Path) -> Weights:
    return load_weights(inception_pth, published=False)


class Colours(nn.Module):
    """In Inception's place: its taps are mixtures of the mean colour, which cost nothing."""

    def __init__(self, state: object, dtype: torch.dtype) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor, taps: Sequence[str]) -> dict[str, torch.Tensor]:
        return {tap: x.mean((2, 3)) @ torch.linspace(-1, 1, 3 * TAPS[tap]).view(3, -1) for tap in taps}


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossflow_eval.judges.inception.Inception", Colours)


def folder(path: Path, n: int, *, low: int, high: int, size: int = 40) -> Path:
    path.mkdir()
    generator = np.random.default_rng(low)
    for index in range(n):
        coarse = generator.integers(low, high, size=(4, 4, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(path / f"{index:02}.png")
    return path


def test_from_two_folders_to_torch_fidelitys_number(inception_pth: Path, weights: Weights, tmp_path: Path) -> None:
    first, second = folder(tmp_path / "a", 4, low=0, high=120), folder(tmp_path / "b", 4, low=60, high=256)
    theirs = torch_fidelity.calculate_metrics(
        input1=str(first), input2=str(second), fid=True, cuda=False, cache=False, verbose=False, batch_size=4,
        save_cpu_ram=True,        feature_extractor_weights_path=str(inception_pth),
    )  # fmt: skip
    make_statistics(second, tmp_path / "b.npz", "legacy_tensorflow", weights)
    metric = InceptionFID(weights, "legacy_tensorflow", read_statistics(tmp_path / "b.npz"))
    feed(metric, [np.asarray(Image.open(path)) for path in sorted(first.iterdir())])
    value = metric.compute()["fid"]
    assert value.mean == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert value.n == 4 and metric.protocol["n"] == 4 and metric.protocol["reference"]["n"] == 4
    assert metric.protocol["normaliser"] == "(x - 128) / 128"
    assert metric.protocol["weights_sha256"] == weights.sha256


@pytest.mark.usefixtures("light")
def test_statistics_record_how_they_were_made(
    weights: Weights, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a folder and of ADM's samples alike, under ``adm`` with those of sFID."""
    images = folder(tmp_path / "images", 3, low=0, high=256, size=64)
    pixels = np.stack([np.asarray(Image.open(path)) for path in sorted(images.iterdir())])
    np.savez(tmp_path / "samples.npz", arr_0=pixels)
    with caplog.at_level(logging.WARNING):
        make_statistics(images, tmp_path / "of_folder.npz", "adm", weights, n=2)
    assert "2 images do not span 2048" in caplog.text
    make_statistics(tmp_path / "samples.npz", tmp_path / "of_samples.npz", "adm", weights, n=2)
    assert (tmp_path / "of_folder.npz").read_bytes() == (tmp_path / "of_samples.npz").read_bytes()
    extractor = InceptionFeatures(weights, "adm", ("pool", "spatial"))
    for tap, features in extractor.split(extractor(list(pixels[:2]))).items():
        found = read_statistics(tmp_path / "of_folder.npz", tap=tap)
        np.testing.assert_allclose(found.covariance, np.cov(features.astype(np.float64), rowvar=False), atol=1e-12)
        assert found.n == 2 and found.protocol == extractor.fingerprint
    record = json.loads((tmp_path / "of_folder.json").read_text())
    assert record["images"]["folder"] == "images" and record["images"]["count"] == {"PNG": 3}
    assert record["environment"]["torch"] and "singular" in record["warning"]


@pytest.mark.usefixtures("light")
def test_no_file_that_is_there_is_replaced(weights: Weights, tmp_path: Path) -> None:
    """Neither the images themselves, nor other statistics, nor a file beside them of the name of the record."""
    pixels = np.zeros((2, 64, 64, 3), np.uint8)
    np.savez(tmp_path / "samples.npz", arr_0=pixels)
    (tmp_path / "captions.json").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name, there in (("samples.npz", "samples.npz"), ("captions.npz", "captions.json")):
        with pytest.raises(CrossFlowError, match=rf"{there} is there already, and is not replaced"):
            make_statistics(tmp_path / "samples.npz", tmp_path / name, "adm", weights)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("n", [1, 4])
def test_fewer_images_than_asked_are_refused(n: int, weights: Weights, tmp_path: Path) -> None:
    images = folder(tmp_path / "images", 3, low=0, high=256)
    with pytest.raises(CrossFlowError, match=f"holds 3 images, asked for {n}"):
        make_statistics(images, tmp_path / "out.npz", "clean", weights, n=n)
    with pytest.raises(CrossFlowError, match=r"give .*out\.npz"):
        make_statistics(images, tmp_path / "out.txt", "clean", weights)


@pytest.mark.usefixtures("light")
def test_only_statistics_of_the_same_protocol_and_weights_are_compared_with(weights: Weights, tmp_path: Path) -> None:
    reference = statistics(np.eye(2048)[:3])
    assert InceptionFID(weights, "clean", reference).protocol["reference"] == {**reference.origin, "n": 3}
    unknown = InceptionFID(weights, "clean", replace(reference, n=None)).protocol["reference"]
    assert unknown["n"] == "unknown" and "said by the user" in unknown["protocol"]
    with pytest.raises(CrossFlowError, match=r"'clean'.*'legacy_pytorch'"):
        InceptionFID(weights, "legacy_pytorch", reference)
    made = replace(reference, protocol={"protocol": "clean", "weights_sha256": "f" * 64})
    with pytest.raises(CrossFlowError, match="other weights"):
        InceptionFID(weights, "clean", made)
    first, second = CONVERSIONS
    made = replace(reference, protocol={"protocol": "clean", "weights_sha256": first})
    InceptionFID(replace(weights, sha256=second), "clean", made)
    write_statistics(tmp_path / "x.npz", {"pool": (np.zeros(2), np.eye(2))}, {"n": 3, "protocol": made.protocol})
    with pytest.raises(CrossFlowError, match="2 dimensions"):
        InceptionFID(replace(weights, sha256=first), "clean", read_statistics(tmp_path / "x.npz"))


def test_sixteen_bits_say_by_how_much_they_moved_fid(weights: Weights, caplog: pytest.LogCaptureFixture) -> None:
    images = noise(3)
    reference = statistics(np.random.default_rng(0).normal(size=(4, 2048)))
    metrics = [InceptionFID(weights, "clean", reference, precision=each) for each in ("bfloat16", "float32")]
    for metric in metrics:
        feed(metric, images)
    rough, exact = (metric.compute()["fid"].mean for metric in metrics)
    assert metrics[0].protocol["bfloat16_shift"] == pytest.approx(rough - exact, abs=1e-9 * exact) != 0
    assert metrics[0].protocol["bfloat16_shift_n"] == 3 and "bfloat16 moves fid by" in caplog.text
    assert "bfloat16_shift" not in metrics[1].protocol


@pytest.mark.usefixtures("light")
def test_statistics_in_sixteen_bits_are_asked_for_by_name(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command's file records what it was computed in; a word that is no precision ends it in one sentence."""
    monkeypatch.setattr("crossflow_eval.judges.inception.published_weights", lambda protocol: weights)
    folder(tmp_path / "images", 3, low=0, high=256)
    for precision in ("float32", "bfloat16"):
        words = ["stats", str(tmp_path / "images"), str(tmp_path / f"{precision}.npz"), "--precision", precision]
        assert CliRunner().invoke(app, [*words, "--device", "cpu"]).exit_code == 0
        found = read_statistics(tmp_path / f"{precision}.npz")
        assert found.protocol["precision"] == precision
        assert ("in bfloat16" in found.origin["protocol"]) == (precision == "bfloat16"), (
            "as all that is measured by it says"
        )
    done = CliRunner().invoke(app, ["stats", str(tmp_path / "images"), "x.npz", "--precision", "bfloat61"])
    assert done.exit_code == 2
    assert done.stderr == (
        "Error: Unknown precision 'bfloat61'. Did you mean 'bfloat16'? Available: float32, bfloat16.\n"
    )


def test_statistics_are_made_on_the_device_asked_for(weights: Weights, tmp_path: Path) -> None:
    images = folder(tmp_path / "images", 2, low=0, high=256)
    with pytest.raises(NotImplementedError, match="meta"):
        make_statistics(images, tmp_path / "x.npz", "clean", weights, device="meta")
