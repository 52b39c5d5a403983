"""Grids as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence

from crossflow.errors import one_line
from crossflow_eval.report.grid import Cell, Grid

DASH = "—"
INTERVALS = "Brackets hold 95 % intervals, where one is defined; a dash is a run not made."
CSV_HEADER = (
    *("table", "row", "role", "column", "value", "mean", "ci_low", "ci_high", "n", "published"),
    *("suite", "model", "digest"),
)
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\N{NO-BREAK SPACE}": "~",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    DASH: "---",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def cell_text(cell: Cell) -> str:
    """A cell as it is printed: the value with its interval, the published number, or a dash."""
    digits = cell.column.decimals
    if cell.published is not None:
        return f"{cell.published:.{digits}f}"
    if cell.value is None:
        return DASH
    text = f"{cell.value.mean:.{digits}f}"
    if cell.value.ci_low is None or cell.value.ci_high is None:
        return text
    return f"{text} [{cell.value.ci_low:.{digits}f}, {cell.value.ci_high:.{digits}f}]"


def layout(grid: Grid, cell: Callable[[Cell], str] = cell_text, escape: Callable[[str], str] = str) -> list[list[str]]:
    """The grid as text, heading row first, turned where the table asks for it; a run's n stands after its values.

    ``cell`` writes a value, ``escape`` everything else.
    """
    rows = [["", *map(escape, grid.headings), "n"]]
    for line in grid.lines:
        sizes = sorted({entry.result.n for entry in line.entries})
        rows.append([escape(line.label), *map(cell, line.cells), "/".join(map(str, sizes)) or escape(DASH)])
    return [list(row) for row in zip(*rows, strict=True)] if grid.table.transpose else rows


def markdown(grid: Grid) -> str:
    """A pipe table under its title, footnotes below."""
    notes = "".join(f"\n{_escape_markdown(note)}\n" for note in (*grid.footnotes, INTERVALS))
    return f"**{_escape_markdown(grid.table.title)}**\n\n" + pipes(layout(grid, escape=_escape_markdown)) + notes


def pipes(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as a pipe table, the first its heading; the first column is left-aligned, the others right."""
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    rule = [":" + "-" * (w - 1) if not i else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "".join(f"{_pipes(row, widths)}\n" for row in (rows[0], rule, *rows[1:]))


def _pipes(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = row
    cells = [first.ljust(widths[0]), *(text.rjust(width) for text, width in zip(rest, widths[1:], strict=True))]
    return "| " + " | ".join(cells) + " |"


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\|<>*`])", r"\\\1", one_line(text))


def latex(grid: Grid) -> str:
    """A ``table`` environment with booktabs rules, title as its caption, footnotes under it."""
    head, *body = layout(grid, lambda cell: _escape_latex(cell_text(cell)), _escape_latex)
    notes = " ".join(_escape_latex(note) for note in (*grid.footnotes, INTERVALS))
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{_escape_latex(grid.table.title)}}}",
            f"  \\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"    \toprule",
            _tabular(head),
            r"    \midrule",
            *map(_tabular, body),
            r"    \bottomrule",
            r"  \end{tabular}",
            f"  \\par\\smallskip\\footnotesize {notes}",
            r"\end{table}",
            "",
        ]
    )


def _tabular(row: Sequence[str]) -> str:
    return "    " + " & ".join(row) + r" \\"


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in one_line(text))


def tidy(grids: Sequence[Grid]) -> str:
    """One CSV line a cell with full digits, for a program to read; empty fields where there is no number."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for grid in grids:
        for line in grid.lines:
            for heading, cell in zip(grid.headings, line.cells, strict=True):
                value, settings = cell.value, cell.entry.result.settings if cell.entry else None
                numbers = (value.mean, value.ci_low, value.ci_high, value.n) if value else (None,) * 4
                run = (settings.suite, settings.model, settings.digest) if settings else (None,) * 3
                place = (grid.table.name, line.label, line.role, heading, cell.column.value)
                row = (*place, *numbers, cell.published, *run)
                writer.writerow([one_line(cell) if isinstance(cell, str) else cell for cell in row])
    return stream.getvalue()
