"""One self-contained HTML page: the tables, a tab a run with its outputs, all models side by side, and provenance.

The page asks no network: styles, script and pictures are inside, and its content security policy forbids the rest.
Whatever comes out of a run is escaped by the template, or stands in data that the script writes as text.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from crossflow_eval.report.curves import figure, sweep, trainings
from crossflow_eval.report.entry import Entry
from crossflow_eval.report.grid import Cell, Grid, Line, flatten
from crossflow_eval.report.plot import inline, task_figure
from crossflow_eval.report.samples import Album, samples
from crossflow_eval.report.text import DASH, INTERVALS, cell_text

MARKS = "Bold is the best of the models; underlined is one whose interval holds the best value."
CURVES = "Curves"
"""The tab that holds what is drawn of trainings and of guidance."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page made elsewhere: HTML under a title, below the tables, ``first``, or in a ``tab`` of its own."""

    title: str
    body: str
    tab: str = ""
    first: bool = False


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as a table for a section, the first its heading."""
    head, *body = rows
    columns = "".join(f"<th scope=col>{escape(text)}</th>" for text in head)
    lines = "".join(
        f"<tr><th scope=row>{escape(first)}</th>{''.join(f'<td>{escape(text)}</td>' for text in rest)}</tr>"
        for first, *rest in body
    )
    table = f"<table class=verdicts><thead><tr>{columns}</tr></thead><tbody>{lines}</tbody></table>"
    return f"<div class=scroll>{table}</div>"


@dataclass(frozen=True, kw_only=True)
class Served:
    """What is different in a page that a program serves while its runs go on.

    Pictures are where the ``album`` has them. Its ``script`` takes a new page where its runs are no longer in the
    ``state`` that the page was made of. ``says`` is a sentence under the ``title``, ``back`` the address of the list
    that the page is of, if it is not that list.
    """

    title: str
    says: str
    state: str
    album: Album
    script: str
    back: str = ""


def page(
    grids: Sequence[Grid],
    entries: Sequence[Entry],
    *,
    sections: Sequence[Section] = (),
    beside: Path | None = None,
    served: Served | None = None,
) -> str:
    """The page as text, with further ``sections``; the same runs give the same bytes.

    Originals are linked where the page is to lie in the folder ``beside`` and their runs' folders are known, or where
    it is ``served``.
    """
    assets = files("crossflow_eval.report") / "assets"
    style, script = ((assets / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    scripts = [script] if served is None else [script, served.script]
    models = [entry for entry in entries if entry.role == "model"] or list(entries)
    shown = {number: entry for number, entry in enumerate(models) if entry.rows}
    named = list(dict.fromkeys(column.value for grid in grids for column in grid.table.columns if column.value))
    found, pictures = samples(list(shown.values()), named, beside, None if served is None else served.album)
    sections = [*sections, *_curves(grids, models)]
    titled = [grid for grid in grids if not grid.of_one]
    return template("crossflow_eval.report", "page.html.jinja").render(
        title=served.title if served else titled[0].table.title if len(titled) == 1 else "Evaluation report",
        served=served,
        policy=_policy(style, scripts, served is not None),
        style=Markup(style),
        scripts=[Markup(each) for each in scripts],
        tables=[_table(grid) for grid in grids],
        drawings=[(grid.table.title, Markup(drawing)) for grid in grids if (drawing := task_figure(grid))],
        above=[(section.title, Markup(section.body)) for section in sections if section.first],
        below=[(section.title, Markup(section.body)) for section in sections if not section.tab and not section.first],
        tabs={
            tab: [(section.title, Markup(section.body)) for section in sections if section.tab == tab]
            for tab in dict.fromkeys(section.tab for section in sections if section.tab)
        },
        runs=[
            {"number": number, "name": name, "summary": _summary(entry), "samples": part}
            for (number, entry), name, part in zip(shown.items(), _names(shown.values()), found, strict=True)
        ],
        compared=_compared(shown),
        pictures=pictures,
        provenance=[_provenance(entry) for entry in entries],
        dash=DASH,
    )


def template(package: str, name: str) -> Template:
    """A template of a ``package``'s assets; what it is given is escaped."""
    text = (files(package) / "assets" / name).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text)


def _policy(style: str, scripts: Sequence[str], served: bool) -> str:
    """The content security policy: this style and these scripts alone; a served page also asks where it came from."""
    own = " 'self'" if served else ""
    parts = {
        "default-src": "'none'",
        "img-src": f"data:{own}",
        "media-src": f"data:{own}",
        "style-src": f"'{_hash(style)}'",
        "script-src": " ".join(f"'{_hash(script)}'" for script in scripts),
        "connect-src": own.strip() or "'none'",
        "form-action": own.strip() or "'none'",
        "base-uri": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in parts.items())


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _curves(grids: Sequence[Grid], models: Sequence[Entry]) -> Iterator[Section]:
    """How the models trained whose runs lie in their trainings' folders, and what guidance does to them."""
    if curves := trainings(models):
        svg = figure(curves, "step", "flow loss", "trainings", "log")
        yield Section(title="The flow loss in training", body=plotted(svg, "The flow loss in training"), tab=CURVES)
    for grid in grids:
        heading, curves = sweep(grid)
        if curves:
            what = f"{grid.table.title}: guidance"
            svg = figure(curves, "guidance scale", heading, f"{grid.table.name}-guidance")
            yield Section(title=what, body=plotted(svg, what), tab=CURVES)


