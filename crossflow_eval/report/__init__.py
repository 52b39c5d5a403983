"""Reports: pure functions from runs to Markdown, CSV, LaTeX and one self-contained HTML page. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from crossflow.errors import CrossFlowError, one_line
from crossflow.files.writing import written
from crossflow_eval.report.entry import Entry, load
from crossflow_eval.report.gains import with_gains
from crossflow_eval.report.grid import Grid, across, build_grid, matrices, plain_table
from crossflow_eval.report.text import facts, latex, markdown, markdown_text, tidy
from crossflow_eval.tables import Table, table_of_suite

if TYPE_CHECKING:
    from crossflow_eval.report.page import Section

__all__ = ["FORMATS", "Entry", "Format", "check_replaces", "load", "render", "tables_of"]

Format = Literal["md", "csv", "latex", "html"]
FORMATS: tuple[Format, ...] = get_args(Format)
BEGINS = (b"**", b"table,row,", b"\\begin{table}", b"<!doctype html>")
"""How reports of these formats begin."""


def render(
    entries: Sequence[Entry],
    format: str = "md",
    *,
    table: Table | None = None,
    allow_mixed: bool = False,
    beside: Path | None = None,
    sections: Sequence[Section] = (),
    provenance: bool = False,
) -> str:
    """The report of ``entries`` as text. The same entries give the same bytes.

    With ``table`` all entries go into it, and none are needed to see what is published; without one each suite gets its
    own table, in the order of the entries. HTML has further ``sections``, and links the original outputs where it is to
    lie in the folder ``beside``. Markdown and LaTeX name every run below the tables where ``provenance`` is asked for,
    LaTeX in comments; CSV and HTML always do.

    CrossFlowError for neither table nor entries, an unknown format, and a column that mixes what may not be compared
    (with ``allow_mixed`` a footnote says so instead).
    """
    if format not in FORMATS:
        raise CrossFlowError(f"There is no format {format!r}. Available: {', '.join(FORMATS)}.")
    if not entries and table is None:
        raise CrossFlowError("A report needs at least one run, or --table.")
    grids = tables_of(entries, table=table, allow_mixed=allow_mixed)
    if format == "csv":
        return tidy(grids)
    if format == "html":
        from crossflow_eval.report.page import page

        return page(grids, entries, beside=beside, sections=sections)
    text = "\n".join(map(markdown if format == "md" else latex, grids))
    if not provenance or not entries:
        return text
    said = [f"- {markdown_text(facts(each))}." if format == "md" else f"% {one_line(facts(each))}" for each in entries]
    return "\n".join((text, *said, ""))


def check_replaces(out: Path) -> None:
    """Raise CrossFlowError where a file lies at ``out`` that is no earlier report or verification: it may be data."""
    with written(out):
        if not out.is_file():
            return
        with out.open("rb") as file:
            begins = file.read(max(map(len, BEGINS)))
    if begins and not begins.startswith(BEGINS):
        raise CrossFlowError(f"{out} is there already and holds no report: choose another name, or remove it.")


def tables_of(entries: Sequence[Entry], *, table: Table | None = None, allow_mixed: bool = False) -> list[Grid]:
    """The tables of a report, the given one or one a suite, with those across its runs and the matrices of each.

    Raises as ``render``.
    """
    return [grid for group, of in _tables(entries, table) for grid in _grids(group, of, allow_mixed)]


def _grids(group: Sequence[Entry], of: Table, allow_mixed: bool) -> list[Grid]:
    found, notes = (group, ()) if of.gain is None else with_gains(group, of.gain, allow_mixed=allow_mixed)
    whole = build_grid(group, of, allow_mixed=allow_mixed)
    return [whole, *across(found, of, notes, allow_mixed=allow_mixed), *matrices(group, of)]


def _tables(entries: Sequence[Entry], table: Table | None) -> list[tuple[Sequence[Entry], Table]]:
    if table is not None:
        return [(entries, table)]
    suites: dict[str, list[Entry]] = {}
    for entry in entries:
        suites.setdefault(entry.result.settings.suite, []).append(entry)
    return [(group, table_of_suite(suite) or plain_table(group)) for suite, group in suites.items()]
