"""The outputs of a run as plain data, which the page's script shows: pictures, prompt, verdict, reason, scores."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import quote

from crossflow_eval.outputs import find_kind
from crossflow_eval.records import OUTPUTS, home_of
from crossflow_eval.report.entry import PLAYED, Entry, each_output, kind_of_part
from crossflow_eval.report.pictures import Pictures, address, scale
from crossflow_eval.types import Row

CARDS = 10_000
PICTURES = 14_000_000
MOVING = 2_000_000
"""How many outputs a page may show, how many bytes their pictures may take, and how many sounds and films beside."""
ADDRESS = ("id", "index", "output", "outputs", "prompt", "task", "correct", "reason", "detections")
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
    legend: str


@runtime_checkable
class Album(Protocol):
    """Where a page finds the pictures of outputs: among its ``addresses``."""

    addresses: list[str]

    def places(self, entry: Entry, row: Row) -> dict[str, int]:
        """The places of a row's pictures, by what they are: ``source``, ``output``, ``target``, ``sound``, ``film``."""
        ...

    def original(self, entry: Entry, row: Row) -> str | None:
        """The address of the output's own file; None where there is none."""
        ...


class Inside:
    """Pictures inside the page, small enough for ``count`` of them; originals beside it, if it lies in a folder."""

    def __init__(self, count: int, beside: Path | None) -> None:
        self._kept = Pictures(PICTURES, count, MOVING)
        self._beside = beside
        self._links: dict[Path, str] = {}
        self.addresses = self._kept.addresses

    def places(self, entry: Entry, row: Row) -> dict[str, int]:
        places = {part: self._kept.add(content) for part, content in entry.pictures(row).items()}
        return places | self._kept.add_played(lambda: entry.played(row))

    def original(self, entry: Entry, row: Row) -> str | None:
        if self._beside is None or entry.folder is None or "output" not in row:
            return None
        if entry.folder not in self._links:
            outputs = os.path.relpath(home_of(entry.folder) / OUTPUTS, self._beside)
            self._links[entry.folder] = quote(Path(outputs).as_posix())
        return f"{self._links[entry.folder]}/{quote(row['output'])}"


def samples(
    entries: Sequence[Entry], named: Sequence[str], beside: Path | None, album: Album | None = None
) -> tuple[list[Samples], list[str]]:
    """The outputs of each of the ``entries``, the first of its suite where they are many, and all their pictures.

    Of a run's scores those come first that are ``named``, in that order. Pictures are in the page, and originals linked
    where it is to lie in the folder ``beside``; or both are where the ``album`` has them.
    """
    most = CARDS // max(len(entries), 1)
    counts = [min(len(entry.rows), most) for entry in entries]
    if album is None:
        parts = [len(entry.pictures(entry.rows[0])) if entry.rows else 0 for entry in entries]
        album = Inside(sum(count * part for count, part in zip(counts, parts, strict=True)), beside)
    found = [_samples(entry, count, named, album) for entry, count in zip(entries, counts, strict=True)]
    return found, album.addresses


def _samples(entry: Entry, count: int, named: Sequence[str], album: Album) -> Samples:
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
    data = {
        "title": entry.title,
        "scores": [words(name) for name in scores],
        "falling": [better.get(name) is False for name in scores],
        "outputs": [_output(entry, row, scores, album) for row in entry.rows[:count]],
    }
    return Samples(
        data=data,
        tasks=[(task, words(task)) for task in tasks],
        judged=judged,
        orders=orders,
        shown=count,
        of=len(entry.rows),
        metres=_metres(entry),
        legend=_legend(entry, data["outputs"]),
    )


def words(name: object) -> str:
    """The name of a score, a task or a thing as it is read."""
    return " ".join(str(name).replace("_", " ").split())


def _metres(entry: Entry) -> tuple[float, float, str] | None:
    """What the colours of depth mean, where outputs are maps of it that are shown: both ends, the picture between."""
    kind = find_kind(str(entry.rows[0].get("output"))) if entry.rows else None
    if kind is None or kind.metres is None or not entry.picture(entry.rows[0]):
        return None
    return (*kind.metres, address(scale(kind.metres)))


def _legend(entry: Entry, outputs: Sequence[Mapping[str, Any]]) -> str:
    """How the pictures are read, and how many of the outputs can be played where not all can."""
    kind = find_kind(str(entry.rows[0].get("output"))) if entry.rows else None
    if kind is None or kind.play is None:
        return ""
    some = sum(any(kind_of_part(part) in PLAYED for part in each.get("pictures", {})) for each in outputs)
    return kind.legend + (f" The first {some:,} can be played here." if some < len(outputs) else "")


def _scores(rows: Sequence[Row]) -> list[str]:
    """The columns that hold a number in every row."""
    return [
        name
        for name in rows[0]
        if name not in ADDRESS
        and all(isinstance(row.get(name), (int, float)) and not isinstance(row[name], bool) for row in rows)
    ]


def _output(entry: Entry, row: Row, scores: Sequence[str], album: Album) -> dict[str, Any]:
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
        "pictures": album.places(entry, row),
        "seen": [_name(each) for each in found] if isinstance(found, list) else None,
        "size": row.get("size"),
        "boxes": [each["box"] for each in found] if isinstance(found, list) and row.get("size") else None,
        "several": True if "outputs" in row else None,
        "link": album.original(entry, row),
        "links": {
            name: link
            for name, each in each_output(row).items()
            if name and (link := album.original(entry, each)) is not None
        },
    }
    known = {name: value for name, value in known.items() if value is not None and value not in ([], {})}
    verdict = {"correct": correct} if isinstance(correct, bool) else {}
    return known | verdict | {"scores": [float(f"{row[name]:.6g}") for name in scores]}


def _name(found: Mapping[str, Any]) -> str:
    return words(" ".join(str(found.get(key) or "") for key in ("color", "label")))
