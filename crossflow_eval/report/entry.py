"""What a report is made of: a result, the rows behind it and pictures of its outputs, read from the run's folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crossflow.errors import CrossFlowError
from crossflow_eval import records
from crossflow_eval.report.pictures import played, thumbnail
from crossflow_eval.types import Result, Role, Row

PARTS = ("source", "output", "target")
PLAYED = ("sound", "film")
"""What is shown of a row; where outputs were made together, with the modality of each: "output image"."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One run in a report.

    ``picture(row)`` gives the bytes of an image file of the output a row speaks of, or None; ``play(row)`` what is
    played of it, by ``PLAYED``: a WAV file, an animated WebP file, or nothing. ``beside(row)`` gives the pictures of
    what it is shown between: its ``source`` and its ``target``, each where it is a picture. ``texts`` are those that an
    output is compared with, by the example's id, and ``folder`` the run's own, where the originals lie. A run that is
    not finished has outputs, of so many ``expected``, and no values.
    """

    result: Result
    label: str | None = None
    role: Role = "model"
    rows: Sequence[Row] = ()
    picture: Callable[[Row], bytes | None] = field(default=lambda row: None)
    play: Callable[[Row], Mapping[str, bytes]] = field(default=lambda row: {})
    beside: Callable[[Row], Mapping[str, bytes]] = field(default=lambda row: {})
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    folder: Path | None = None
    expected: int | None = None

    @property
    def title(self) -> str:
        """The label, or the name of the model."""
        return self.label if self.label is not None else self.result.settings.model

    @property
    def of(self) -> tuple[str, int, str]:
        """What tells runs apart: settings, number of outputs, data."""
        return self.result.settings.digest, self.result.n, self.result.data_sha256

    def pictures(self, row: Row) -> dict[str, bytes]:
        """The pictures of a row by their ``PARTS``, in the order in which they are shown."""
        made = {_part("output", name): self.picture(each) for name, each in each_output(row).items()}
        ordered = sorted({**made, **self.beside(row)}.items(), key=lambda each: PARTS.index(kind_of_part(each[0])))
        return {name: found for name, found in ordered if found is not None}

    def played(self, row: Row) -> dict[str, bytes]:
        """What is played of a row, by ``PLAYED``."""
        outputs = each_output(row).items()
        return {_part(kind, name): found for name, each in outputs for kind, found in self.play(each).items()}

    @property
    def identity(self) -> str:
        """The canonical JSON of the model, its identity and the seed: runs that share it share a row."""
        settings = self.result.settings
        return json.dumps([settings.model, settings.identity, settings.seed, self.label, self.role], sort_keys=True)


def each_output(row: Row) -> dict[str, Row]:
    """The row of each output that a row speaks of, by modality where they were made together, else the row by ""."""
    if "outputs" not in row:
        return {"": row}
    return {modality: {**row, "output": name} for modality, name in row["outputs"].items()}


def _part(kind: str, modality: str) -> str:
    return f"{kind} {modality}".strip()


def kind_of_part(part: str) -> str:
    """Which of ``PARTS`` or ``PLAYED`` a part is, of whichever modality."""
    return part.partition(" ")[0]


def load(folder: Path, *, label: str | None = None, role: Role = "model") -> Entry:
    """Read the run in ``folder``, or of a model's that of the most examples: its result, its rows and its outputs.

    A row's picture is the file named by its ``output``, relative to ``outputs``; depth maps are pictures where they are
    in metres, as those made together with other outputs are. CrossFlowError where the run is not finished, cannot be
    read, or is not as it was scored.
    """
    folder = records.run_in(folder)
    result = records.check_whole(folder)
    metres = result.protocol.get("depth", {}).get("alignment") == "none"
    return Entry(
        result=result,
        label=label,
        role=role,
        rows=records.read_rows(folder),
        picture=_thumbnails(folder, metres),
        play=_players(folder),
        texts=records.read_target_texts(folder),
        folder=folder,
    )


def load_unfinished(folder: Path, *, metres: bool = False) -> Entry:
    """The run in ``folder`` as far as it is: its settings and the outputs that are there. Raises CrossFlowError.

    Depth maps are pictures where they are in ``metres``, which the result will say.
    """
    rows, expected = records.read_outputs_so_far(folder)
    for row in rows:
        for each in each_output(row).values():
            if each["output"].endswith(".txt"):
                row["caption"] = _text(records.output_path(folder, each["output"]))
    result = Result(
        settings=records.read_settings(folder),
        protocol={},
        n=len(rows),
        values={},
        higher_is_better={},
        data_sha256=hashlib.sha256((folder / records.EXAMPLES).read_bytes()).hexdigest() if rows else "",
        environment={},
    )
    texts = records.read_target_texts(folder)
    return Entry(
        result=result,
        rows=rows,
        picture=_thumbnails(folder, metres),
        play=_players(folder),
        texts=texts,
        folder=folder,
        expected=expected,
    )


def _thumbnails(folder: Path, metres: bool) -> Callable[[Row], bytes | None]:
    def of(row: Row) -> bytes | None:
        if "output" not in row:
            return None
        return thumbnail(records.output_path(folder, row["output"]), metres=metres or "outputs" in row)

    return of


def _players(folder: Path) -> Callable[[Row], Mapping[str, bytes]]:
    return lambda row: played(records.output_path(folder, row["output"])) if "output" in row else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CrossFlowError(f"{path} cannot be read as text; generate it again: {error}") from error
