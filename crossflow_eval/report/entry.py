"""What a report is made of: a result, the rows behind it and pictures of its outputs, read from the run's folder."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from pydantic import ValidationError

from crossflow_eval.tables import Role
from crossflow_eval.types import Result, Row, SetupError

THUMBNAIL = 192
"""The longest side of a picture in a page, in pixels; smaller outputs are shown as they are."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One run in a report. ``picture(row)`` gives the PNG bytes of the output a row speaks of, or None."""

    result: Result
    label: str | None = None
    role: Role = "model"
    rows: Sequence[Row] = ()
    picture: Callable[[Row], bytes | None] = field(default=lambda row: None)

    @property
    def title(self) -> str:
        """The label, or the name of the model."""
        return self.label if self.label is not None else self.result.settings.model

    @property
    def identity(self) -> str:
        """The canonical JSON of the model, its identity and the seed: runs that share it share a row."""
        settings = self.result.settings
        return json.dumps([settings.model, settings.identity, settings.seed, self.label, self.role], sort_keys=True)


def load(folder: Path, *, label: str | None = None, role: Role = "model") -> Entry:
    """Read the run in ``folder``: ``result.json``, ``per_example.jsonl`` where there is one, and ``outputs``.

    A row's picture is the file named by its ``output``, relative to ``outputs``. Raises SetupError where the run is
    not finished or cannot be read.
    """
    path = folder / "result.json"
    try:
        result = Result.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise SetupError(f"{folder} holds no result.json: the run is not finished; run its command again.") from error
    except (OSError, ValidationError) as error:
        raise SetupError(f"{path} cannot be read as a result: {error}") from error
    return Entry(
        result=result,
        label=label,
        role=role,
        rows=_rows(folder / "per_example.jsonl"),
        picture=lambda row: _thumbnail(folder / "outputs", row),
    )


def _rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError) as error:
        raise SetupError(f"{path} cannot be read; score the run again: {error}") from error


def _thumbnail(outputs: Path, row: Mapping[str, object]) -> bytes | None:
    """The PNG bytes of a row's output, at most THUMBNAIL pixels a side; None where the output is no picture."""
    name = row.get("output")
    path = outputs / str(name)
    if name is None or path.suffix != ".png":
        return None
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            if max(image.size) <= THUMBNAIL:
                return content
            small = image.convert("RGB")
        small.thumbnail((THUMBNAIL, THUMBNAIL))
    except OSError as error:
        raise SetupError(f"{path} cannot be read as a picture; generate it again: {error}") from error
    stream = io.BytesIO()
    small.save(stream, format="PNG", optimize=True)
    return stream.getvalue()
