"""What can run on this machine, and what is missing for the rest."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crossflow.errors import CrossFlowError
from crossflow_eval.datasets.published import PUBLISHED_SETS
from crossflow_eval.environment import environment, hardware
from crossflow_eval.judges.java import find_java
from crossflow_eval.judges.local_weights import checked_sha256, home
from crossflow_eval.judges.weights import PUBLISHED, EvaluatorWeights
from crossflow_eval.runs.run import make_metrics
from crossflow_eval.suites import load_suite, suite_names
from crossflow_eval.types import Suite


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked for. ``detail`` says what it is, or what is missing and how to get it."""

    kind: Literal["machine", "weights", "data", "suite"]
    name: str
    ready: bool
    detail: str


def examine(data: Path | None = None) -> Iterator[Finding]:
    """Look at the machine, every evaluator's weights and the data sets, and whether every suite can run on ``data``.

    A data set is ready where the ``data`` root, or a subfolder of its name, shows its layout; training reads more. A
    suite is ready where its metrics can be built and its examples be read; one that needs no root is not given it.
    Whole files are read, to compare their sha256.
    """
    yield from _machine()
    for weights in PUBLISHED:
        yield weights_finding(weights)
    for each in PUBLISHED_SETS:
        place = each.found(data)
        yield Finding(
            kind="data", name=each.name, ready=place is not None, detail=each.said if place is None else str(place)
        )
    for name in suite_names():
        try:
            metrics = _able(name, data)
        except CrossFlowError as error:
            yield Finding(kind="suite", name=name, ready=False, detail=str(error))
        else:
            yield Finding(kind="suite", name=name, ready=True, detail=", ".join(metrics))


def _able(name: str, data: Path | None) -> Collection[str]:
    """The metrics of a suite that can run: without ``data``, or where it cannot and reads a root of that kind, on it.

    CrossFlowError with what it lacks.
    """
    try:
        return _examined(load_suite(name), None)
    except CrossFlowError:
        if data is None or load_suite(name).root != "data":
            raise
    return _examined(load_suite(name, data), data)


def _examined(suite: Suite, data: Path | None) -> Collection[str]:
    metrics = make_metrics(suite)
    if suite.fitted is None or suite.root == "captions":
        suite.examples(data)
    return metrics


def weights_finding(weights: EvaluatorWeights) -> Finding:
    """Whether the file of ``weights`` is there, whole and the published one."""
    path = home() / weights.file
    if not path.exists():
        fetched = f"`crossflow-eval weights fetch {weights.file}`, or put it into {home()}"
        return Finding(kind="weights", name=weights.file, ready=False, detail=f"for {weights.metric}: {fetched}")
    try:
        digest = checked_sha256(path, weights.sha256)
    except CrossFlowError as error:
        return Finding(kind="weights", name=weights.file, ready=False, detail=str(error))
    return Finding(kind="weights", name=weights.file, ready=True, detail=f"sha256 {digest[:16]}")


def _machine() -> Iterator[Finding]:
    import torch

    found = environment()
    yield Finding(kind="machine", name="python", ready=True, detail=found["python"])
    yield Finding(kind="machine", name="processor", ready=True, detail=hardware())
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else "none that this torch can use; everything runs on the processor"
    yield Finding(kind="machine", name="GPU", ready=cuda, detail=device)
    for package in sorted(name for name, version in found.items() if version == "not installed"):
        yield Finding(kind="machine", name=package, ready=False, detail=f"not installed: pip install {package}")
    try:
        yield Finding(kind="machine", name="Java", ready=True, detail=find_java())
    except CrossFlowError as error:
        yield Finding(kind="machine", name="Java", ready=False, detail=str(error))