def plotted(svg: str, what: str) -> str:
    """A figure as a part of a page, ``what`` it shows said to who cannot see it."""
    return f'<figure class="plot">{inline(svg, what)}</figure>'


def _names(entries: Iterable[Entry]) -> list[str]:
    """What the tabs are called: the runs' titles, with what tells them apart where these do not."""
    entries = list(entries)
    titles = [entry.title for entry in entries]
    return [
        title if titles.count(title) == 1 else f"{title}, {entry.result.settings.digest}"
        for title, entry in zip(titles, entries, strict=True)
    ]


def _compared(shown: Mapping[int, Entry]) -> list[dict[str, Any]]:
    """The suites of which several models have outputs of the same examples, with the places of their runs."""
    groups: dict[tuple[str, str], list[int]] = {}
    for number, entry in shown.items():
        groups.setdefault((entry.result.settings.suite, entry.result.data_sha256), []).append(number)
    return [{"suite": suite, "numbers": numbers} for (suite, _), numbers in groups.items() if len(numbers) > 1]


def _summary(entry: Entry) -> dict[str, Any]:
    """Which model on which suite, and the names by which both can be found again."""
    settings = entry.result.settings
    weights = str(settings.identity.get("weights_sha256", ""))[:12]
    return {
        "title": entry.title,
        "n": entry.result.n,
        "expected": entry.expected,
        "settings": settings,
        "weights": weights,
    }


def _table(grid: Grid) -> dict[str, Any]:
    """A table as rows of cells, turned where its models stand in columns; with what was measured, and the verdict."""
    marks = [grid.best(column) for column in range(len(grid.headings))]
    rows: list[list[Any]] = [["", *map(_plain, grid.headings), *([] if grid.of_one else [_plain("n")])]]
    for line in grid.lines:
        sizes = sorted({entry.result.n for entry in line.entries})
        cells = [_cell(cell, *marks[column]) for column, cell in enumerate(line.cells)]
        rows.append([_plain(line.label), *cells, *([] if grid.of_one else [_plain("/".join(map(str, sizes)) or DASH)])])
    rows = [list(row) for row in zip(*rows, strict=True)] if grid.turned else rows
    several = len(grid.models) > 1
    return {
        "title": grid.table.title,
        "whole": grid.of_one,
        "measured": "" if grid.of_one else _measured(grid),
        "verdict": _verdict(grid),
        "head": rows[0][1:],
        "rows": rows[1:],
        "sortable": several and not grid.turned,
        "notes": [*grid.footnotes, INTERVALS, *([MARKS] if several else [])],
    }


def _plain(text: str) -> dict[str, Any]:
    number = text if text.isdigit() else ""
    return {"text": text, "interval": "", "classes": "", "n": None, "sort": number}


def _cell(cell: Cell, best: Sequence[Cell], near: Sequence[Cell]) -> dict[str, Any]:
    text = cell_text(cell)
    role = cell.entry.role if cell.entry is not None else "empty" if text == DASH else "published"
    mark = " best" if any(cell is each for each in best) else " near" if any(cell is each for each in near) else ""
    value, _, interval = text.partition(" ")
    number = cell.published if cell.value is None else cell.value.mean
    n = None if cell.value is None else cell.value.n
    sort = "" if number is None else repr(number)
    return {"text": value, "interval": interval, "classes": role + mark, "n": n, "sort": sort}


def _measured(grid: Grid) -> str:
    """Which suites, on how many outputs."""
    found = {
        f"{result.settings.suite}, version {result.settings.suite_version}, {result.n:,} outputs a model"
        for line in grid.models or grid.lines
        for result in (entry.result for entry in line.entries)
    }
    return "; ".join(sorted(found))


def _verdict(grid: Grid) -> str:
    """One sentence on the first score of the table that has a direction: who is best, and between what it stands."""
    for column, heading in enumerate(grid.headings):
        having = [line for line in grid.models if line.cells[column].value is not None]
        if not having or grid.higher_is_better(column) is None:
            continue
        best, near = grid.best(column)
        first = next((line for line in having if any(line.cells[column] is cell for cell in best)), having[0])
        said = f"{heading}: {first.label} {cell_text(first.cells[column])}"
        if len(having) > 1:
            others = [line.label for line in having if any(line.cells[column] is cell for cell in near)]
            said += f", the best of {len(having)}"
            said += f", a value that the interval of {' and '.join(others)} holds, too" if others else ""
        return said + _between(grid.lines, column) + "."
    return ""


def _between(lines: Sequence[Line], column: int) -> str:
    beside = [line for line in lines if line.role != "model" and line.cells[column].value is not None]
    return "".join(f"; {line.label.lower()} {cell_text(line.cells[column]).partition(' ')[0]}" for line in beside)


def _provenance(entry: Entry) -> dict[str, Any]:
    """Everything behind the numbers of one run."""
    result = entry.result
    groups: dict[str, Mapping[str, Any]] = {
        "Settings": flatten(result.settings.model_dump(mode="json")) | {"digest": result.settings.digest},
        "Protocol": flatten(result.protocol),
        "Data": {"examples sha256": result.data_sha256, "outputs": result.n, "schema": result.schema_version},
        "Environment": result.environment,
    }
    terms = {
        name: {key: value if isinstance(value, str) else json.dumps(value, sort_keys=True) for key, value in of.items()}
        for name, of in groups.items()
    }
    return {"title": entry.title, "digest": result.settings.digest, "groups": terms}
