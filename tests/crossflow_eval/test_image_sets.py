"""The distance between two sets of images, however they are given, and all that can be measured beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from time import sleep

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from crossflow.errors import CrossFlowError
from crossflow_eval.cli import app
from crossflow_eval.datasets.folder import read_image
from crossflow_eval.judges.inception import TAPS, InceptionFeatures, Weights, load_weights
from crossflow_eval.judges.references import REFERENCES
from crossflow_eval.judges.statistics_files import write_statistics
from crossflow_eval.judges.weights import PUBLISHED
from crossflow_eval.metrics import fid, image_sets, pictures
from crossflow_eval.metrics.distribution import inception_scores
from crossflow_eval.metrics.fid import make_statistics
from crossflow_eval.metrics.frechet import Moments, frechet_distance
from crossflow_eval.metrics.image_sets import ALL_PROTOCOLS, MEASURES, measure
from crossflow_eval.metrics.neighbourhoods import neighbourhoods

LITE = "efficientnet-lite0"


class Colours(nn.Module):
    """In Inception's place: its taps are waves of the mean colour, which cost nothing."""

    def __init__(self, state: object, dtype: torch.dtype) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor, taps: Sequence[str]) -> dict[str, torch.Tensor]:
        return {tap: (x.mean((2, 3)) @ torch.linspace(-9, 9, 3 * TAPS[tap]).view(3, -1)).sin() for tap in taps}


