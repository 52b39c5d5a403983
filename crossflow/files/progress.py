"""Progress of a long stage on stderr: a bar on a terminal, elsewhere a line every half minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

EVERY = 30.0
"""Seconds between two lines where stderr is no terminal."""
At = Callable[[int, int | None], None]
"""Says how much of a stage is done, and of how much, or None where that is not known."""


@contextmanager
def progress(stage: str, unit: str, *, show: bool = True) -> Iterator[At]:
    """Show how far a ``stage`` is, counted in ``unit`` (plural), with its rate and the time that is left.

    The first call of what it yields says what was there before, so that the rate is of this process alone.
    """
    pace = _Pace(unit)
    if not show:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        name, pace_said = TextColumn("{task.description}"), TextColumn("{task.fields[pace]}")
        columns = (name, BarColumn(), MofNCompleteColumn(), pace_said)
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(stage, total=None, pace="")

            def drawn(done: int, total: int | None) -> None:
                bar.update(task, completed=done, total=total, pace=pace.said(done, total))

            yield drawn
    else:
        last = time.monotonic()

        def line(done: int, total: int | None) -> None:
            nonlocal last
            said = pace.said(done, total)
            if time.monotonic() - last >= EVERY:
                last = time.monotonic()
                of = "" if total is None else f" of {total:,}"
                typer.echo(f"{stage}: {done:,}{of} {unit}{said and ', '}{said}", err=True)

        yield line


class _Pace:
    """The rate of a stage since its first call, and the time that is left at it."""

    def __init__(self, unit: str) -> None:
        self._unit, self._first, self._started = unit, 0, 0.0

    def said(self, done: int, total: int | None) -> str:
        now = time.monotonic()
        if not self._started:
            self._first, self._started = done, now
        rate = (done - self._first) / max(now - self._started, 1e-9)
        if done == self._first:
            return ""
        left = "" if total is None else f", {duration((total - done) / rate)} left"
        return f"{rate:.3g} {self._unit}/s{left}"


def duration(seconds: float) -> str:
    """A time as it is said: ``40 s``, ``3 min``, ``2 h 5 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
