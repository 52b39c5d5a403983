"""Evaluator weights on this machine: found by file name in one folder, known by sha256, never downloaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from crossflow.errors import CrossFlowError
from crossflow.files.hashes import file_sha256
from crossflow.files.stand_ins import refuse_stand_in
from crossflow_eval.judges.weights import EvaluatorWeights

HOME = "CROSSFLOW_EVAL_HOME"
"""The environment variable that names the folder of the evaluator weights."""


def home() -> Path:
    """The folder of the evaluator weights: ``CROSSFLOW_EVAL_HOME``, or ``~/.cache/crossflow-eval``."""
    return Path(os.environ.get(HOME) or Path.home() / ".cache" / "crossflow-eval")


def find_weights(weights: EvaluatorWeights) -> Path:
    """The file of ``weights`` in :func:`home`. Raises CrossFlowError where it is not there."""
    path = home() / weights.file
    if not path.is_file():
        raise CrossFlowError(
            f"{weights.metric} needs {weights.need}; put the file at {path}, or set {HOME} to its folder."
        )
    return path


def checked_sha256(file: Path, expected: str = "") -> str:
    """The sha256 of a file. Raises CrossFlowError where it cannot be read or does not begin with ``expected``."""
    digest = file_sha256(file)
    refuse_stand_in(file)
    if not digest.startswith(expected):
        raise CrossFlowError(f"{file} has sha256 {digest[:16]}…, expected {expected[:16]}…; fetch the published file.")
    return digest


def load_folder(kind: Any, folder: Path) -> Any:
    """The model of the transformers class ``kind`` in a folder of Hugging Face's form, in float32, for evaluation.

    CrossFlowError where the folder holds no such model, lacks weights, or has some that the class does not know.
    """
    from torch import float32
    from transformers.utils import logging

    from crossflow.files.pretrained import load_pretrained

    return load_pretrained(kind, folder, logging, exact=True, dtype=float32)


def reason(error: Exception) -> str:
    """The first line of what a library says, to stand inside a sentence."""
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".:")
