"""The outputs of one run as cards: pictures, prompt, verdict and reason; failures first."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from crossflow_eval.outputs import KINDS
from crossflow_eval.report.entry import Entry
from crossflow_eval.report.pictures import scale
from crossflow_eval.types import Row

CARDS = 1000
PICTURES = 12_000_000
"""How many cards a run may have in a page, and how many bytes their pictures may take."""
OPEN = 6
"""How many scores a card shows; the others are folded."""
ADDRESS = ("id", "index", "output", "prompt", "task", "correct", "reason", "detections")


def samples(entry: Entry, number: int, named: Sequence[str]) -> str:
    """The section of one run's outputs with its filters; empty where the run has no rows.

    Of the rows' scores those are shown that are ``named``, in that order, or all where none is.
    """
    if not entry.rows:
        return ""
    scores = _scores(entry.rows)
    scores = [name for name in named if name in scores] or scores
    cards = _cards(entry, scores)
    wide = " wide" if any("class=between" in card for card in cards) else ""
    name, order = escape(entry.title), _orders(entry, scores)[0][1]
    cut = f"{len(cards):,} of {len(entry.rows):,} outputs are shown." if len(cards) < len(entry.rows) else ""
    return "\n".join(
        (
            f'<section class="samples" aria-labelledby="samples-{number}">',
            f'<h2 id="samples-{number}">Outputs of {name}</h2>',
            f"<p class=note>{cut}</p>" if cut else "",
            _scale(entry),
            _controls(entry, scores, number),
            f'<p class="count" role="status">{len(cards):,} output{"" if len(cards) == 1 else "s"}, {order}</p>',
            f'<div class="cards{wide}">{"".join(cards)}</div>',
            "</section>",
        )
    )


def _scale(entry: Entry) -> str:
    """What the colours of depth mean, where outputs are depth maps that are shown."""
    kind = KINDS.get(str(entry.rows[0].get("output")).rpartition(".")[2])
    if kind is None or kind.metres is None or not entry.picture(entry.rows[0]):
        return ""
    bar = f'<img alt="light to dark" src="{_address(scale(kind.metres))}">'
    return f"<p class=scale>{kind.metres[0]:g} m {bar} {kind.metres[1]:g} m and beyond</p>"


def _cards(entry: Entry, scores: Sequence[str]) -> list[str]:
    """Cards, wrong ones first, until the page's share of bytes is spent."""
    rank = {False: 0, None: 1, True: 2}
    order = sorted(range(len(entry.rows)), key=lambda i: (rank[_verdict(entry.rows[i])], i))
    better = entry.result.higher_is_better
    falling = {name for name in scores if better.get(name) is False}
    cards: list[str] = []
    spent = 0
    for place in order[:CARDS]:
        row = entry.rows[place]
        beside, output = entry.beside(row), entry.picture(row)
        shown = {"source": beside.get("source"), "output": output, "target": beside.get("target")}
        pictures = {name: picture for name, picture in shown.items() if picture is not None}
        spent += sum(map(len, pictures.values()))
        if spent > PICTURES:
            break
        worst = {f"score-{i}": -row[name] if name in falling else row[name] for i, name in enumerate(scores)}
        cards.append(_card(row, pictures, {"order": place, **worst}, scores))
    return cards


def _verdict(row: Row) -> bool | None:
    correct = row.get("correct")
    return correct if isinstance(correct, bool) else None


def _scores(rows: Sequence[Row]) -> list[str]:
    """The columns that hold a number in every row."""
    return [
        name
        for name in rows[0]
        if name not in ADDRESS
        and all(isinstance(row.get(name), (int, float)) and not isinstance(row[name], bool) for row in rows)
    ]


def _card(row: Row, pictures: Mapping[str, bytes], order: Mapping[str, int | float], scores: Sequence[str]) -> str:
    """One output; the cards are sorted by ``order``, the smallest first."""
    correct = _verdict(row)
    verdict = {True: "right", False: "wrong", None: "none"}[correct]
    prompt = str(row.get("prompt", row.get("id", "")))
    data = {"verdict": verdict, "task": row.get("task", ""), **order}
    attributes = " ".join(f'data-{key}="{escape(str(value))}"' for key, value in data.items())
    badge = {True: "✓ right", False: "✗ wrong"}.get(correct, "") if correct is not None else ""
    parts = [
        _pictures(pictures, row, prompt),
        f"<figcaption><p class=prompt>{escape(str(row.get('caption', prompt)))}</p>",
        f"<p class=verdict><span class={verdict}>{badge}</span> {_words(row.get('task', ''))}</p>" if badge else "",
        f"<p class=reason>{escape(str(row['reason']))}</p>" if row.get("reason") else "",
        _scored(row, scores),
        _detections(row.get("detections")),
        "</figcaption>",
    ]
    return f"<figure {attributes}>{''.join(parts)}</figure>"


