"""The folder of a model's outputs and of the runs on them: what lies in it, how it is written, how it is read back.

::

    settings.json         what made the outputs, written first
    examples.jsonl        what was asked so far, one example a line
    outputs/<id>-<k>.*    one file an output; of those made together one a modality, <id>-<k>.<modality>.*
    features/, references/   what metrics keep, what stands beside
    n-50/, n-1000/        a run each, of the first so many examples:
        settings.json, examples.jsonl
        per_example.jsonl, outputs.jsonl, result.json   last
        timing.jsonl      one line a process: wall time, which belongs into no record that must repeat byte for byte

How many examples are asked for changes no output, so the longer run finds those of the shorter. Every file appears
whole: it is written under a temporary name beside its place and then renamed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cache, cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from crossflow.errors import CrossFlowError, first_few
from crossflow.files.hashes import file_sha256
from crossflow.files.images import UnreadableImage
from crossflow.files.locks import writing_in
from crossflow.files.writing import write_whole, written
from crossflow_eval import records
from crossflow_eval.outputs import kind_of
from crossflow_eval.records import EXAMPLES, MANIFEST, OUTPUTS, RESULT, ROWS, SETTINGS, canonical_json
from crossflow_eval.types import Example, Output, Result, Row, Settings

LEFT_BESIDE = ("report.html", "timing.jsonl", ROWS, MANIFEST, RESULT)
"""What a run of an earlier version left beside its outputs, the last one last."""
FILES = (SETTINGS, EXAMPLES, OUTPUTS, "features", "references", *LEFT_BESIDE)


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
        hashed = cache(file_sha256)
        return _jsonl(
            {name: _plain(getattr(example, name), hashed) for name in ("id", "source", "target", "tags")}
            for example in self
        )

    @cached_property
    def sha256(self) -> str:
        """The name of a run's data: sha256 over these lines."""
        return hashlib.sha256(self.lines).hexdigest()

    def check_unchanged(self) -> None:
        """Raise CrossFlowError where their files are no longer those of the record; each is read once more."""
        if Examples(self).lines != self.lines:
            raise CrossFlowError(
                "The files of the examples changed while they were read; run the command again when they are still."
            )


@dataclass(frozen=True)
class Job:
    """One output to make: the ``index``-th of ``example``, kept in ``outputs/<name>``, made from ``seed``.

    Where it is several, made together, ``several`` are the names of their files by modality, all of which begin with
    ``name``.
    """

    example: Example
    index: int
    name: str
    seed: int
    several: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def files(self) -> tuple[str, ...]:
        """The names of all its files."""
        return tuple(self.several.values()) or (self.name,)


def place(where: Path, name: str, settings: Settings, end: str = "") -> Path:
    """The folder in ``where`` of a model's outputs: ``name``, the digest of all that an output depends on, ``end``.

    Where an earlier version made one, whose digest is of the limit too, it is that one.
    """
    now, earlier = (where / f"{name}-{each.digest}{end}" for each in (settings.of_outputs, settings))
    return earlier if earlier.is_dir() and not now.exists() else now


def adopt(home: Path) -> None:
    """Move a run that an earlier version left beside its outputs to where runs are; goes on where it was killed."""
    settings = records.read_settings(home) if (home / SETTINGS).exists() else None
    left = [name for name in LEFT_BESIDE if (home / name).exists()]
    if settings is None or (settings.limit is None and not left):
        return
    if (home / EXAMPLES).exists():
        run = records.part(home, len(records.read_ids(home)))
        with written(run):
            run.mkdir(exist_ok=True)
            for name in (SETTINGS, EXAMPLES):
                if not (run / name).exists():
                    write_whole(run / name, (home / name).read_bytes())
            for name in left:
                (home / name).replace(run / name)
    write_whole(home / SETTINGS, _pretty(settings.of_outputs), durable=True)


