"""Progress on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crossflow_eval.runs.run import Track
    from crossflow_eval.runs.store import Job


def bar(show: bool) -> Track:
    """A progress bar a stage on stderr; none with --json or where stderr is no terminal."""

    def track(batches: Sequence[Sequence[Job]], stage: str) -> Iterable[Sequence[Job]]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), disable=not (show and sys.stderr.isatty())) as progress:
            task = progress.add_task(stage, total=sum(map(len, batches)))
            for batch in batches:
                yield batch
                progress.advance(task, len(batch))

    return track
