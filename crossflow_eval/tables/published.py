"""What the paper published, every table of it with all rows and values, read from ``paper_tables.json`` beside this."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, model_validator

from crossflow.errors import named


class PublishedColumn(BaseModel):
    """One column as the paper heads it, with its unit and which of two values is the better one.

    ``note`` says what is wrong with the heading, where something is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    unit: str
    better: Literal["lower", "higher"] | None
    note: str = ""


class PublishedRow(BaseModel):
    """One method with its value in each column, None where the paper prints none.

    ``ours`` marks what the authors trained themselves; in the ablations, the settings that they stand for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    method: str
    ours: bool
    values: Mapping[str, float | None]
    note: str = ""


class Published(BaseModel):
    """One table of the paper. ``notes`` say how it was measured and what in it is unconfirmed, swapped or unprinted.

    ``confirmed`` is False where the source prints only a part of what it draws.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    title: str
    source: str
    confirmed: bool
    notes: str
    columns: tuple[PublishedColumn, ...]
    rows: tuple[PublishedRow, ...]

    @model_validator(mode="after")
    def _no_cell_is_left_out(self) -> Published:
        names = [column.name for column in self.columns]
        for row in self.rows:
            if row.values.keys() != set(names):
                raise ValueError(f"the row {row.method!r} needs a value or null for each of {', '.join(names)}")
        return self


@cache
def _all() -> Mapping[str, Published]:
    text = files("crossflow_eval.tables").joinpath("paper_tables.json").read_bytes()
    return TypeAdapter(dict[str, Published]).validate_json(text)


def published_names() -> list[str]:
    """What :func:`published` knows, in the paper's order: its tables, ``figure3`` and the ``text_claims``."""
    return list(_all())


def published(name: str) -> Published:
    """The paper's table called ``name``, such as ``table3a``. CrossFlowError for an unknown name, with the nearest."""
    return named("published table", name, _all())
