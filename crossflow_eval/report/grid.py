"""From runs to a grid of cells: which run stands in which row, and what may not stand in one column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crossflow.errors import CrossFlowError, first_few
from crossflow_eval.report.entry import Entry
from crossflow_eval.stats import TOGETHER, sized
from crossflow_eval.tables import Column, Matrix, Table, TableRow
from crossflow_eval.types import Result, Role, Value

PUBLISHED_N = 30_000
"""The n that a distance of two distributions is published at; any other n stands in the column's label."""
MARK = "°"
"""What stands behind a marked value."""
MODELS_ACROSS = 3
"""The most models that stand in columns, where a table asks for it; more of them are rows."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One place of the table: our value and its run, or a published number, or nothing; with a mark, if any."""

    column: Column
    entry: Entry | None = None
    value: Value | None = None
    published: float | None = None
    mark: str = ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of the table with its cells, one a column."""

    label: str
    role: Role
    entries: tuple[Entry, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table with its runs in place: headings (one a column of cells), lines, and footnotes.

    Where all is ``of_one`` run, lines are no models, and none is the best.
    """

    table: Table
    headings: tuple[str, ...]
    lines: tuple[Line, ...]
    footnotes: tuple[str, ...]
    of_one: bool = False

    @property
    def models(self) -> tuple[Line, ...]:
        """The lines of models that were run."""
        return tuple(line for line in self.lines if line.role == "model" and line.entries and not self.of_one)

    @property
    def turned(self) -> bool:
        """Whether scores stand in rows and lines in columns."""
        models = sum(line.role == "model" for line in self.lines)
        return self.table.transpose and models <= MODELS_ACROSS

    def higher_is_better(self, column: int) -> bool | None:
        """The direction of a column; None where it has none, or several."""
        name = self.table.columns[column].value or ""
        cells = [line.cells[column] for line in self.lines]
        found = {cell.entry.result.higher_is_better.get(name) for cell in cells if cell.entry is not None}
        return found.pop() if len(found) == 1 else None

    def best(self, column: int) -> tuple[list[Cell], list[Cell]]:
        """Of models that differ the cells that are best in a column, and those whose interval holds the best value."""
        better = self.higher_is_better(column)
        cells = [line.cells[column] for line in self.models]
        found = [(cell, cell.value) for cell in cells if cell.value is not None]
        if better is None or len({value.mean for _, value in found}) < 2:
            return [], []
        most = (max if better else min)(value.mean for _, value in found)
        first = [cell for cell, value in found if value.mean == most]
        near = [
            cell
            for cell, value in found
            if value.mean != most
            and value.ci_low is not None
            and value.ci_high is not None
            and value.ci_low <= most <= value.ci_high
        ]
        return first, near


def build_grid(entries: Sequence[Entry], table: Table, *, allow_mixed: bool = False) -> Grid:
    """Put ``entries`` into ``table``. Runs that fit no row get their own, above the references.

    Rows that no run fills are left out, unless the table has published values or nothing else.

    Raises CrossFlowError where runs in one column differ in protocol, suite, examples, or n of what depends on it;
    with ``allow_mixed`` the difference is a footnote instead.
    """
    lines = _lines(entries, table)
    used = {id(cell.entry) for line in lines for cell in line.cells}
    for entry in entries:
        if id(entry) not in used:
            raise CrossFlowError(
                f"The run {_name(entry)} of the suite {entry.result.settings.suite!r} gives no value of the table "
                f"{table.name!r}; leave it out or take another table."
            )
    headings: list[str] = []
    footnotes = [note for note in (table.notes, table.source) if note] + _warnings(entries)
    for index, column in enumerate(table.columns):
        cells = [line.cells[index] for line in lines]
        for difference in _differences(cells):
            if not allow_mixed:
                raise CrossFlowError(
                    f"{column.label} mixes what may not be compared: {difference}. Report the runs apart."
                )
            footnotes.append(f"{column.label}: not comparable, {difference}.")
        headings.append(_heading(column, cells))
    whole = not entries or any(column.published is not None for column in table.columns)
    kept = tuple(line for line in lines if whole or line.entries)
    return Grid(table=table, headings=tuple(headings), lines=kept, footnotes=tuple(footnotes))


