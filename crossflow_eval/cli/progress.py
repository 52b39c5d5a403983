"""Progress of what goes by in batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from crossflow.files.progress import progress

if TYPE_CHECKING:
    from crossflow_eval.runs.run import Track
    from crossflow_eval.runs.store import Job


def bar(show: bool, unit: str = "outputs") -> Track:
    """Progress of each stage on stderr, counting what was there before; none with --json."""

    def track(batches: Sequence[Sequence[Job]], stage: str, there: int = 0) -> Iterable[Sequence[Job]]:
        total = there + sum(map(len, batches))
        with progress(stage, unit, show=show) as at:
            at(there, total)
            for batch in batches:
                yield batch
                there += len(batch)
                at(there, total)

    return track