@dataclass(frozen=True)
class Store:
    """One run's folder as seen by one process; ``rank`` keeps the temporary files of several processes apart."""

    path: Path
    rank: int = 0

    @property
    def home(self) -> Path:
        """The folder of the model's outputs, which its runs share."""
        return records.home_of(self.path)

    @property
    def outputs(self) -> Path:
        """The folder of the outputs."""
        return self.home / OUTPUTS

    def open(self, settings: Settings, examples: Sequence[Example], drawn: Sequence[Example] = ()) -> Settings:
        """Create the folder, or check that it is of the same settings and the same examples.

        ``drawn`` are the examples with those that are made in one batch with the last of them. Returns the settings as
        they stand there: a run of all examples is also one of the first so many.

        Raises:
            CrossFlowError: it holds another run or other files; or it cannot be written.
        """
        with written(self.home):
            self.home.mkdir(parents=True, exist_ok=True)
            there = _shown(self.home) - {path.name for path in records.parts(self.home)}
            there -= {OUTPUTS} if OUTPUTS in there and not _shown(self.outputs) else set()
        if (self.home / SETTINGS).exists():
            _compare(self.home, records.read_settings(self.home).of_outputs, settings.of_outputs)
            if self.rank == 0:
                adopt(self.home)
        elif others := sorted(there - set(FILES)):
            raise CrossFlowError(
                f"{self.home} is not a run's folder: it holds {first_few(others)}. Give another --out."
            )
        else:
            _refuse_unsettled(self.home, there)
            self._write(self.home / SETTINGS, _pretty(settings.of_outputs), durable=True)
        lines = Examples.of(examples).lines
        asked = Examples.of(drawn).lines if drawn else lines
        known = (self.home / EXAMPLES).read_bytes() if (self.home / EXAMPLES).exists() else b""
        listed = self.path / EXAMPLES
        same = known.startswith(asked) or asked.startswith(known)
        if not same or (listed.exists() and listed.read_bytes() != lines):
            raise CrossFlowError(f"{self.home} was made from other data ({EXAMPLES} differs). Give another --out.")
        if len(known) < len(asked):
            self._write(self.home / EXAMPLES, asked)
        with written(self.path):
            self.path.mkdir(exist_ok=True)
        if (self.path / SETTINGS).exists():
            settings = settings.model_copy(update={"limit": self.settings().limit})
            _compare(self.path, self.settings(), settings)
        else:
            _refuse_unsettled(self.path, _shown(self.path))
            self.write(SETTINGS, _pretty(settings), durable=True)
        if not listed.exists():
            self.write(EXAMPLES, lines)
        with written(self.outputs):
            self.outputs.mkdir(exist_ok=True)
        return settings

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the same rank of other launches out of the folder. The lock goes with the process, however it ends."""
        with writing_in(self.home, "working", rank=self.rank):
            yield

    def write(self, name: str, content: bytes, durable: bool = False) -> None:
        """Let ``name`` appear whole: write beside it, then rename. ``durable`` also waits for the disk."""
        self._write(self.path / name, content, durable)

    def _write(self, path: Path, content: bytes, durable: bool = False) -> None:
        write_whole(path, content, writer=self.rank, durable=durable)

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Add one line to a JSONL file that is a log, not a record."""
        with written(self.path / name), (self.path / name).open("a", encoding="utf-8") as file:
            file.write(canonical_json(record) + "\n")

    def write_output(self, job: Job, output: Any) -> None:
        """Keep one output, or its several by modality; the suffix of a file's name says as what."""
        parts = {name: output[modality] for modality, name in job.several.items()} or {job.name: output}
        for name, part in parts.items():
            self._write(self.outputs / name, kind_of(name).encode(part))

    def read_output(self, job: Job) -> tuple[Any, dict[str, str]]:
        """Read one output back, or its several by modality; with the sha256 of each file. Raises UnreadableOutput."""
        read = {name: self._read_file(name) for name in job.files}
        digests = {name: digest for name, (_, digest) in read.items()}
        if job.several:
            return {modality: read[name][0] for modality, name in job.several.items()}, digests
        return read[job.name][0], digests

    def _read_file(self, name: str) -> tuple[Output, str]:
        try:
            content = records.output_path(self.path, name).read_bytes()
            return kind_of(name).decode(content), hashlib.sha256(content).hexdigest()
        except FileNotFoundError as error:
            raise UnreadableOutput(f"{name} (missing)") from error
        except (CrossFlowError, OSError, UnreadableImage, ValueError, EOFError) as error:
            raise UnreadableOutput(f"{name} ({error})") from error

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

        What the model's other runs scored is compared too, for it is reused. Raises CrossFlowError where something was
        changed since, or the result cannot be read.
        """
        result = self.result()
        if result is not None:
            records.refuse(self.path, records.faults(self.path, result, self._there()))
        for other in records.parts(self.home):
            if other.name != self.path.name:
                records.refuse(other, records.lasting_faults(other, self._there()))

    def check_before_scoring(self) -> None:
        """As ``check_scored``, but for what follows from the outputs, which is about to be made anew."""
        records.refuse(self.path, records.lasting_faults(self.path, self._there()))

    def _there(self) -> set[str]:
        return _shown(self.outputs) if self.outputs.is_dir() else set()

    def set_aside(self) -> None:
        """Move the outputs into a folder beside, ``outputs-1`` and so on: by one rename, after all runs' results."""
        for run in records.parts(self.home):
            Store(run).reopen()
        if self._there():
            aside = next(path for number in count(1) if not (path := self.home / f"{OUTPUTS}-{number}").exists())
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
            for leftover in (each for place in (self.path, self.home, self.outputs) for each in place.glob(".*.tmp")):
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


def _pretty(record: BaseModel) -> bytes:
    return (json.dumps(record.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _refuse_unsettled(folder: Path, there: Collection[str]) -> None:
    """Raise CrossFlowError where a folder without settings holds anything."""
    if there:
        raise CrossFlowError(
            f"{folder} holds {first_few(sorted(there))} but no {SETTINGS}, which says what made them: "
            "put it back, or give another --out."
        )


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
