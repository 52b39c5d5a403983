"""Every published format as its tool writes it, what is refused, and the provenance that makes a number comparable."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crossflow.errors import CrossFlowError
from crossflow_eval.judges.statistics_files import Statistics, read_samples, read_statistics, write_statistics

GENERATOR = np.random.default_rng(0)
MEAN, ROOT = GENERATOR.normal(size=6), GENERATOR.normal(size=(9, 6))
COVARIANCE = ROOT.T @ ROOT
SPATIAL = (MEAN[:4], COVARIANCE[:4, :4])
SAMPLES = GENERATOR.integers(0, 256, size=(5, 7, 8, 3), dtype=np.uint8)
PROVENANCE = {"n": 30, "protocol": {"protocol": "clean", "resize": "Pillow"}, "images": {"folder": "reference"}}


def adm(path: Path) -> None:
    np.savez(path, arr_0=SAMPLES, mu=MEAN, sigma=COVARIANCE, mu_s=SPATIAL[0], sigma_s=SPATIAL[1])


FORMATS: dict[str, Callable[[Path], None]] = {
    "clean-fid": lambda path: np.savez_compressed(path, mu=MEAN.astype(np.float32), sigma=COVARIANCE),
    "pytorch-fid": lambda path: np.savez_compressed(path, mu=MEAN, sigma=COVARIANCE),
    "U-ViT, CrossFlow, T2IBenchmark": lambda path: np.savez(path, mu=MEAN, sigma=COVARIANCE),
    "ADM": adm,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "reference.npz"


@pytest.mark.parametrize("tool", FORMATS)
def test_each_tools_file_is_read(tool: str, path: Path) -> None:
    FORMATS[tool](path)
    found = read_statistics(path, "legacy_pytorch")
    assert np.array_equal(found.mean, MEAN.astype(np.float32) if tool == "clean-fid" else MEAN)
    assert np.array_equal(found.covariance, COVARIANCE)
    assert found.mean.dtype == found.covariance.dtype == np.float64
    assert found.n is None and found.protocol == {"protocol": "legacy_pytorch"}
    assert "said by the user" in found.origin["protocol"], "the report must show that nobody recorded it"


def test_a_written_file_is_what_each_tool_reads(path: Path) -> None:
    """They take ``mu`` and ``sigma``; ADM's evaluator also ``mu_s`` and ``sigma_s``."""
    write_statistics(path, {"pool": (MEAN, COVARIANCE), "spatial": SPATIAL}, PROVENANCE)
    with np.load(path) as file:
        assert set(file) == {"mu", "sigma", "mu_s", "sigma_s"}
        assert np.array_equal(file["mu"], MEAN) and np.array_equal(file["sigma_s"], SPATIAL[1])


def test_what_is_written_comes_back_with_its_provenance(path: Path) -> None:
    write_statistics(path, {"pool": (MEAN, COVARIANCE), "spatial": SPATIAL}, PROVENANCE)
    for tap, (mean, covariance) in {"pool": (MEAN, COVARIANCE), "spatial": SPATIAL}.items():
        for said in (None, "clean"):
            found = read_statistics(path, said, tap=tap)
            assert isinstance(found, Statistics) and found.n == 30 and found.protocol == PROVENANCE["protocol"]
            assert np.array_equal(found.mean, mean) and np.array_equal(found.covariance, covariance)
            assert found.origin["protocol"] == "clean (recorded beside the file)"
    first = path.read_bytes()
    write_statistics(path, {"pool": (MEAN, COVARIANCE), "spatial": SPATIAL}, PROVENANCE)
    assert path.read_bytes() == first, "the same statistics are the same file"


def test_a_protocol_is_needed_and_held_to(path: Path) -> None:
    FORMATS["pytorch-fid"](path)
    with pytest.raises(CrossFlowError, match="does not say how"):
        read_statistics(path)
    write_statistics(path, {"pool": (MEAN, COVARIANCE)}, PROVENANCE)
    with pytest.raises(CrossFlowError, match="'clean', not 'legacy_pytorch'"):
        read_statistics(path, "legacy_pytorch")


