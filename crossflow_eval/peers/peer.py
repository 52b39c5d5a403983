"""The words of a verification: what a peer is asked, and what it answers."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from crossflow_eval.types import Example, Output, Settings

Pairs = Callable[[], Iterator[tuple[Example, Output]]]
"""Gives a run's outputs anew, each with its example, in the run's order."""


@dataclass(frozen=True, kw_only=True)
class Theirs:
    """A number as other code computes it, and by how much ours may differ: by what both round.

    ``way`` says what was done by whom, and what of it was ours; ``beside`` are packages that took part where they are.
    """

    value: float
    tolerance: float
    way: str
    beside: tuple[str, ...] = ()


Said = Theirs | str
"""A number, or why there is none."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Other code for the values of a metric: ``compute`` takes the metric, fresh, and answers by the value's name.

    ``packages`` are the distributions without which there is no answer.
    """

    packages: tuple[str, ...]
    compute: Callable[[Any, Pairs], Mapping[str, Said]]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One number of a run beside the peer's; without one ``theirs`` is None and ``why`` says why."""

    name: str
    metric: str
    ours: float
    theirs: float | None = None
    difference: float | None = None
    tolerance: float | None = None
    way: str = ""
    why: str = ""

    @property
    def agrees(self) -> bool | None:
        """Whether the two differ by no more than the tolerance; None where there is nothing to compare with."""
        if self.difference is None or self.tolerance is None:
            return None
        return self.difference <= self.tolerance


@dataclass(frozen=True, kw_only=True)
class Verification:
    """A run's numbers beside those of the original packages.

    ``sealed`` is the digest under which the folder proved itself, None of a run of an earlier version, which has none.
    """

    settings: Settings
    digest: str
    sealed: str | None
    outputs: int
    data_sha256: str
    protocol: Mapping[str, Mapping[str, Any]]
    lines: tuple[Line, ...]
    packages: Mapping[str, str]
    environment: Mapping[str, str]

    @property
    def verified(self) -> tuple[Line, ...]:
        """The numbers that another package computed too."""
        return tuple(line for line in self.lines if line.agrees is not None)

    @property
    def wrong(self) -> tuple[Line, ...]:
        """Those that disagree."""
        return tuple(line for line in self.lines if line.agrees is False)

    def plain(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        lines = [{**asdict(line), "agrees": line.agrees} for line in self.lines]
        return {**asdict(self), "settings": self.settings.model_dump(mode="json"), "lines": lines}


def version(package: str) -> str | None:
    """The version of an installed distribution; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what a package prints off stdout."""
    with redirect_stdout(io.StringIO()):
        yield
