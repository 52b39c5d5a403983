"""The folder of one run: what lies in it, how it is written, and how it is read back.

::

    settings.json       what made the run, written first        examples.jsonl   what was asked, one example a line
    outputs/<id>-<k>.*  one file an output                      per_example.jsonl, outputs.jsonl, result.json   last
    timing.jsonl        one line a process: wall time, which belongs into no record that must repeat byte for byte

Every file appears whole: it is written under a temporary name beside its place and then renamed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache, cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from crossflow.errors import CrossFlowError, first_few
from crossflow.files.images import UnreadableImage
from crossflow.files.locks import only_writer
from crossflow.files.writing import write_whole, written
from crossflow_eval import records
from crossflow_eval.outputs import kind_of
from crossflow_eval.records import EXAMPLES, MANIFEST, OUTPUTS, RESULT, ROWS, SETTINGS, canonical_json
from crossflow_eval.types import Example, Output, Result, Row, Settings

FILES = (SETTINGS, EXAMPLES, OUTPUTS, MANIFEST, ROWS, RESULT, "timing.jsonl", "features", "references", "report.html")


class Examples(tuple[Example, ...]):
    """The examples of a run, with the record that names them; every file that they stand for is read once for it."""

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Examples:
        """These examples; their record is made anew only where there is none yet."""
        return examples if isinstance(examples, cls) else cls(examples)

    @cached_property
    def lines(self) -> bytes:
        """The content of examples.jsonl: one canonical line an example.

        Files stand as their name and sha256, arrays as theirs, never as paths. CrossFlowError for an unreadable file.
        """
        hashed = cache(_file_sha256)
        return _jsonl(
            {name: _plain(getattr(example, name), hashed) for name in ("id", "source", "target", "tags")}
            for example in self
        )

    @cached_property
    def sha256(self) -> str:
        """The name of a run's data: sha256 over these lines."""
        return hashlib.sha256(self.lines).hexdigest()


@dataclass(frozen=True)
class Job:
    """One output to make: the ``index``-th of ``example``, kept in ``outputs/<name>``, made from ``seed``."""

    example: Example
    index: int
    name: str
    seed: int


