"""Tables as data: which runs stand in which row, which values in which column, and what the paper published."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from crossflow.errors import CrossFlowError, named, unknown
from crossflow.files.plain_json import read_toml
from crossflow_eval.tables.published import published
from crossflow_eval.types import Role, Value

_FOLDER = files("crossflow_eval.tables")

REFERENCES = "references"
ROLES: tuple[Role, ...] = ("chance", "trivial", "ceiling")
"""A run of the embedded world keeps the runs of its references in ``references/<role>``."""


class Column(BaseModel):
    """One column: either a ``value`` that our runs measure (of ``suite``, if given), or a ``published`` number.

    A measured value is shown ``scale`` times as large, where papers print it in another unit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    label: str
    value: str | None = None
    suite: str | None = None
    published: str | None = None
    decimals: int = 3
    scale: float = 1.0

    def scaled(self, value: Value) -> Value:
        """``value`` with its interval in this column's unit."""
        bounds = {"mean": value.mean, "ci_low": value.ci_low, "ci_high": value.ci_high}
        return value.model_copy(update={k: None if v is None else v * self.scale for k, v in bounds.items()})

    @model_validator(mode="after")
    def _one_kind(self) -> Column:
        if (self.value is None) == (self.published is None):
            raise ValueError(f"column {self.label!r} needs exactly one of `value` and `published`")
        return self


class TableRow(BaseModel):
    """One row: the names of the models that may fill it (shell patterns), and the published values for it.

    ``method`` names a row of the table's ``paper``; it is the ``label``, too, where none is given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    label: str
    method: str | None = None
    models: tuple[str, ...] = ()
    role: Role = "model"
    published: dict[str, float] = {}

    @model_validator(mode="before")
    @classmethod
    def _labelled(cls, data: Any) -> Any:
        return {"label": data["method"]} | data if isinstance(data, dict) and "method" in data else data

    def takes(self, model: str, label: str | None, role: Role) -> bool:
        """Whether a run of ``model``, shown as ``label`` in ``role``, fills this row."""
        if role != self.role:
            return False
        return label == self.label or role != "model" or any(fnmatchcase(model, name) for name in self.models)


class Matrix(BaseModel):
    """A table of one run: in each cell the value that its column names, with its row in the place of ``{row}``.

    ``marked`` are the columns of a row whose cells have a mark, which the ``notes`` explain.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    title: str
    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    marked: dict[str, tuple[str, ...]] = {}
    notes: str = ""


class Across(BaseModel):
    """A further table of all runs, where there are several: ``columns`` are values by their labels.

    It is called ``name`` behind the table's own. Columns that are ``marked`` have a mark, which the ``notes`` explain.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    title: str
    columns: dict[str, str]
    marked: tuple[str, ...] = ()
    notes: str = ""
    decimals: int = 2


class Gain(BaseModel):
    """Of which ``scores`` of rows a gain is counted: the share of the way from the ``base`` to the ceiling.

    The base is the run whose model has these settings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    scores: tuple[str, ...]
    base: dict[str, str]

    def is_base(self, identity: Mapping[str, Any]) -> bool:
        """Whether a model of this ``identity`` is the base."""
        return all(identity.get(name) == value for name, value in self.base.items())


class Table(BaseModel):
    """Rows, columns and the source of the published values. ``transpose`` writes scores down and rows across.

    ``paper`` names the table of the paper (``published.published``) that the columns' ``published`` and the rows'
    ``method`` speak of; :func:`parse_table` puts its values into the rows. ``suites`` are those whose reports draw it
    where no table is named, and whose values its columns hold; without any they hold those of each. Below it stand the
    tables ``across`` several runs, for which their ``gain`` is counted, and the ``matrices`` of each run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    title: str
    paper: str | None = None
    source: str = ""
    notes: str = ""
    suites: tuple[str, ...] = ()
    transpose: bool = False
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...] = ()
    across: tuple[Across, ...] = ()
    gain: Gain | None = None
    matrices: tuple[Matrix, ...] = ()


def table_names() -> list[str]:
    """The names that :func:`load_table` knows, in alphabetical order."""
    return sorted(file.name[:-5] for file in _FOLDER.iterdir() if file.name.endswith(".toml"))


def load_table(name: str) -> Table:
    """Read the table called ``name``, or a table's own file of any folder, by its path ``*.toml``.

    Raises CrossFlowError for a name that is not there, with the nearest one, and for a file that cannot be read.
    """
    names, path = table_names(), Path(name)
    if path.suffix == ".toml":
        try:
            return parse_table(path.stem, path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CrossFlowError(f"Cannot read the table {path}: {error}.") from error
    if name not in names:
        raise unknown("table", name, names)
    return parse_table(name, _FOLDER.joinpath(f"{name}.toml").read_text(encoding="utf-8"))


def parse_table(name: str, text: str) -> Table:
    """Read a table from TOML ``text``, with the published values of its ``paper`` in its rows.

    Where no row is of role "model", all published ones stand first, in the paper's order. Raises CrossFlowError for
    what is not a table, and for a table, method or column that the paper does not have.
    """
    try:
        return _with_published(Table(name=name, **read_toml(text, f"{name}.toml")))
    except (ValidationError, TypeError, CrossFlowError) as error:
        raise CrossFlowError(f"The table {name!r} cannot be read: {error}") from error


def _with_published(table: Table) -> Table:
    if table.paper is None:
        if orphan := next((row for row in table.rows if row.method is not None), None):
            raise CrossFlowError(f"The row {orphan.label!r} names a method; name the `paper` that has it.")
        return table
    paper = published(table.paper)
    known = {row.method: row for row in paper.rows}
    headings = {column.name: column for column in paper.columns}
    for column in table.columns:
        if column.published is not None:
            named(f"published column of {table.paper}", column.published, headings)

    def filled(row: TableRow) -> TableRow:
        if row.published:
            raise CrossFlowError(f"The row {row.label!r} repeats published values; name its `method` instead.")
        if row.method is None:
            return row
        values = named(f"published row of {table.paper}", row.method, known).values
        return row.model_copy(update={"published": {name: v for name, v in values.items() if v is not None}})

    rows = table.rows
    if all(row.role != "model" for row in rows):
        rows = (*(TableRow(label=method, method=method) for method in known), *rows)
    notes = " ".join(filter(None, (table.notes, paper.standing)))
    return table.model_copy(update={"rows": tuple(map(filled, rows)), "notes": notes})


def table_of_suite(suite: str) -> Table | None:
    """The table that a report of ``suite`` draws when none is named, or None."""
    return next((table for table in map(load_table, table_names()) if suite in table.suites), None)
