"""The outputs of a run as plain data, which the page's script shows: pictures, prompt, verdict, reason, scores."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from crossflow_eval.outputs import KINDS
from crossflow_eval.records import OUTPUTS, home_of
from crossflow_eval.report.entry import Entry
from crossflow_eval.report.pictures import Pictures, address, scale
from crossflow_eval.types import Row

CARDS = 10_000
PICTURES = 14_000_000
"""How many outputs a page may show, and how many bytes their pictures may take."""
ADDRESS = ("id", "index", "output", "prompt", "task", "correct", "reason", "detections")
Choices = list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The outputs of one run: ``data`` for the script, and by what they can be chosen and sorted (value, label)."""

    data: Mapping[str, Any]
    tasks: Choices
    judged: bool
    orders: Choices
    shown: int
    of: int
    metres: tuple[float, float, str] | None


def samples(entries: Sequence[Entry], named: Sequence[str], beside: Path | None) -> tuple[list[Samples], list[str]]:
    """The outputs of each of the ``entries``, the first of its suite where they are many, and all their pictures.

    Of a run's scores those come first that are ``named``, in that order. Originals are linked from a page in the folder
    ``beside``.
    """
    most = CARDS // max(len(entries), 1)
    counts = [min(len(entry.rows), most) for entry in entries]
    parts = [len(_pictures(entry, entry.rows[0])) if entry.rows else 0 for entry in entries]
    kept = Pictures(PICTURES, sum(count * part for count, part in zip(counts, parts, strict=True)))
    found = [_samples(entry, count, named, beside, kept) for entry, count in zip(entries, counts, strict=True)]
    return found, kept.addresses


def _samples(entry: Entry, count: int, named: Sequence[str], beside: Path | None, kept: Pictures) -> Samples:
    scores = _scores(entry.rows) if entry.rows else []
    scores = sorted(scores, key=lambda name: named.index(name) if name in named else len(named))
    better = entry.result.higher_is_better
    tasks = list(dict.fromkeys(str(row["task"]) for row in entry.rows if row.get("task")))
    judged = any(isinstance(row.get("correct"), bool) for row in entry.rows)
    orders = [("failures", "failures first")] if judged else []
    orders.append(("order", "the suite's order"))
    for place, name in enumerate(scores):
        end = "highest" if better.get(name) is False else "lowest"
        orders.append((f"score-{place}", f"{end} {words(name)}"))
    link = None
    if beside is not None and entry.folder is not None:
        link = quote(Path(os.path.relpath(home_of(entry.folder) / OUTPUTS, beside)).as_posix())
    data = {
        "title": entry.title,
        "scores": [words(name) for name in scores],
        "falling": [better.get(name) is False for name in scores],
        "outputs": [_output(entry, row, scores, link, kept) for row in entry.rows[:count]],
    }
    return Samples(
        data=data,
        tasks=[(task, words(task)) for task in tasks],
        judged=judged,
        orders=orders,
        shown=count,
        of=len(entry.rows),
        metres=_metres(entry),
    )


def words(name: object) -> str:
    """The name of a score, a task or a thing as it is read."""
    return " ".join(str(name).replace("_", " ").split())


def _metres(entry: Entry) -> tuple[float, float, str] | None:
    """What the colours of depth mean, where outputs are maps of it that are shown: both ends, the picture between."""
    kind = KINDS.get(str(entry.rows[0].get("output")).rpartition(".")[2]) if entry.rows else None
    if kind is None or kind.metres is None or not entry.picture(entry.rows[0]):
        return None
    return (*kind.metres, address(scale(kind.metres)))


def _scores(rows: Sequence[Row]) -> list[str]:
    """The columns that hold a number in every row."""
    return [
        name
        for name in rows[0]
        if name not in ADDRESS
        and all(isinstance(row.get(name), (int, float)) and not isinstance(row[name], bool) for row in rows)
    ]


def _pictures(entry: Entry, row: Row) -> dict[str, bytes]:
    shown = {"output": entry.picture(row), **entry.beside(row)}
    return {name: shown[name] for name in ("source", "output", "target") if shown.get(name) is not None}  # pyright: ignore[reportReturnType]


def _output(entry: Entry, row: Row, scores: Sequence[str], link: str | None, kept: Pictures) -> dict[str, Any]:
    """What is known of one output; what there is nothing of is left out."""
    correct, found = row.get("correct"), row.get("detections")
    known: dict[str, Any] = {
        "id": str(row["id"]) if "id" in row else "",
        "index": row.get("index", 0),
        "prompt": str(row.get("prompt", row.get("id", ""))),
        "text": str(row["caption"]) if "caption" in row else None,
        "targets": list(entry.texts.get(str(row.get("id")), ())),
        "task": words(row["task"]) if row.get("task") else None,
        "reason": str(row["reason"]) if row.get("reason") else None,
        "scores": [float(f"{row[name]:.6g}") for name in scores],
        "pictures": {name: kept.add(content) for name, content in _pictures(entry, row).items()},
        "seen": [_name(each) for each in found] if isinstance(found, list) else None,
        "size": row.get("size"),
        "boxes": [each["box"] for each in found] if isinstance(found, list) and row.get("size") else None,
        "link": f"{link}/{quote(row['output'])}" if link is not None and "output" in row else None,
    }
    known = {name: value for name, value in known.items() if value is not None and value != []}
    return known | ({"correct": correct} if isinstance(correct, bool) else {})


def _name(found: Mapping[str, Any]) -> str:
    return words(" ".join(str(found.get(key) or "") for key in ("color", "label")))