def _scored(row: Row, scores: Sequence[str]) -> str:
    lines = [f"<p class=score>{_words(name)} {float(row[name]):.3f}</p>" for name in scores]
    first, rest = (f"<div class=scores>{''.join(part)}</div>" for part in (lines[:OPEN], lines[OPEN:]))
    folded = f"<details><summary>{len(lines) - OPEN} more</summary>{rest}</details>" if len(lines) > OPEN else ""
    return first + folded


def _pictures(pictures: Mapping[str, bytes], row: Row, prompt: str) -> str:
    """The pictures of a card: one alone, or several side by side with their names."""
    shown = {
        name: f'<img alt="{escape(f"{name.capitalize()} for: {prompt}")}" decoding=async src="{_address(picture)}">'
        for name, picture in pictures.items()
    }
    if len(shown) > 1:
        parts = (f"<div>{image}<p>{name}</p></div>" for name, image in shown.items())
        return f"<div class=between>{''.join(parts)}</div>"
    return "".join(f"<div class=picture>{image}{_boxes(row)}</div>" for image in shown.values())


def _address(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def _boxes(row: Row) -> str:
    """The boxes of a row's detections over its picture, where the row says the size [w h] they are measured in."""
    if not row.get("size"):
        return ""
    width, height = row["size"]
    letters = max(width, height) / 14
    return (
        f'<svg class="boxes" viewBox="0 0 {width} {height}" font-size="{letters:.4g}" aria-hidden="true">'
        f"{''.join(map(_mark, row['detections']))}</svg>"
    )


def _mark(found: Mapping[str, Any]) -> str:
    left, top, right, bottom = found["box"]
    return (
        f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}"/>'
        f'<text x="{left}" y="{top}" dx=".2em" dy="1em">{_name(found)}</text>'
    )


def _detections(found: object) -> str:
    if not isinstance(found, list):
        return ""
    return f"<p class=found>seen: {', '.join(map(_name, found)) or 'nothing'}</p>"


def _name(found: Mapping[str, Any]) -> str:
    return _words(" ".join(str(found.get(key) or "") for key in ("color", "label")))


def _words(name: object) -> str:
    return escape(" ".join(str(name).replace("_", " ").split()))


def _controls(entry: Entry, scores: Sequence[str], number: int) -> str:
    """Task, verdict, order and search; shown by the script, for they do nothing without it."""
    rows = entry.rows
    tasks = list(dict.fromkeys(str(row["task"]) for row in rows if row.get("task")))
    fields = []
    if tasks:
        choices = [("", "all tasks"), *((task, task.replace("_", " ")) for task in tasks)]
        fields.append(_select("task", "Task", choices, number))
    if any(_verdict(row) is not None for row in rows):
        verdicts = [("", "all outputs"), ("wrong", "only failures"), ("right", "only right ones")]
        fields.append(_select("verdict", "Verdict", verdicts, number))
    fields.append(_select("sort", "Order", _orders(entry, scores), number))
    fields.append(
        f'<label for="search-{number}">Prompt or reason <input id="search-{number}" name=search type=search></label>'
    )
    return f"<form class=controls hidden>{''.join(fields)}</form>"


def _orders(entry: Entry, scores: Sequence[str]) -> list[tuple[str, str]]:
    """By what cards can be sorted, as (value, label); the first is how they stand."""
    judged = any(_verdict(row) is not None for row in entry.rows)
    orders = [("failures", "failures first")] if judged else []
    orders.append(("order", "the suite's order"))
    for i, name in enumerate(scores):
        end = "highest" if entry.result.higher_is_better.get(name) is False else "lowest"
        orders.append((f"score-{i}", f"{end} {name.replace('_', ' ')}"))
    return orders


def _select(name: str, label: str, choices: Sequence[tuple[str, str]], number: int) -> str:
    options = "".join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in choices)
    return f'<label for="{name}-{number}">{label} <select id="{name}-{number}" name={name}>{options}</select></label>'