def across(
    entries: Sequence[Entry], table: Table, notes: Sequence[str] = (), *, allow_mixed: bool = False
) -> list[Grid]:
    """The tables of ``table`` across several models, each of those ``entries`` that have values of it; with ``notes``.

    Raises as ``build_grid``.
    """
    found: list[Grid] = []
    for each in table.across if sum(entry.role == "model" for entry in entries) > 1 else ():
        columns = tuple(
            Column(label=label + (MARK if label in each.marked else ""), value=value, decimals=each.decimals)
            for label, value in each.columns.items()
        )
        values = set(each.columns.values())
        having = [entry for entry in entries if values & entry.result.values.keys()]
        if any(entry.role == "model" for entry in having):
            own = Table(
                name=f"{table.name}-{each.name}",
                title=each.title,
                notes=" ".join(filter(None, (each.notes, *notes))),
                columns=columns,
                rows=table.rows,
            )
            found.append(build_grid(having, own, allow_mixed=allow_mixed))
    return found


def matrices(entries: Sequence[Entry], table: Table) -> list[Grid]:
    """The matrices of ``table``, each for every one of the ``entries`` that has values of it, models first."""
    ordered = sorted(entries, key=lambda entry: entry.role != "model")
    found = [_matrix(entry, matrix, table) for matrix in table.matrices for entry in ordered]
    return [grid for grid in found if any(cell.value is not None for line in grid.lines for cell in line.cells)]


def _matrix(entry: Entry, matrix: Matrix, table: Table) -> Grid:
    def cell(row: str, column: Column) -> Cell:
        name = (column.value or "").format(row=row)
        value = entry.result.values.get(name)
        if value is None:
            return Cell(column=column)
        mark = MARK if column.label in matrix.marked.get(row, ()) else ""
        named = column.model_copy(update={"value": name})
        return Cell(column=named, entry=entry, value=column.scaled(value), mark=mark)

    roles = [row.label for row in table.rows if row.role == entry.role != "model"]
    lines = tuple(
        Line(
            label=row.replace("/", " → ").replace("+", " + "),
            role=entry.role,
            entries=(entry,),
            cells=tuple(cell(row, column) for column in matrix.columns),
        )
        for row in matrix.rows
    )
    return Grid(
        table=Table(name=table.name, title=f"{matrix.title}: {(roles or [entry.title])[0]}", columns=matrix.columns),
        headings=tuple(column.label for column in matrix.columns),
        lines=tuple(line for line in lines if any(cell.value is not None for cell in line.cells)),
        footnotes=(matrix.notes,) if matrix.notes else (),
        of_one=True,
    )


def plain_table(entries: Sequence[Entry]) -> Table:
    """A table of every value of ``entries``, in the order of the results, for a suite that has no table."""
    names = dict.fromkeys(name for entry in entries for name in entry.result.values)
    suite = entries[0].result.settings.suite
    own = suite.startswith("own-")
    references = () if own else (TableRow(label="Chance", role="chance"), TableRow(label="Ceiling", role="ceiling"))
    return Table(
        name=suite,
        title=f"Own data ({suite})" if own else suite,
        transpose=True,
        columns=tuple(Column(label=name, value=name) for name in names),
        rows=references,
    )


def _warnings(entries: Sequence[Entry]) -> list[str]:
    """What the metrics of the runs warn of, each sentence once, with the runs that it is of."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        for metric, constants in entry.result.protocol.items():
            if "warning" in constants:
                found.setdefault(f"{metric}: {constants['warning']}.", []).append(_name(entry))
    return sorted(f"{first_few(names, 2)}, {said}" for said, names in found.items())


def _lines(entries: Sequence[Entry], table: Table) -> list[Line]:
    """The table's rows with their runs; a row that several models fill is repeated, with each run's digest."""
    waiting: dict[str, list[Entry]] = {}
    for entry in entries:
        group = waiting.setdefault(entry.identity, [])
        if any(_same_run(entry.result, other.result) for other in group):
            raise CrossFlowError(f"The run {entry.result.settings.digest} is given twice; give each run once.")
        group.append(entry)
    placed: list[tuple[TableRow, list[Entry]]] = []
    for row in table.rows:
        fitting = [key for key, group in waiting.items() if _fits(row, group[0])]
        placed += [(row, waiting.pop(key)) for key in fitting] or [(row, [])]
    models = sum(row.role == "model" for row, _ in placed)
    own = [(TableRow(label=group[0].title, role=group[0].role), group) for group in waiting.values()]
    placed[models:models] = own
    labels = [row.label for row, _ in placed]
    return [
        Line(
            label=_line_label(row.label, group, labels.count(row.label) > 1),
            role=row.role,
            entries=tuple(group),
            cells=tuple(_cell(column, row, group, table.suites) for column in table.columns),
        )
        for row, group in placed
    ]


def _same_run(one: Result, other: Result) -> bool:
    """Whether two results are of one run: references of one's own are part of the data alone."""
    return one.settings.digest == other.settings.digest and one.data_sha256 == other.data_sha256


