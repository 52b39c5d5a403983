"""The figure of a page: each task's accuracy with its interval, between the references."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from crossflow_eval.report.grid import Cell, Grid, Line

INK, MUTED, RULE = "#010101", "#020202", "#030303"
SERIES = ("#040404", "#050505", "#060606", "#070707", "#080808", "#090909", "#0a0a0a", "#0b0b0b")
MOST = 4
"""The most models whose tasks stand side by side."""
_VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule"} | {
    color: f"--series-{index}" for index, color in enumerate(SERIES, 1)
}
"""Colors that stand for the page's own, so that the figure follows light and dark."""
_LIGHT = {INK: "#1c1d1f", MUTED: "#5d6066", RULE: "#dedfdb"} | dict(
    zip(
        SERIES,
        ("#5b8fb0", "#c0803f", "#73914f", "#9a76ab", "#b0595b", "#4c9a8f", "#8a7a5c", "#6f7488"),
        strict=True,
    )
)
"""What the page has in the light."""


def task_figure(grid: Grid) -> str:
    """An inline SVG of all columns ``<metric>/<task>`` beside a column ``<metric>`` whose values lie in [0, 1], if any.

    The same grid gives the same bytes.
    """
    names = [column.value or "" for column in grid.table.columns]
    columns = [i for i, name in enumerate(names) if "/" in name and name.split("/")[0] in names]
    models = [line for line in grid.lines if line.role == "model" and line.entries][:MOST]
    columns = [i for i in columns if models and all(_is_share(line.cells[i]) for line in grid.lines)]
    columns = [i for i in columns if any(line.cells[i].value for line in models)]
    if not columns:
        return ""
    size = (4.8, 0.9 + len(columns) * (0.22 + 0.2 * len(models)))
    svg = svg_of(lambda figure: _draw(figure.add_subplot(), grid, models, columns), size, grid.table.name)
    return inline(svg, f"Accuracy by task for {', '.join(line.label for line in models)}")


def svg_of(draw: Callable[[Figure], None], size: tuple[float, float], salt: str) -> str:
    """A figure of ``size`` inches as SVG, in the colours that stand for a page's; the same data give the same bytes."""
    with rc_context({"svg.hashsalt": salt, "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def _is_share(cell: Cell) -> bool:
    return cell.value is None or 0.0 <= cell.value.mean <= 1.0


def _draw(axes: Axes, grid: Grid, models: Sequence[Line], columns: Sequence[int]) -> None:
    height = 0.8 / len(models)
    for index, (line, color) in enumerate(zip(models, SERIES, strict=False)):
        offset = (index - (len(models) - 1) / 2) * height
        drawn = False
        for row, column in enumerate(columns):
            value = line.cells[column].value
            if value is None:
                continue
            label = "_nolegend_" if drawn else plain(line.label)
            axes.barh(row + offset, value.mean, height * 0.86, color=color, label=label)
            drawn = True
            if value.ci_low is not None and value.ci_high is not None:
                reach = [[value.mean - value.ci_low], [value.ci_high - value.mean]]
                axes.errorbar(value.mean, row + offset, xerr=reach, color=INK, elinewidth=1.2, capsize=2.5)
    for line in grid.lines:
        if line.role != "model" and line.entries:
            _mark(axes, line, columns)
    axes.set(xlim=(-0.012, 1.02), ylim=(len(columns) - 0.45, -0.55), yticks=range(len(columns)))
    axes.set_yticklabels([plain(grid.table.columns[column].label) for column in columns])
    axes.set_xlabel("accuracy, with 95 % intervals", color=MUTED)
    axes.tick_params(colors=INK, length=0)
    axes.xaxis.grid(True, color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    bars_first = sorted(zip(handles, labels, strict=True), key=lambda each: isinstance(each[0], LineCollection))
    axes.legend(
        [handle for handle, _ in bars_first],
        [label for _, label in bars_first],
        loc="lower center",
        bbox_to_anchor=(0.4, 1.0),
        ncols=3 if len(bars_first) <= 3 else 2,
        frameon=False,
        labelcolor=INK,
        handlelength=1.4,
    )


def _mark(axes: Axes, line: Line, columns: Sequence[int]) -> None:
    """A tick across each task's bars: solid at the ceiling, dotted at the reference below."""
    rows = [(row, value.mean) for row, column in enumerate(columns) if (value := line.cells[column].value) is not None]
    places = [mean for _, mean in rows]
    low, high = ([row + end for row, _ in rows] for end in (-0.44, 0.44))
    style = "solid" if line.role == "ceiling" else "dotted"
    axes.vlines(places, low, high, colors=INK, linestyles=style, linewidth=1.6, label=plain(line.label))


def plain(text: str) -> str:
    """Text that matplotlib takes as it is: a dollar sign would begin mathematics."""
    return text.replace("$", r"\$")


def inline(svg: str, description: str) -> str:
    """The <svg> element alone, named for screen readers, in the page's colors and without a size of its own."""
    svg = svg[svg.index("<svg") :]
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    head, body = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    label = html.escape(description)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    return f'<svg {box.group() if box else ""} role="img" aria-label="{label}">{body}'


def standalone(svg: str) -> bytes:
    """The SVG as a file of its own, in the colours of a light page on white."""
    for color, shown in _LIGHT.items():
        svg = svg.replace(color, shown)
    head, body = svg.split("<svg", 1)
    start, rest = body.split(">", 1)
    return f'{head}<svg{start}><rect width="100%" height="100%" fill="#ffffff"/>{rest}'.encode()


def quiet(axes: Axes) -> None:
    """Axes without a frame: a grid behind what is drawn, and numbers."""
    axes.tick_params(colors=INK, length=0)
    axes.grid(True, color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
