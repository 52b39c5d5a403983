"""A finished run's numbers computed again by the original packages, from the same outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from crossflow.errors import CrossFlowError
from crossflow_eval import records
from crossflow_eval.environment import environment
from crossflow_eval.judges.features import OnFeatures
from crossflow_eval.peers import peer_of
from crossflow_eval.peers.peer import Line, Pairs, Peer, Said, Theirs, Verification, version
from crossflow_eval.runs import launch, run
from crossflow_eval.runs.store import Store, UnreadableOutput
from crossflow_eval.types import Example, Metric, Output, Result

EXTRA = "pip install 'crossflow[verify]'"
UNKNOWN = "no package is known that defines it"


def verify(folder: Path, data: Path | None = None, track: run.Track = run.untracked) -> Verification:
    """The numbers of the run in ``folder`` beside those of the packages that define them; nothing is written.

    ``folder`` may be a model's, of whose runs the one of the most examples is verified. It proves itself first.
    ``data`` is the data root, which no run records.

    Raises:
        CrossFlowError: a run that is not finished, or not as it was scored; examples that cannot be read again, or are
            other ones.
    """
    folder = records.run_in(folder)
    result = records.check_whole(folder)
    suite, settings, examples = launch.suite_of(folder, data, again="give a run of this version")
    if examples.sha256 != result.data_sha256:
        raise CrossFlowError(f"{folder} was made from other data than {data or 'the suite has'}; give --data its own.")
    jobs, store = run.list_jobs(suite, examples, settings), Store(folder)

    def pairs(name: str) -> Iterator[tuple[Example, Output]]:
        for batch in track([[job] for job in jobs], f"verify {name}"):
            for job in batch:
                try:
                    yield job.example, store.read_output(job)[0]
                except UnreadableOutput as error:
                    raise CrossFlowError(f"{store.outputs} holds an output that cannot be read: {error}.") from error

    lines: dict[str, Line] = {}
    used: set[str] = set()
    for name, make in suite.metrics.items():
        if name not in result.protocol or "absent" in result.protocol[name]:
            continue
        peer, answers = _ask(name, make, result, lambda name=name: pairs(name))
        for said in answers.values():
            used |= {*peer.packages, *said.beside} if peer is not None and isinstance(said, Theirs) else set()
        lines |= {value: _line(value, name, result, said) for value, said in answers.items() if value in result.values}
    left = [value for value in result.values if value not in lines]
    lines |= {value: Line(name=value, metric="", ours=result.values[value].mean, why=UNKNOWN) for value in left}
    return Verification(
        settings=settings,
        digest=settings.digest,
        sealed=result.proof.result if result.proof else None,
        outputs=result.n,
        data_sha256=result.data_sha256,
        protocol=result.protocol,
        lines=tuple(lines[value] for value in result.values),
        packages={package: found for package in sorted(used) if (found := version(package)) is not None},
        environment=environment(),
    )


def _ask(name: str, make: Callable[[], Metric], result: Result, pairs: Pairs) -> tuple[Peer | None, Mapping[str, Said]]:
    """The peer of the metric ``name``, where one computed anything, and what there is to say of the metric's values."""
    try:
        metric = make()
    except CrossFlowError as error:  # weights or a program that is not here
        return None, dict.fromkeys([value for value in result.values if value.split("/")[0] == name], str(error))
    values = list(metric.higher_is_better) or [value for value in result.values if value.split("/")[0] == name]
    if not any(value in result.values for value in values):
        return None, {}
    there, here = (of.get("weights_sha256") for of in (result.protocol[name], metric.protocol))
    if there != here:
        return None, dict.fromkeys(values, f"the run has weights {str(there)[:12]}, and here are {str(here)[:12]}")
    metric = metric.itself if isinstance(metric, OnFeatures) else metric
    peer = peer_of(metric)
    if isinstance(peer, str):
        return None, dict.fromkeys(values, peer)
    if missing := [package for package in peer.packages if version(package) is None]:
        return None, dict.fromkeys(values, f"{' and '.join(missing)} is not installed: {EXTRA}")
    try:
        return peer, peer.compute(metric, pairs)
    except CrossFlowError:
        raise
    except Exception as error:  # another's code may stop with anything
        why = " ".join(str(error).split())[:200]
        return peer, dict.fromkeys(values, f"{', '.join(peer.packages)} stopped ({type(error).__name__}: {why})")


def _line(value: str, metric: str, result: Result, said: Said) -> Line:
    """A number of ours beside what was said of it."""
    common: dict[str, Any] = {"name": value, "metric": metric, "ours": result.values[value].mean}
    if not isinstance(said, Theirs):
        return Line(**common, why=said)
    if not math.isfinite(said.value):
        return Line(**common, why=f"the package answered {said.value}")
    return Line(
        **common,
        theirs=said.value,
        difference=abs(common["ours"] - said.value),
        tolerance=said.tolerance,
        way=said.way,
    )
