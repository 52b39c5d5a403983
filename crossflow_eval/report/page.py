"""One self-contained HTML page: the tables, a figure, every output with its verdict, and where the numbers come from.

The page asks no network: styles, script and pictures are inside, and its content security policy forbids the rest.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from crossflow_eval.report.entry import Entry
from crossflow_eval.report.grid import Cell, Grid, flatten
from crossflow_eval.report.plot import task_figure
from crossflow_eval.report.samples import samples
from crossflow_eval.report.text import DASH, INTERVALS, cell_text, layout


def page(grids: Sequence[Grid], entries: Sequence[Entry], *, sections: Sequence[str] = ()) -> str:
    """The page as text, with further ``sections`` of HTML below the tables; the same runs give the same bytes."""
    assets = files("crossflow_eval.report") / "assets"
    style = (assets / "page.css").read_text(encoding="utf-8")
    script = (assets / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    models = [entry for entry in entries if entry.role == "model"] or list(entries)
    title = escape(grids[0].table.title if len(grids) == 1 else "Evaluation report")
    body = [f"<header><h1>{title}</h1>{''.join(map(_summary, models))}</header>"]
    body += [_table(grid, number, alone=len(grids) == 1) for number, grid in enumerate(grids)]
    named = list(dict.fromkeys(column.value for grid in grids for column in grid.table.columns if column.value))
    body += sections
    body += [samples(entry, number, named) for number, entry in enumerate(models)]
    if entries:
        body += ["<section><h2>Settings and provenance</h2>", *map(_provenance, entries), "</section>"]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<title>{title}</title>\n<link rel="icon" href="data:,">\n<style>{style}</style>\n</head>\n<body>\n<main>\n'
        + "\n".join(part for part in body if part)
        + f"\n</main>\n<script>{script}</script>\n</body>\n</html>\n"
    )


def _summary(entry: Entry) -> str:
    """One sentence: which model on which suite, and the names by which both can be found again."""
    result, settings = entry.result, entry.result.settings
    weights = str(settings.identity.get("weights_sha256", ""))[:12]
    of = f", weights <code>{escape(weights)}</code>" if weights else ""
    return (
        f"<p><strong>{escape(entry.title)}</strong> on {result.n:,} outputs of the suite {escape(settings.suite)}, "
        f"version {escape(settings.suite_version)}; run <code>{settings.digest}</code>{of}.</p>"
    )


def _table(grid: Grid, number: int, *, alone: bool) -> str:
    head, *body = layout(grid, _cell, escape)
    columns = "".join(f"<th scope=col>{text}</th>" for text in head[1:])
    rows = "".join(
        f"<tr><th scope=row>{first}</th>{''.join(f'<td>{text}</td>' for text in rest)}</tr>" for first, *rest in body
    )
    title = "Scores" if alone else escape(grid.table.title)
    notes = "".join(f"<p class=note>{escape(note)}</p>" for note in (*grid.footnotes, INTERVALS))
    drawing = task_figure(grid)
    figure = f"<figure class=plot>{drawing}</figure>" if drawing else ""
    return (
        f'<section aria-labelledby="table-{number}"><h2 id="table-{number}">{title}</h2>'
        f'<div class=scroll tabindex=0 role=region aria-labelledby="table-{number}"><table>'
        f"<thead><tr><th scope=col><span class=hidden>Row</span></th>{columns}</tr></thead><tbody>{rows}</tbody>"
        f"</table></div>{notes}{figure}</section>"
    )


def _cell(cell: Cell) -> str:
    text = cell_text(cell)
    role = cell.entry.role if cell.entry is not None else "empty" if text == DASH else "published"
    value, _, interval = text.partition(" ")
    shown = f" <span class=interval>{escape(interval)}</span>" if interval else ""
    title = f' title="n = {cell.value.n:,}"' if cell.value is not None else ""
    return f"<span class={role}{title}>{escape(value)}</span>{shown}"


def _provenance(entry: Entry) -> str:
    """Everything behind the numbers of one run, folded."""
    result = entry.result
    groups: dict[str, Mapping[str, Any]] = {
        "Settings": flatten(result.settings.model_dump(mode="json")) | {"digest": result.settings.digest},
        "Protocol": flatten(result.protocol),
        "Data": {"examples sha256": result.data_sha256, "outputs": result.n, "schema": result.schema_version},
        "Environment": result.environment,
    }
    tables = "".join(
        f"<h3>{name}</h3><dl>{''.join(_term(key, value) for key, value in group.items())}</dl>"
        for name, group in groups.items()
    )
    return f"<details><summary>{escape(entry.title)} <code>{result.settings.digest}</code></summary>{tables}</details>"


def _term(key: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return f"<div><dt>{escape(key)}</dt><dd>{escape(text)}</dd></div>"
