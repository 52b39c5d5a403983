"""Grids as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from crossflow.errors import one_line
from crossflow_eval import records
from crossflow_eval.report.entry import Entry
from crossflow_eval.report.grid import Cell, Grid

DASH = "—"
INTERVALS = "Brackets hold 95 % intervals, where one is defined; a dash is a run not made."
FORMULAS = ("=", "+", "-", "@")
"""What a cell of text in a CSV file does not begin with: spreadsheets would compute it."""
WIDEST = 100
"""How many characters a line of a Markdown table has at most."""
COLUMN = 234
"""How wide a column of a paper of two is, in points."""
_MARKUP = re.compile(r"[\\|<>*`~]|(?<=\])[\[(]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)|^[#+-](?=#*\s)")
"""What Markdown takes for more than the character that it is; a ``_`` at either end of a word."""
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
    "→": r"$\rightarrow$",
    "°": r"$^\circ$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def cell_text(cell: Cell) -> str:
    """A cell as it is printed: the value with its interval, the published number, or a dash."""
    return " ".join(filter(None, (value_text(cell), interval_text(cell))))


def value_text(cell: Cell) -> str:
    """The value alone, the published number, or a dash."""
    number = cell.published if cell.value is None else cell.value.mean
    return DASH if number is None else f"{number:.{cell.column.decimals}f}{cell.mark}"


def interval_text(cell: Cell) -> str:
    """The interval in brackets; nothing where there is none."""
    if cell.value is None or cell.value.ci_low is None or cell.value.ci_high is None:
        return ""
    digits = cell.column.decimals
    return f"[{cell.value.ci_low:.{digits}f}, {cell.value.ci_high:.{digits}f}]"


def layout(
    grid: Grid, cell: Callable[[Cell], str] = cell_text, escape: Callable[[str], str] = str, *, sizes: bool = True
) -> list[list[str]]:
    """The grid as text, heading row first, turned where its models stand in columns; with ``sizes`` every row's n.

    ``cell`` writes a value, ``escape`` everything else.
    """
    sizes = sizes and not grid.of_one
    rows = [["", *map(escape, grid.headings), *(["n"] if sizes else [])]]
    for line in grid.lines:
        n = "/".join(map(str, sorted({entry.result.n for entry in line.entries}))) or escape(DASH)
        rows.append([escape(line.label), *map(cell, line.cells), *([n] if sizes else [])])
    return [list(row) for row in zip(*rows, strict=True)] if grid.turned else rows


Rows = list[list[str]]
Width = Callable[[Sequence[str]], float]
"""How wide a column of cells is."""


def fitting(
    grid: Grid, room: int, width: Width, escape: Callable[[str], str], cell: Callable[[Cell], str]
) -> list[Rows]:
    """The grid as one table of ``cell``, where that is no wider than ``room``; else as values, and intervals below.

    What is too wide even so goes on in a further table of the same first column.
    """
    whole = layout(grid, cell, escape)
    if sum(map(width, zip(*whole, strict=True))) <= room:
        return [whole]
    values = layout(grid, lambda each: escape(value_text(each)), escape)
    intervals = _without_empty(
        layout(grid, lambda each: escape(interval_text(each)), escape, sizes=False), escape(DASH)
    )
    intervals[0][0] = escape("95 % intervals")
    return [part for rows in (values, intervals) for part in _parts(rows, room, width)]


def _without_empty(rows: Rows, dash: str) -> Rows:
    """The rows and columns with anything in them, beside their headings; a ``dash`` where there is nothing."""
    for _ in range(2):
        head, *body = rows
        kept = [head, *(row for row in body if any(row[1:]))]
        rows = [list(row) for row in zip(*kept, strict=True)]
    return [[cell or (dash if y and x else "") for x, cell in enumerate(row)] for y, row in enumerate(rows)]


def _parts(rows: Rows, room: int, width: Width) -> list[Rows]:
    first, *columns = (list(column) for column in zip(*rows, strict=True))
    parts: list[Rows] = []
    left: float = 0
    for column in columns:
        if not parts or width(column) > left:
            parts.append([first])
            left = room - width(first)
        parts[-1].append(column)
        left -= width(column)
    return [[list(row) for row in zip(*part, strict=True)] for part in parts]


def markdown(grid: Grid) -> str:
    """Pipe tables of at most WIDEST characters under a title, footnotes below.

    Where intervals do not fit beside their values, they are a second table.
    """
    tables = fitting(grid, WIDEST - 1, _pipe_width, markdown_text, lambda each: markdown_text(cell_text(each)))
    notes = "".join(f"\n{markdown_text(note)}\n" for note in (*grid.footnotes, INTERVALS))
    return f"**{markdown_text(grid.table.title)}**\n\n" + "\n".join(map(pipes, tables)) + notes


def _pipe_width(column: Sequence[str]) -> float:
    return 3.0 + max(3, *map(len, column))


def pipes(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as a pipe table, the first its heading; the first column is left-aligned, the others right."""
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    rule = [":" + "-" * (w - 1) if not i else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "".join(f"{_pipes(row, widths)}\n" for row in (rows[0], rule, *rows[1:]))


def _pipes(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = row
    cells = [first.ljust(widths[0]), *(text.rjust(width) for text, width in zip(rest, widths[1:], strict=True))]
    return "| " + " | ".join(cells) + " |"


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, in one line, which it may begin: neither a heading nor an item of a list."""
    return re.sub(r"^(\d+)(?=[.)]\s)", r"\1\\", _MARKUP.sub(r"\\\g<0>", one_line(text)))


def latex(grid: Grid) -> str:
    """A ``table`` environment with booktabs rules, title as its caption, footnotes under it.

    It fits a column of two: intervals are subscripts, or where these do not fit, a tabular of their own.
    """
    notes = " ".join(_escape_latex(note) for note in (*grid.footnotes, INTERVALS))
    tabulars = map(_tabular, fitting(grid, COLUMN, _latex_width, _escape_latex, _latex_cell))
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}",
            f"  \\caption{{{_escape_latex(grid.table.title)}}}",
            "\n  \\par\\medskip\n".join(tabulars),
            f"  \\par\\smallskip\\scriptsize {notes}",
            r"\end{table}",
            "",
        ]
    )


def _tabular(rows: Sequence[Sequence[str]]) -> str:
    """A bracket or a star after the end of a line would be an option of it, so a row begins with neither."""
    head, *body = (f"    {'{}' * row[0].startswith(('[', '*'))}{' & '.join(row)} \\\\" for row in rows)
    begin = f"  \\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}"
    return "\n".join([begin, r"    \toprule", head, r"    \midrule", *body, r"    \bottomrule", r"  \end{tabular}"])


def _latex_cell(cell: Cell) -> str:
    interval = interval_text(cell)
    return _escape_latex(value_text(cell)) + (f"$_{{{interval}}}$" if interval else "")


def _latex_width(column: Sequence[str]) -> float:
    """About how many points a column takes at 8 pt: digits of Computer Modern are 4.25 wide, of a subscript 3.6."""

    def width(text: str) -> float:
        text = re.sub(r"\$\\[a-z]+\$|\\text[a-z]+\{\}|\\(?=[&%$#_{}])", "", text)
        value, _, interval = text.partition("$_{")
        return 4.25 * len(value) + 3.6 * len(interval.removesuffix("}$"))

    return 6 + max(map(width, column))


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in one_line(text))


def facts(entry: Entry) -> str:
    """By what a run is found again, and by what its numbers were made, in a line: digests, seed, n, weights."""
    result, settings = entry.result, entry.result.settings
    lasting = {name: records.lasting(protocol) for name, protocol in result.protocol.items()}
    protocol = hashlib.sha256(records.canonical_json(lasting).encode()).hexdigest()
    said = [
        f"run {settings.digest}",
        f"suite {settings.suite}, version {settings.suite_version}",
        f"{result.n:,} outputs",
        f"seed {settings.seed}",
        f"examples {result.data_sha256[:12]}",
        f"protocol {protocol[:12]}",
    ]
    if weights := settings.identity.get("weights_sha256"):
        said.append(f"weights {str(weights)[:12]}")
    return f"{entry.title}: {', '.join(said)}"


def cell_records(grids: Sequence[Grid]) -> list[dict[str, Any]]:
    """One record a cell, by CSV_HEADER: what CSV files and data frames are made of; None where there is no number."""
    found: list[dict[str, Any]] = []
    for grid in grids:
        for line in grid.lines:
            for heading, cell in zip(grid.headings, line.cells, strict=True):
                value, settings = cell.value, cell.entry.result.settings if cell.entry else None
                numbers = (value.mean, value.ci_low, value.ci_high, value.n) if value else (None,) * 4
                run = (settings.suite, settings.model, settings.digest) if settings else (None,) * 3
                place = (grid.table.name, line.label, line.role, heading, cell.column.value)
                found.append(dict(zip(CSV_HEADER, (*place, *numbers, cell.published, *run), strict=True)))
    return found


def csv_text(text: str) -> str:
    """Text for a cell of a CSV file, in one line; a quote before what a spreadsheet would take for a formula."""
    return "'" * text.startswith(FORMULAS) + one_line(text)


def tidy(grids: Sequence[Grid]) -> str:
    """One CSV line a cell with full digits, for a program to read; empty fields where there is no number."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, CSV_HEADER, lineterminator="\n")
    writer.writeheader()
    for record in cell_records(grids):
        writer.writerow({key: csv_text(each) if isinstance(each, str) else each for key, each in record.items()})
    return stream.getvalue()
