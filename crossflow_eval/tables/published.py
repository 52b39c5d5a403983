"""What was published: every table of CrossFlow's paper (``paper_tables.json``), and tables of CoDi and its rivals.

Of the latter (``codi_tables.json``) only those values stand here that could be checked, each with its status.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, TypeAdapter, model_validator

from crossflow.errors import named

FILES = ("paper_tables.json", "codi_tables.json")
Status = Literal["checked-fulltext", "checked-notes", "checked-summary", "measured"]
"""How a published value was checked, where not all of a table's were alike."""
STATUS: Mapping[Status, str] = {
    "checked-fulltext": "Read in the text of a paper that prints it",
    "checked-notes": "Read in notes on a paper that quotes it",
    "checked-summary": "Read in a summary or an abstract",
    "measured": "Counted from the released code",
}


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

    ``ours`` marks what the authors trained themselves; in the ablations, the settings that they stand for. ``status``
    says how values were checked, where that is known of each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    method: str
    ours: bool
    values: Mapping[str, float | None]
    note: str = ""
    status: Mapping[str, Status] = {}


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

    @property
    def standing(self) -> str:
        """How the values were checked, a sentence a status; nothing where no status is given."""
        found = {
            status: [f"{row.method} {name}" for row in self.rows for name, of in row.status.items() if of == status]
            for status in get_args(Status)
        }
        return " ".join(f"{STATUS[status]}: {', '.join(cells)}." for status, cells in found.items() if cells)

    @model_validator(mode="after")
    def _no_cell_is_left_out(self) -> Published:
        names = [column.name for column in self.columns]
        for row in self.rows:
            if row.values.keys() != set(names):
                raise ValueError(f"the row {row.method!r} needs a value or null for each of {', '.join(names)}")
            if row.status and row.status.keys() != {name for name, value in row.values.items() if value is not None}:
                raise ValueError(f"the row {row.method!r} needs a status for each of its values, and for no other")
        return self


@cache
def _all() -> Mapping[str, Published]:
    folder, tables = files("crossflow_eval.tables"), TypeAdapter(dict[str, Published])
    return {
        name: each for file in FILES for name, each in tables.validate_json(folder.joinpath(file).read_bytes()).items()
    }


def published_names() -> list[str]:
    """What :func:`published` knows: the paper's tables in its order, ``figure3``, the ``text_claims``; then CoDi's."""
    return list(_all())


def published(name: str) -> Published:
    """The table called ``name``, such as ``table3a``. CrossFlowError for an unknown name, with the nearest."""
    return named("published table", name, _all())
