"""Curves of a page: how a model trained, and what guidance does to a score."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from crossflow_eval import records
from crossflow_eval.report.entry import Entry
from crossflow_eval.report.grid import Grid
from crossflow_eval.report.plot import INK, SERIES, plain, quiet, svg_of

SIZE = (6.0, 3.2)
"""Inches, without the legend."""
POINTS = 400
"""The most points of a curve; of a longer log each is the mean of several lines."""
SCALE = "guidance_scale"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line of a figure: places, values and, where they have some, the intervals of these."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    reach: Sequence[tuple[float, float]] = ()


def figure(curves: Sequence[Curve], x: str, y: str, salt: str, scale: str = "linear") -> str:
    """The curves over axes called ``x`` and ``y``, that of ``scale`` "linear" or "log", as SVG; see ``svg_of``."""

    def drawn(figure: Figure) -> None:
        axes = figure.add_subplot()
        for number, curve in enumerate(curves):
            color, dashed = SERIES[number % len(SERIES)], number >= len(SERIES)
            if curve.reach:
                low_high = np.abs(np.array(curve.reach).T - np.array(curve.y))
                axes.errorbar(curve.x, curve.y, yerr=low_high, color=color, fmt="none", elinewidth=1, capsize=2)
            marker = "o" if len(curve.x) < 20 else None
            style = "dashed" if dashed else "solid"
            axes.plot(
                curve.x, curve.y, color=color, label=plain(curve.label), marker=marker, markersize=4, linestyle=style
            )
        axes.set_yscale(scale)
        axes.set_xlabel(plain(x), color=INK)
        axes.set_ylabel(plain(y), color=INK)
        quiet(axes)
        place = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "ncols": columns}
        axes.legend(frameon=False, labelcolor=INK, fontsize=8, **place)

    longest = max(len(curve.label) for curve in curves)
    columns = 3 if longest < 24 else 2 if longest < 40 else 1
    return svg_of(drawn, (SIZE[0], SIZE[1] + 0.2 * math.ceil(len(curves) / columns)), salt)


def training(folder: Path, label: str = "") -> list[Curve]:
    """Every loss of the training in ``folder`` by its steps, after the ``label``; those that are never above 0 are left
    out, for the axis is logarithmic. CrossFlowError for a log that cannot be read."""
    losses = records.read_losses(folder)
    return [
        _thinned(f"{label}, {name}" if label else name, values)
        for name, values in losses.items()
        if name != "learning_rate" and any(value > 0 for value in values.values())
    ]


def _thinned(label: str, values: Mapping[int, float]) -> Curve:
    steps, heights = np.array(list(values), float), np.array(list(values.values()))
    parts = min(len(steps), POINTS)
    places, means = ([float(part.mean()) for part in np.array_split(of, parts)] for of in (steps, heights))
    return Curve(label=label, x=places, y=means)


def trainings(entries: Sequence[Entry]) -> list[Curve]:
    """The flow loss of the trainings whose folders hold the runs, once each."""
    found: dict[Path, str] = {}
    for entry in entries:
        around = None if entry.folder is None else records.home_of(entry.folder).absolute().parent
        if around is not None and (around / records.LOG).is_file():
            found.setdefault(around, entry.title)
    curves = [(title, records.read_losses(folder).get("flow")) for folder, title in found.items()]
    return [_thinned(title, flow) for title, flow in curves if flow]


def sweep(grid: Grid) -> tuple[str, list[Curve]]:
    """Heading and values of the grid's first score with a direction, where models differ in guidance alone."""
    for column, heading in enumerate(grid.headings):
        if grid.higher_is_better(column) is None:
            continue
        found: dict[str, dict[float, tuple[float, tuple[float, float] | None]]] = {}
        labels: dict[str, str] = {}
        for line in grid.models:
            cell = line.cells[column]
            if cell.entry is None or cell.value is None:
                continue
            settings = cell.entry.result.settings
            scale = settings.identity.get(SCALE)
            if isinstance(scale, int | float):
                others = {name: value for name, value in settings.identity.items() if name != SCALE}
                key = json.dumps([settings.model, settings.seed, others], sort_keys=True)
                low, high = cell.value.ci_low, cell.value.ci_high
                reach = None if low is None or high is None else (low, high)
                found.setdefault(key, {})[float(scale)] = (cell.value.mean, reach)
                labels[key] = cell.entry.title
        curves = [_swept(labels[key], values) for key, values in found.items() if len(values) > 1]
        return (heading, curves) if curves else ("", [])
    return "", []


def _swept(label: str, values: Mapping[float, tuple[float, tuple[float, float] | None]]) -> Curve:
    ordered = dict(sorted(values.items()))
    reaches = [reach for _, reach in ordered.values() if reach is not None]
    means = [mean for mean, _ in ordered.values()]
    return Curve(label=label, x=list(ordered), y=means, reach=reaches if len(reaches) == len(means) else ())
