"""Evaluator weights on this machine: found by file name in one folder, known by sha256, never downloaded."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from crossflow_eval.types import SetupError
from crossflow_eval.weights import EvaluatorWeights

HOME = "CROSSFLOW_EVAL_HOME"
"""The environment variable that names the folder of the evaluator weights."""


def home() -> Path:
    """The folder of the evaluator weights: ``CROSSFLOW_EVAL_HOME``, or ``~/.cache/crossflow-eval``."""
    return Path(os.environ.get(HOME) or Path.home() / ".cache" / "crossflow-eval")


def find_weights(weights: EvaluatorWeights) -> Path:
    """The file of ``weights`` in :func:`home`. Raises SetupError where it is not there."""
    path = home() / weights.file
    if not path.is_file():
        raise SetupError(f"{weights.metric} needs {weights.need}; put the file at {path}, or set {HOME} to its folder.")
    return path


def checked_sha256(file: Path, expected: str = "") -> str:
    """The sha256 of a file. Raises SetupError where it cannot be read or does not begin with ``expected``."""
    try:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise SetupError(f"Cannot read the weights {file}: {error.strerror}.") from error
    if not digest.startswith(expected):
        raise SetupError(f"{file} has sha256 {digest[:16]}…, expected {expected[:16]}…; fetch the published file.")
    return digest


def reason(error: Exception) -> str:
    """The first line of what a library says, to stand inside a sentence."""
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".:")
