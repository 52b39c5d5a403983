"""The words of the measurement: what every other module of the package passes along.

A suite is examples plus metrics. A run is one model on one suite under one ``Settings``. A result is the frozen
record of a run: a number never travels without its protocol, its n and the hash of the weights that made it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import BaseModel, ConfigDict

from crossflow.errors import CrossFlowError

SCHEMA_VERSION = 1

Output = np.ndarray | str
"""One output of a model: an image (uint8 [h w 3]), a depth map (float32 [h w], metres) or a caption."""

Row = dict[str, Any]
"""What one metric says of one output: plain JSON values, with ``reason`` where there is a verdict."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One item of a suite: what the model is given, and what its output is judged against."""

    id: str
    source: str | Path
    target: Any = None
    tags: Mapping[str, str] = field(default_factory=dict)


class Value(BaseModel):
    """A statistic with its 95 % interval and the number of outputs behind it; None where no interval is defined."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    mean: float
    ci_low: float | None = None
    ci_high: float | None = None
    n: int


@runtime_checkable
class Metric(Protocol):
    """Torchmetrics' two verbs. ``protocol`` holds every constant that can change the number; it is the fingerprint."""

    protocol: Mapping[str, Any]
    higher_is_better: Mapping[str, bool]

    def update(self, examples: Sequence[Example], outputs: Sequence[Output]) -> list[Row] | None:
        """Take the next outputs, in the suite's order. Returns one row an output where the metric is per example."""
        ...

    def compute(self) -> dict[str, Value]:
        """Return the statistics over everything taken so far."""
        ...


@runtime_checkable
class LateRows(Protocol):
    """A metric whose rows are known only when all outputs are, for it compares them with each other."""

    def rows(self) -> list[Row]:
        """Return one row an output, in the order taken; asked for after ``compute``."""
        ...


@runtime_checkable
class Model(Protocol):
    """Anything that turns sources into outputs. ``identity`` is all that can change an output, as plain JSON."""

    name: str
    identity: Mapping[str, Any]

    def generate(self, sources: Sequence[str | Path], seeds: Sequence[int]) -> list[Output]:
        """Return one output a source. An output may depend on its own source and seed, and on nothing else."""
        ...


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Examples and metrics as plain data. ``output`` is the kind of file an output is kept as."""

    name: str
    version: str
    task: Literal["t2i", "caption", "depth", "sr"]
    output: Literal["png", "npy", "txt"]
    examples: Callable[[Path | None], Sequence[Example]]
    metrics: Mapping[str, Callable[[], Metric]]
    outputs_per_example: int = 1


class Settings(BaseModel):
    """Everything that can change a number. Two runs with the same digest must give the same result, bit for bit."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    suite: str
    suite_version: str
    model: str
    identity: dict[str, Any]
    seed: int = 0
    limit: int | None = None
    outputs_per_example: int = 1

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits of the sha256 of the canonical JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class Result(BaseModel):
    """The record of one run. ``protocol`` maps each metric to its fingerprint; ``data_sha256`` names the examples."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int = SCHEMA_VERSION
    settings: Settings
    protocol: dict[str, dict[str, Any]]
    n: int
    values: dict[str, Value]
    higher_is_better: dict[str, bool]
    data_sha256: str
    environment: dict[str, str]


def check_kind(model: str, output: Any, kind: str) -> None:
    """Raise CrossFlowError if ``output``, which ``model`` gave, is not of the suite's ``kind``."""
    if kind == "txt":
        good, wanted = isinstance(output, str), "a str"
    elif kind == "npy":
        good = isinstance(output, np.ndarray) and output.dtype == np.float32 and output.ndim == 2
        wanted = "a float32 array [h w]"
    else:
        good = isinstance(output, np.ndarray) and output.dtype == np.uint8 and output.ndim == 3
        good, wanted = good and output.shape[2] == 3 and output.size > 0, "a uint8 array [h w 3]"
    if not good:
        got = f"{output.dtype} {list(output.shape)}" if isinstance(output, np.ndarray) else type(output).__name__
        raise CrossFlowError(f"The model {model} gave {got} where the suite needs {wanted}.")