@pytest.fixture
def weights(inception_pth: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """Inception's weights are here: random ones."""
    found = load_weights(inception_pth, published=False)
    monkeypatch.setattr("crossflow_eval.judges.inception.Inception", Colours)
    monkeypatch.setattr("crossflow_eval.judges.inception.published_weights", lambda protocol: found)
    return found


def folder(path: Path, n: int, low: int = 0) -> Path:
    """Images of several sizes, every second one in a subfolder."""
    generator = np.random.default_rng(low)
    for index in range(n):
        place = path / ("sub" if index % 2 else ".")
        place.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(low, low + 150, size=(4, 4, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((30 + index, 40), Image.Resampling.BICUBIC).save(place / f"{index:02}.png")
    return path


@pytest.fixture
def sets(tmp_path: Path) -> tuple[str, str]:
    return str(folder(tmp_path / "a", 12)), str(folder(tmp_path / "b", 9, low=60))


def images(of: str) -> list[np.ndarray]:
    return [read_image(path) for path in sorted(Path(of).rglob("*.png"), key=lambda path: path.relative_to(of))]


@pytest.mark.parametrize("protocol", [name for name in ALL_PROTOCOLS if name != LITE])
def test_fid_is_the_frechet_distance_of_the_protocols_features(
    sets: tuple[str, str], weights: Weights, protocol: str
) -> None:
    extractor = InceptionFeatures(weights, protocol)
    expected = frechet_distance(*(Moments.of_features(extractor(images(each))) for each in sets))
    found = measure(*sets, protocol=protocol)
    assert found.values["fid"].mean == pytest.approx(expected, rel=1e-9)
    assert (found.first["n"], found.second["n"]) == (12, 9)
    assert found.protocols["fid"]["weights_sha256"] == weights.sha256 and found.protocols["fid"]["protocol"] == protocol


def test_each_image_is_looked_at_once_for_all_that_is_asked(
    sets: tuple[str, str], weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    forward = InceptionFeatures._forward
    monkeypatch.setattr(InceptionFeatures, "_forward", lambda self, x: seen.append(len(x)) or forward(self, x))
    also = ["sfid", "fid_infinity", "precision_recall", "prdc", "is", "is_adm"]
    found = measure(*sets, protocol="adm", also=also)
    assert sum(seen) == 12 + 9
    pools = [InceptionFeatures(weights, "adm")(images(each)) for each in sets]
    near = neighbourhoods(*pools, k=5, closed=False)
    assert found.values["prdc/coverage"].mean == near.coverage and found.values["prdc/density"].mean == near.density
    logits = InceptionFeatures(weights, "adm", ("logits_unbiased",))(images(sets[0]))
    assert found.values["inception_score"].mean == pytest.approx(inception_scores(logits).mean())
    assert {"fid", "sfid", "fid_infinity", "precision", "recall", "inception_score_adm"} <= set(found.values)


def test_a_statistics_file_stands_for_its_folder_on_either_side(
    sets: tuple[str, str], weights: Weights, tmp_path: Path
) -> None:
    a, b = sets
    for name, each in (("a.npz", a), ("b.npz", b)):
        make_statistics(Path(each), tmp_path / name, "adm", weights)
    first, second = str(tmp_path / "a.npz"), str(tmp_path / "b.npz")
    expected = measure(a, b, protocol="adm", also=["sfid"]).values
    for pair, also in (((first, second), ["sfid"]), ((first, b), []), ((a, second), [])):
        found = measure(*pair, also=also)
        assert found.protocol == "adm" and (found.first["n"], found.second["n"]) == (12, 9)
        for name in found.values:
            assert found.values[name].mean == pytest.approx(expected[name].mean, rel=1e-6)
    for given, also, said in (((first, b), "kid", "a.npz holds"), ((a, second), "prdc", "b.npz holds")):
        with pytest.raises(CrossFlowError, match=said):
            measure(*given, also=[also])
    with pytest.raises(CrossFlowError, match="adm"):
        measure(a, second, protocol="clean")


def test_a_published_reference_is_read_by_its_name_under_its_own_protocol(
    sets: tuple[str, str], weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSFLOW_EVAL_HOME", str(tmp_path / "home"))
    reference = REFERENCES["coco-uvit"]
    with pytest.raises(CrossFlowError, match=f"{reference.file}: fetch it from U-ViT"):
        measure(sets[0], "coco-uvit")
    features = InceptionFeatures(weights, reference.protocol)(images(sets[1])).astype(np.float64)
    made = features.mean(axis=0), np.cov(features, rowvar=False)
    write_statistics(tmp_path / "home" / reference.file, {"pool": made}, {"n": 9, "protocol": {}})
    (tmp_path / "home" / reference.file).with_suffix(".json").unlink()
    found = measure(sets[0], "coco-uvit")
    assert found.protocol == reference.protocol and found.second["n"] is None
    assert found.values["fid"].mean == pytest.approx(measure(*sets, protocol=reference.protocol).values["fid"].mean)


def test_memory_holds_no_features_beyond_what_is_kept(
    sets: tuple[str, str], weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = measure(*sets).values["fid"].mean
    monkeypatch.setattr(fid, "KEPT", 1)
    found = measure(*sets)
    assert found.values["fid"].mean == pytest.approx(expected, rel=1e-6) and found.values["fid"].ci_low is None
    assert "not kept" in found.protocols["fid"]["interval"]


def test_under_efficientnet_no_number_has_a_published_name(sets: tuple[str, str]) -> None:
    also = [name for name, each in MEASURES.items() if not each.protocols and not each.judge]
    found = measure(*sets, protocol=LITE, also=also)
    assert {"fd_efficientnet", "kd_efficientnet", "fd_infinity_efficientnet", "recall_efficientnet"} <= set(
        found.values
    )
    assert all("efficientnet" in name for name in (*found.values, *found.protocols, *found.higher_is_better))
    assert found.protocols["kd_efficientnet"]["subsets"].startswith("100 of 9")
    assert "1280" in found.warnings[0] and "kid" not in " ".join(found.warnings)
    with pytest.raises(CrossFlowError, match="Inception's features"):
        measure(*sets, protocol=LITE, also=["is"])


@pytest.mark.parametrize("count", [1, 3])
def test_workers_are_the_threads_that_decode(
    sets: tuple[str, str], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    running: list[int] = []
    most: list[int] = []
    decode = pictures.decode_image

    def slowly(content: bytes) -> tuple[np.ndarray, str]:
        running.append(1)
        most.append(len(running))
        sleep(0.05)
        running.pop()
        return decode(content)

    monkeypatch.setattr(pictures, "decode_image", slowly)
    asked = ["fid", *sets, "--protocol", LITE, "--json", "--workers"]
    done = CliRunner().invoke(app, [*asked, str(count)])
    assert done.exit_code == 0, done.stderr
    assert max(most) == count
    assert "--workers must be at least 1, got 0" in CliRunner().invoke(app, [*asked, "0"]).stderr


def test_statistics_of_efficientnet_stand_for_their_folder(sets: tuple[str, str], tmp_path: Path) -> None:
    a, b = sets
    done = CliRunner().invoke(app, ["stats", a, str(tmp_path / "a.npz"), "--protocol", LITE])
    assert done.exit_code == 0, done.stderr
    found = measure(str(tmp_path / "a.npz"), b)
    assert found.protocol == LITE and (found.first["n"], found.second["n"]) == (12, 9)
    expected = measure(a, b, protocol=LITE).values["fd_efficientnet"].mean
    assert found.values["fd_efficientnet"].mean == pytest.approx(expected, rel=1e-6)
    with pytest.raises(CrossFlowError, match=f"{LITE} is in float32 alone; leave --precision bfloat16 out"):
        make_statistics(Path(a), tmp_path / "c.npz", LITE, precision="bfloat16")


def test_a_set_has_no_distance_to_itself(sets: tuple[str, str]) -> None:
    found = measure(sets[0], sets[0], protocol=LITE)
    assert found.values["fd_efficientnet"].mean == pytest.approx(0, abs=1e-6)
    assert found.warnings[-1] == "Both sides hold the same images."


@pytest.mark.parametrize("name", ["fd_dinov2", "cmmd"])
def test_weights_that_are_not_here_are_named_before_an_image_is_read(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSFLOW_EVAL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(image_sets, "open_pictures", lambda path: pytest.fail("images were read"))
    (tmp_path / "a").mkdir()
    file = next(each.file for each in PUBLISHED if each.metric == MEASURES[name].judge)
    with pytest.raises(CrossFlowError, match=file):
        measure(str(tmp_path / "a"), str(tmp_path / "a"), protocol=LITE, also=[name])
    with pytest.raises(CrossFlowError, match=r"inception-2015-12-05\.pt .* --protocol efficientnet-lite0"):
        measure(str(tmp_path / "a"), str(tmp_path / "a"))


def test_too_few_images_are_one_sentence_before_any_feature(
    sets: tuple[str, str], weights: Weights, tmp_path: Path
) -> None:
    with pytest.raises(CrossFlowError, match=r"kid needs 1000 images a side, and .*a holds 12"):
        measure(*sets, also=["kid"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(CrossFlowError, match="holds no image"):
        measure(sets[0], str(tmp_path / "empty"))
    with pytest.raises(CrossFlowError, match="holds 1 image;"):
        measure(str(folder(tmp_path / "one", 1)), sets[1])
    with pytest.raises(CrossFlowError, match="no published reference"):
        measure(sets[0], str(tmp_path / "nowhere"))


@pytest.mark.parametrize("change", ["another", "gone", "more"])
def test_a_folder_that_changes_while_it_is_read_gives_no_number(
    sets: tuple[str, str], weights: Weights, change: str
) -> None:
    last = Path(sets[0]) / "sub" / "11.png"

    def track(batches: Sequence[range], stage: str) -> Sequence[range]:
        if change == "another":
            shutil.copy(Path(sets[0]) / "00.png", last)
        elif change == "gone":
            last.unlink(missing_ok=True)
        else:
            shutil.copy(last, last.with_name("12.png"))
        return batches

    with pytest.raises(CrossFlowError, match="changed while"):
        measure(*sets, track=track)


def test_the_command_prints_n_of_both_sides_the_weights_and_what_is_not_read(sets: tuple[str, str]) -> None:
    a, b = sets
    (Path(a) / "notes.txt").write_text("none")
    done = CliRunner().invoke(app, ["fid", a, b, "--protocol", LITE])
    assert done.exit_code == 0, done.output
    for said in ("fd_efficientnet@12", f"A: {a}, n = 12", f"B: {b}, n = 9", "sha256 5793442"):
        assert said in done.stdout
    for said in ("1 files", "notes.txt", "12 outputs do not span 1280", "--also kid"):
        assert said in done.stderr
    record = json.loads(CliRunner().invoke(app, ["fid", a, b, "--protocol", LITE, "--json"]).stdout)
    assert record["first"]["n"] == 12 and set(record["values"]) == {"fd_efficientnet"} and record["environment"]
    wrong = CliRunner().invoke(app, ["fid", a, b, "--also", "kit"])
    assert wrong.exit_code == 2 and "kid" in wrong.stderr


def test_a_file_of_statistics_whose_directory_is_damaged_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    np.savez(path, mu=np.zeros(3), sigma=np.eye(3))
    path.write_bytes(path.read_bytes().replace(b"PK\x01\x02", b"PK\x09\x09"))
    with pytest.raises(CrossFlowError, match=r"Cannot read the statistics .*reference\.npz"):
        image_sets.read_side(str(path), "clean")


def test_two_files_of_statistics_that_record_nothing_have_a_distance_once_their_protocol_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As clean-fid and pytorch-fid leave them: with neither n nor weights."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for name, shift in (("a.npz", 0.0), ("b.npz", 2.0)):
        features = random.normal(shift, 1, size=(50, 3))
        np.savez(name, mu=features.mean(axis=0), sigma=np.cov(features, rowvar=False))
    np.savez("negative.npz", mu=np.zeros(3), sigma=-np.eye(3))
    found = measure("a.npz", "b.npz", protocol="clean")
    files = [np.load(name) for name in ("a.npz", "b.npz")]
    moments = [Moments.of_covariance(each["mu"], each["sigma"]) for each in files]
    assert found.values["fid"].mean == pytest.approx(frechet_distance(*moments)) and found.first["n"] is None
    with pytest.raises(CrossFlowError, match="--protocol clean"):
        measure("a.npz", "b.npz")
    with pytest.raises(CrossFlowError, match="not symmetric and positive semidefinite"):
        measure("a.npz", "negative.npz", protocol="clean")