def _fits(row: TableRow, entry: Entry) -> bool:
    return row.takes(entry.result.settings.model, entry.label, entry.role)


def _line_label(label: str, group: Sequence[Entry], ambiguous: bool) -> str:
    return f"{label} ({group[0].result.settings.digest})" if ambiguous and group else label


def _cell(column: Column, row: TableRow, group: Sequence[Entry], suites: Sequence[str]) -> Cell:
    """What a row has in a column: of a run of the column's suite, or of one of the table's ``suites``, if it names any.

    Values of one name mean another thing in another suite, and may not stand beside what was published of this one.
    """
    if column.published is not None:
        return Cell(column=column, published=row.published.get(column.published))
    name, suites = column.value or "", suites if column.suite is None else (column.suite,)
    having = [
        entry
        for entry in group
        if name in entry.result.values and (not suites or entry.result.settings.suite in suites)
    ]
    if len(having) > 1:
        runs = ", ".join(entry.result.settings.digest for entry in having)
        raise CrossFlowError(f"The runs {runs} all give {name!r} for the row {row.label!r}; report them apart.")
    if not having:
        return Cell(column=column)
    return Cell(column=column, entry=having[0], value=column.scaled(having[0].result.values[name]))


def _heading(column: Column, cells: Sequence[Cell]) -> str:
    if column.published is not None:
        return f"{column.label} (paper)"
    name = column.value or ""
    sizes = sorted({cell.value.n for cell in cells if cell.value is not None})
    suffix = f"@{'/'.join(map(str, sizes))}" if sized(name) and sizes and sizes != [PUBLISHED_N] else ""
    directions = {cell.entry.result.higher_is_better.get(name) for cell in cells if cell.entry is not None}
    arrow = "\N{NO-BREAK SPACE}↑" if directions == {True} else "\N{NO-BREAK SPACE}↓" if directions == {False} else ""
    return f"{column.label}{suffix}{arrow}"


def _differences(cells: Sequence[Cell]) -> list[str]:
    """Every way in which the runs of one column differ where they must not, each as half a sentence."""
    having = [(cell, cell.entry, cell.value) for cell in cells if cell.entry is not None and cell.value is not None]
    found: list[str] = []
    for cell, entry, value in having[1:]:
        _, first, first_value = having[0]
        name = cell.column.value or ""
        for what, ours, theirs in _facts(name, first, first_value, entry, value):
            if ours != theirs:
                found.append(f"{what} is {ours} in {_name(first)} and {theirs} in {_name(entry)}")
    return found


def _facts(name: str, first: Entry, first_value: Value, other: Entry, value: Value) -> list[tuple[str, object, object]]:
    """What must be equal in two runs whose value ``name`` shares a column, as (what, first, other)."""
    a, b = first.result, other.result
    facts: list[tuple[str, object, object]] = [
        (
            "the suite",
            f"{a.settings.suite} {a.settings.suite_version}",
            f"{b.settings.suite} {b.settings.suite_version}",
        )
    ]
    if sized(name) or name in TOGETHER:
        facts.append(("n", first_value.n, value.n))
    if a.n == b.n:
        facts.append(("the sha256 of the examples", a.data_sha256[:12], b.data_sha256[:12]))
    ours, theirs = flatten(protocol_of(name, a.protocol)), flatten(protocol_of(name, b.protocol))
    keys = [key for key in dict.fromkeys([*ours, *theirs]) if not key.endswith("warning")]
    facts += [(key, ours.get(key, "absent"), theirs.get(key, "absent")) for key in keys]
    return facts


def protocol_of(name: str, protocol: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """The fingerprint of the metric that gives the value ``name``; of all metrics where no one is called so."""
    metric = name.split("/")[0]
    return {metric: protocol[metric]} if metric in protocol else protocol


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        flat |= flatten(value, path) if isinstance(value, Mapping) else {path: value}
    return flat


def _name(entry: Entry) -> str:
    return f"{entry.title} ({entry.result.settings.digest})"
