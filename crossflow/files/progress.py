"""Progress of a long stage on stderr: a bar on a terminal, elsewhere a line every half minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

EVERY = 30.0
"""Seconds between two lines where stderr is no terminal."""


@runtime_checkable
class At(Protocol):
    """Says how much of a stage is done, and of how much, or None where that is not known."""

    def __call__(self, done: int, total: int | None, there: int = 0) -> None:
        """Of what is ``done``, so many were ``there`` before, besides those of the first call."""
        ...


Stage = Callable[[str, str], AbstractContextManager[At]]
"""Begins a stage by its name and the unit it is counted in: ``progress``, or ``silent``."""


@contextmanager
def progress(stage: str, unit: str, *, show: bool = True) -> Iterator[At]:
    """Show how far a ``stage`` is, counted in ``unit`` (plural), with its rate and the time that is left.

    The first call of what it yields says what was there before, and later ones what was found there since, so that the
    rate is of this process alone.
    """
    pace = _Pace(unit)
    if not show:
        yield lambda done, total, there=0: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        name, pace_said = TextColumn("{task.description}"), TextColumn("{task.fields[pace]}")
        columns = (name, BarColumn(), MofNCompleteColumn(), pace_said)
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(stage, total=None, pace="")

            def drawn(done: int, total: int | None, there: int = 0) -> None:
                bar.update(task, completed=done, total=total, pace=pace.said(done, total, there))

            yield drawn
    else:
        import typer

        last = time.monotonic()

        def line(done: int, total: int | None, there: int = 0) -> None:
            nonlocal last
            said = pace.said(done, total, there)
            if time.monotonic() - last >= EVERY:
                last = time.monotonic()
                of = "" if total is None else f" of {total:,}"
                typer.echo(f"{stage}: {done:,}{of} {unit}{said and ', '}{said}", err=True)

        yield line


@contextmanager
def silent(stage: str, unit: str) -> Iterator[At]:
    """The ``Stage`` that shows nothing."""
    yield lambda done, total, there=0: None


def chunks(begin: Stage, stage: str, unit: str, total: int, size: int, *, there: int = 0) -> Iterator[int]:
    """Where each chunk of ``size`` of a ``total`` starts, while the stage shows how many are done.

    What was ``there`` before counts as done, and comes on top of the total.
    """
    with begin(stage, unit) as at:
        at(there, there + total)
        for start in range(0, total, size):
            yield start
            at(there + min(start + size, total), there + total)


class _Pace:
    """The rate of a stage since its first call, and the time that is left at it."""

    def __init__(self, unit: str) -> None:
        self._unit, self._first, self._started = unit, 0, 0.0

    def said(self, done: int, total: int | None, there: int) -> str:
        now = time.monotonic()
        if not self._started:
            self._first, self._started = done, now
        made = done - there - self._first
        rate = made / max(now - self._started, 1e-9)
        if made == 0:
            return ""
        left = "" if total is None else f", {duration((total - done) / rate)} left"
        return f"{rate:.3g} {self._unit}/s{left}"


def duration(seconds: float) -> str:
    """A time as it is said: ``40 s``, ``3 min``, ``2 h 5 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
