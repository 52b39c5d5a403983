"""The outputs of one run as cards: picture, prompt, verdict and reason; failures first."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from crossflow_eval.report.entry import Entry
from crossflow_eval.types import Row

CARDS = 1000
PICTURES = 12_000_000
"""How many cards a run may have in a page, and how many bytes their pictures may take."""
ADDRESS = ("id", "index", "output", "prompt", "task", "correct", "reason", "detections")


def samples(entry: Entry, number: int) -> str:
    """The section of one run's outputs with its filters; empty where the run has no rows."""
    if not entry.rows:
        return ""
    cards = _cards(entry)
    name = escape(entry.title)
    cut = f"{len(cards):,} of {len(entry.rows):,} outputs are shown." if len(cards) < len(entry.rows) else ""
    return "\n".join(
        (
            f'<section class="samples" aria-labelledby="samples-{number}">',
            f'<h2 id="samples-{number}">Outputs of {name}</h2>',
            f"<p class=note>{cut}</p>" if cut else "",
            _controls(entry.rows, number),
            f'<p class="count" role="status">{len(cards):,} output{"" if len(cards) == 1 else "s"}, failures first</p>',
            f'<div class="cards">{"".join(cards)}</div>',
            "</section>",
        )
    )


def _cards(entry: Entry) -> list[str]:
    """Cards, wrong ones first, until the page's share of bytes is spent."""
    rank = {False: 0, None: 1, True: 2}
    order = sorted(range(len(entry.rows)), key=lambda i: (rank[_verdict(entry.rows[i])], i))
    scores = _scores(entry.rows)
    cards: list[str] = []
    spent = 0
    for place in order[:CARDS]:
        row = entry.rows[place]
        picture = entry.picture(row)
        spent += len(picture or b"")
        if spent > PICTURES:
            break
        cards.append(_card(row, picture, place, scores))
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


def _card(row: Row, picture: bytes | None, place: int, scores: Sequence[str]) -> str:
    correct = _verdict(row)
    verdict = {True: "right", False: "wrong", None: "none"}[correct]
    prompt = str(row.get("prompt", row.get("id", "")))
    data = {"order": place, "verdict": verdict, "task": row.get("task", "")}
    data |= {f"score-{i}": row[name] for i, name in enumerate(scores)}
    attributes = " ".join(f'data-{key}="{escape(str(value))}"' for key, value in data.items())
    badge = {True: "✓ right", False: "✗ wrong"}.get(correct, "") if correct is not None else ""
    parts = [
        f"<div class=picture>{_picture(picture, prompt)}{_boxes(row)}</div>" if picture else "",
        f"<figcaption><p class=prompt>{escape(prompt)}</p>",
        f"<p class=verdict><span class={verdict}>{badge}</span> {_words(row.get('task', ''))}</p>" if badge else "",
        f"<p class=reason>{escape(str(row['reason']))}</p>" if row.get("reason") else "",
        "".join(f"<p class=score>{_words(name)} {float(row[name]):.3f}</p>" for name in scores),
        _detections(row.get("detections")),
        "</figcaption>",
    ]
    return f"<figure {attributes}>{''.join(parts)}</figure>"


def _picture(picture: bytes, prompt: str) -> str:
    data = base64.b64encode(picture).decode()
    return f'<img alt="{escape(f"Output for: {prompt}")}" decoding=async src="data:image/png;base64,{data}">'


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


def _controls(rows: Sequence[Row], number: int) -> str:
    """Task, verdict, order and search; shown by the script, for they do nothing without it."""
    tasks = list(dict.fromkeys(str(row["task"]) for row in rows if row.get("task")))
    fields = []
    if tasks:
        choices = [("", "all tasks"), *((task, task.replace("_", " ")) for task in tasks)]
        fields.append(_select("task", "Task", choices, number))
    if any(_verdict(row) is not None for row in rows):
        verdicts = [("", "all outputs"), ("wrong", "only failures"), ("right", "only right ones")]
        fields.append(_select("verdict", "Verdict", verdicts, number))
    orders = [("failures", "failures first"), ("order", "the suite's order")]
    orders += [(f"score-{i}", f"lowest {name.replace('_', ' ')}") for i, name in enumerate(_scores(rows))]
    fields.append(_select("sort", "Order", orders, number))
    fields.append(
        f'<label for="search-{number}">Prompt or reason <input id="search-{number}" name=search type=search></label>'
    )
    return f"<form class=controls hidden>{''.join(fields)}</form>"


def _select(name: str, label: str, choices: Sequence[tuple[str, str]], number: int) -> str:
    options = "".join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in choices)
    return f'<label for="{name}-{number}">{label} <select id="{name}-{number}" name={name}>{options}</select></label>'