@pytest.mark.parametrize("damage", ["another file", "not json", "no protocol", "n is text", "odd weights"])
def test_a_provenance_that_is_not_of_the_file_is_refused(damage: str, path: Path) -> None:
    write_statistics(path, {"pool": (MEAN, COVARIANCE)}, PROVENANCE)
    beside = path.with_suffix(".json")
    record = json.loads(beside.read_text())
    if damage == "another file":
        np.savez(path, mu=MEAN + 1, sigma=COVARIANCE)
    elif damage == "odd weights":
        beside.write_text(json.dumps({**record, "protocol": {**record["protocol"], "weights_sha256": [1]}}))
    elif damage == "no protocol":
        beside.write_text(json.dumps({**record, "protocol": {}}))
    else:
        beside.write_text("[]" if damage == "not json" else json.dumps({**record, "n": "30"}))
    with pytest.raises(CrossFlowError, match=r"reference\.json"):
        read_statistics(path, "clean")


def not_a_number(path: Path) -> None:
    np.savez(path, mu=np.where(np.arange(6) == 2, np.nan, MEAN), sigma=COVARIANCE)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (lambda path: None, "No such file"),
    "no covariance": (lambda path: np.savez(path, mu=MEAN), "holds no sigma"),
    "samples alone": (lambda path: np.savez(path, arr_0=SAMPLES), "holds no mu"),
    "a covariance of another size": (lambda path: np.savez(path, mu=MEAN[:5], sigma=COVARIANCE), r"\[5\]"),
    "a flat covariance": (lambda path: np.savez(path, mu=MEAN, sigma=COVARIANCE.ravel()), r"\[36\]"),
    "a number that is none": (not_a_number, "1 numbers"),
    "a covariance that is none": (lambda path: np.savez(path, mu=MEAN, sigma=np.full((6, 6), np.inf)), "36 numbers"),
    "objects": (lambda path: np.savez(path, mu=np.array([{}], dtype=object), sigma=COVARIANCE), "plain numbers"),
    "text": (lambda path: np.savez(path, mu=np.array(["a"]), sigma=COVARIANCE), "no numbers"),
    "a pickle": (lambda path: path.write_bytes(pickle.dumps({"mu": MEAN})), "plain numbers"),
    "an array": (lambda path: np.save(path.open("wb"), MEAN), "holds no mu"),
    "nothing": (lambda path: path.write_bytes(b""), "plain numbers"),
    "half a file": (lambda path: (adm(path), path.write_bytes(path.read_bytes()[:400])), "plain numbers"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_refused_in_one_sentence(kind: str, path: Path) -> None:
    make, said = BAD[kind]
    make(path)
    with pytest.raises(CrossFlowError, match=said) as error:
        read_statistics(path, "clean")
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_statistics_are_kept_as_npz_and_where_they_can_be(tmp_path: Path) -> None:
    with pytest.raises(CrossFlowError, match=r"give .*reference\.npz"):
        write_statistics(tmp_path / "reference.pt", {"pool": (MEAN, COVARIANCE)}, PROVENANCE)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CrossFlowError, match="cannot be written"):
        write_statistics(tmp_path / "file" / "reference.npz", {"pool": (MEAN, COVARIANCE)}, PROVENANCE)


def test_samples_come_one_at_a_time_and_exactly(path: Path) -> None:
    adm(path)
    count, images = read_samples(path)
    assert count == 5
    assert np.array_equal(np.stack(list(images)), SAMPLES)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (SAMPLES.astype(np.float32), "float32"),
        (SAMPLES[..., 0], r"\[5, 7, 8\]"),
        (SAMPLES.transpose(0, 3, 1, 2).copy(), r"\[5, 3, 7, 8\]"),
        (np.asfortranarray(SAMPLES), "Fortran"),
    ],
)
def test_samples_of_another_kind_are_refused(array: np.ndarray, said: str, path: Path) -> None:
    np.savez(path, arr_0=array)
    with pytest.raises(CrossFlowError, match=said):
        read_samples(path)


def test_a_file_without_samples_is_refused(path: Path, tmp_path: Path) -> None:
    FORMATS["pytorch-fid"](path)
    with pytest.raises(CrossFlowError, match="arr_0"):
        read_samples(path)
    with pytest.raises(CrossFlowError, match="Cannot read"):
        read_samples(tmp_path / "none.npz")
