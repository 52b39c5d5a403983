"""Weights are found in one folder and known by their digits; what is missing or other is named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from crossflow.errors import CrossFlowError
from crossflow_eval.judges.local_weights import checked_sha256, find_weights, home, reason
from crossflow_eval.judges.weights import EvaluatorWeights

WEIGHTS = EvaluatorWeights(metric="FID", file="net.pt", sha256="ab" * 32, source="example.org/net")


def test_the_folder_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CROSSFLOW_EVAL_HOME", raising=False)
    assert home() == Path.home() / ".cache" / "crossflow-eval"
    monkeypatch.setenv("CROSSFLOW_EVAL_HOME", str(tmp_path))
    (tmp_path / "net.pt").write_bytes(b"weights")
    assert find_weights(WEIGHTS) == tmp_path / "net.pt"


def test_missing_weights_are_named_with_their_source_and_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CROSSFLOW_EVAL_HOME", str(tmp_path))
    with pytest.raises(CrossFlowError) as raised:
        find_weights(WEIGHTS)
    for part in ("FID", "net.pt", "abababab", "example.org/net", str(tmp_path / "net.pt"), "CROSSFLOW_EVAL_HOME"):
        assert part in str(raised.value)


def test_a_file_is_known_by_the_digits_that_are_known(tmp_path: Path) -> None:
    file = tmp_path / "net.pt"
    file.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert checked_sha256(file) == checked_sha256(file, digest[:8]) == checked_sha256(file, digest) == digest
    with pytest.raises(CrossFlowError, match=digest[:16]):
        checked_sha256(file, "ab" * 32)
    with pytest.raises(CrossFlowError, match=r"other\.pt cannot be read \(No such file"):
        checked_sha256(tmp_path / "other.pt")


def test_a_reason_is_one_line() -> None:
    assert reason(ValueError("not so.\nTraceback ...")) == "not so"
    assert reason(EOFError()) == "EOFError"