@dataclass(frozen=True)
class Store:
    """One run's folder as seen by one process; ``rank`` keeps the temporary files of several processes apart."""

    path: Path
    rank: int = 0

    @property
    def outputs(self) -> Path:
        """The folder of the outputs."""
        return self.path / OUTPUTS

    def open(self, settings: Settings, examples: Sequence[Example]) -> None:
        """Create the folder, or check that it is of the same settings and the same examples.

        Raises:
            CrossFlowError: it holds another run or other files; or it cannot be written.
        """
        with written(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            there = _shown(self.path)
            there -= {OUTPUTS} if OUTPUTS in there and not _shown(self.outputs) else set()
        if (self.path / SETTINGS).exists():
            _compare(self.path, self.settings(), settings)
        elif others := sorted(there - set(FILES)):
            raise CrossFlowError(
                f"{self.path} is not a run's folder: it holds {first_few(others)}. Give another --out."
            )
        elif there:
            raise CrossFlowError(
                f"{self.path} holds {first_few(sorted(there))} but no {SETTINGS}, which says what made them: "
                "put it back, or give another --out."
            )
        else:
            self.write(SETTINGS, _pretty(settings), durable=True)
        lines, listed = Examples.of(examples).lines, self.path / EXAMPLES
        if listed.exists() and listed.read_bytes() != lines:
            raise CrossFlowError(f"{self.path} was made from other data ({EXAMPLES} differs). Give another --out.")
        if not listed.exists():
            self.write(EXAMPLES, lines)
        with written(self.outputs):
            self.outputs.mkdir(exist_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the same rank of other launches out of the folder. The lock goes with the process, however it ends."""
        with written(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with only_writer(self.path, "working", rank=self.rank):
            yield

    def write(self, name: str, content: bytes, durable: bool = False) -> None:
        """Let ``name`` appear whole: write beside it, then rename. ``durable`` also waits for the disk."""
        write_whole(self.path / name, content, writer=self.rank, durable=durable)

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Add one line to a JSONL file that is a log, not a record."""
        with written(self.path / name), (self.path / name).open("a", encoding="utf-8") as file:
            file.write(canonical_json(record) + "\n")

    def write_output(self, job: Job, output: Output) -> None:
        """Keep one output; the suffix of the job's name says as what."""
        self.write(f"{OUTPUTS}/{job.name}", kind_of(job.name).encode(output))

    def read_output(self, job: Job) -> tuple[Output, str]:
        """Read one output back, with the sha256 of its file. Raises UnreadableOutput."""
        try:
            content = records.output_path(self.path, job.name).read_bytes()
            return kind_of(job.name).decode(content), hashlib.sha256(content).hexdigest()
        except FileNotFoundError as error:
            raise UnreadableOutput(f"{job.name} (missing)") from error
        except (CrossFlowError, OSError, UnreadableImage, ValueError, EOFError) as error:
            raise UnreadableOutput(f"{job.name} ({error})") from error

    def check(self, jobs: Sequence[Job]) -> None:
        """Read every output of ``jobs``. CrossFlowError with the count and the first names that cannot be read."""
        bad: list[str] = []
        for job in jobs:
            try:
                self.read_output(job)
            except UnreadableOutput as error:
                bad.append(str(error))
        if bad:
            raise CrossFlowError(
                f"{len(bad)} of {len(jobs)} outputs in {self.outputs} cannot be read: {first_few(bad)}. "
                "Remove them and run the same command again to make them anew."
            )

    def check_scored(self) -> None:
        """Compare the records, and the outputs that are there, with what they were when the run was scored.

        Raises CrossFlowError where something was changed since, or the result cannot be read.
        """
        result = self.result()
        if result is not None:
            records.refuse(self.path, records.faults(self.path, result, self._there()))

    def check_before_scoring(self) -> None:
        """As ``check_scored``, but for what follows from the outputs, which is about to be made anew."""
        records.refuse(self.path, records.lasting_faults(self.path, self._there()))

    def _there(self) -> set[str]:
        return _shown(self.outputs) if self.outputs.is_dir() else set()

    def set_aside(self) -> None:
        """Move the outputs into a folder of the run's own, ``outputs-1`` and so on: by one rename, after the result."""
        self.reopen()
        if self._there():
            aside = next(path for number in count(1) if not (path := self.path / f"{OUTPUTS}-{number}").exists())
            with written(self.outputs):
                self.outputs.rename(aside)
                self.outputs.mkdir()

    def reopen(self) -> None:
        """Take away the result of a run that is no longer whole, or whose rows are about to change."""
        with written(self.path / RESULT):
            (self.path / RESULT).unlink(missing_ok=True)

    def settings(self) -> Settings:
        """Read settings.json. Raises CrossFlowError."""
        return records.read_settings(self.path)

    def result(self) -> Result | None:
        """Read result.json; None where the run is not finished. Raises CrossFlowError."""
        return records.read_result(self.path)

    def write_result(self, result: Result, rows: Sequence[Row], scored: Sequence[Mapping[str, Any]]) -> Result:
        """Write the rows, a line for every output that was ``scored``, and last the result, which is returned sealed.

        Where result.json is, the run is whole: one that does not fit what is written goes first.
        """
        lines, manifest = (_jsonl(several) for several in (rows, scored))
        with suppress(OSError):  # leftovers of killed processes; harmless where they cannot be removed
            for leftover in (*self.path.glob(".*.tmp"), *self.outputs.glob(".*.tmp")):
                leftover.unlink(missing_ok=True)
        for name, content in ((MANIFEST, manifest), (ROWS, lines)):
            if not (self.path / name).exists() or (self.path / name).read_bytes() != content:
                self.reopen()
                self.write(name, content, durable=True)
        sealed = records.seal(result, manifest, lines)
        self.write(RESULT, _pretty(sealed), durable=True)
        return sealed

    def examples(self) -> list[Example]:
        """Read the examples back, for suites whose examples are plain data. Raises CrossFlowError."""
        return [Example(**fields) for fields in records.read_examples(self.path)]


class UnreadableOutput(Exception):
    """One output's file is missing, truncated or of another kind; the message holds its name and the reason."""


def _plain(value: Any, hashed: Callable[[Path], str]) -> Any:
    """A value as plain JSON; ``hashed`` gives the sha256 of a file."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Path):
        return {"file": value.name, "sha256": hashed(value)}
    if isinstance(value, np.ndarray):
        content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {"array": content, "shape": list(value.shape), "dtype": str(value.dtype)}
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value), hashed)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, hashed) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, hashed) for item in value]
    raise TypeError(f"An example holds a {type(value).__name__}, which has no canonical JSON.")


def _shown(folder: Path) -> set[str]:
    """The names in a folder, but hidden ones."""
    return {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}


def _jsonl(lines: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(canonical_json(line) + "\n" for line in lines).encode()


def _file_sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CrossFlowError(f"Cannot read {path}: {error.strerror}.") from error


def _pretty(record: BaseModel) -> bytes:
    return (json.dumps(record.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _compare(path: Path, there: Settings, given: Settings) -> None:
    """Raise CrossFlowError naming every field in which the settings in the folder differ from the given ones."""
    if there == given:
        return
    left, right = _flat(there.model_dump()), _flat(given.model_dump())
    differing = [
        f"{name} is {left.get(name)!r} there and {right.get(name)!r} now"
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    ]
    raise CrossFlowError(f"{path} holds a run of other settings: {'; '.join(differing)}. Give another --out.")


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
