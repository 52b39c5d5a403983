"""What the goals of the embedded world would take: ``python -m benchmarks.scenes_budget``.

Reads the record of Figure 3, in which each training is measured at four shares of its steps, and the log of the search.
For each method and width a line through score and logarithm of steps, one a seed, says what a doubling of the steps
adds, and where the line meets a goal; the search's recipes show how far such a line carries. Nothing is trained or
sampled. Writes results/scenes/budget.md and budget.svg.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import BaseModel, TypeAdapter, ValidationError

from benchmarks.results_page import Record, Row, pipe_table, read_record
from crossflow.errors import CrossFlowError, one_sentence
from crossflow.files.writing import write_whole
from crossflow_eval.report.plot import INK, MUTED, SERIES, quiet, standalone, svg_of
from crossflow_eval.stats import student_mean
from crossflow_eval.types import Value

FIGURE3 = Path("results/figure3/results.json")
SEARCH = Path("results/scenes/search.json")
PAGE = Path("results/scenes/budget.md")
COMMAND = "python -m benchmarks.scenes_budget"
GOALS = {"geneval": 0.85, "geneval/color_attr": 0.65, "geneval/position": 0.60}
"""Scores that a recipe of the embedded world is to reach, of 1,000 test prompts."""
CALLED = {"geneval": "mean of six tasks", "geneval/color_attr": "color attribution", "geneval/position": "position"}
MOST = 10**6
"""Steps beyond which a line says nothing."""
RECIPES = ("modulated", "binding", "layout")
"""Trials of the search that became the recipes scenes-t2i-short and, one after the other, scenes-t2i."""


class Trial(BaseModel):
    """What the log of the search has of a trial; ``scores`` by guidance scale and task, on validation."""

    steps: int
    parameters: int = 0
    cpu_minutes: float = 0.0
    scores: dict[str, dict[str, float]] = {}


@dataclass(frozen=True)
class Line:
    """A score of one method and width by steps: ``scores`` [seeds points] at ``steps`` [points], n examples each."""

    label: str
    parameters: int
    steps: tuple[int, ...]
    scores: np.ndarray
    n: int

    @property
    def means(self) -> np.ndarray:
        """Over the seeds, at each number of steps."""
        return self.scores.mean(axis=0)

    @property
    def doubling(self) -> Value:
        """What a doubling of the steps adds: the mean of the seeds' slopes, with its Student t interval."""
        return student_mean(np.polyfit(np.log2(self.steps), self.scores.T, 1)[0], n=self.n)

    def at(self, steps: float) -> float:
        """The mean line at a number of steps."""
        slope, start = np.polyfit(np.log2(self.steps), self.means, 1)
        return float(start + slope * math.log2(steps))

    def reaches(self, goal: float) -> float | None:
        """The steps at which the line meets the goal; None where its slope may be zero."""
        low = self.doubling.ci_low
        if low is None or low <= 0:
            return None
        slope, start = np.polyfit(np.log2(self.steps), self.means, 1)
        return float(2 ** ((goal - start) / slope))


def lines(record: Record, score: str) -> list[Line]:
    """A line for each row that was measured at several shares of its steps, in the record's order."""
    found: dict[str, list[Row]] = {}
    for name, row in record.parts[0].rows.items():
        found.setdefault(name.partition("@")[0], []).append(row)
    return [_line(rows, score) for rows in found.values() if len(rows) > 1]


def _line(rows: Sequence[Row], score: str) -> Line:
    ordered = sorted(rows, key=lambda row: row.seeds[0].training.steps)
    seeds = [each.seed for each in ordered[0].seeds]
    if any([each.seed for each in row.seeds] != seeds for row in ordered):
        raise CrossFlowError(f"{FIGURE3} has other seeds at some steps of {ordered[0].label}: make it whole first.")
    return Line(
        label=ordered[0].label.rpartition(",")[0],
        parameters=ordered[0].seeds[0].training.all_parameters,
        steps=tuple(row.seeds[0].training.steps for row in ordered),
        scores=np.array([[each.test.values[score].mean for each in row.seeds] for row in ordered]).T,
        n=ordered[0].seeds[0].test.n,
    )


def drawn(of: Sequence[Line], trials: Mapping[str, Trial], goal: float) -> bytes:
    """The lines, each with its straight continuation up to the goal, and the search's recipes, as SVG."""

    def draw(figure: Figure) -> None:
        axes: Axes = figure.add_subplot()
        last = max([2.0 * trial.steps for trial in trials.values()] + [2.0 * each.steps[-1] for each in of])
        for color, each in zip(SERIES, of, strict=False):
            axes.plot(each.steps, each.means, color=color, marker="o", markersize=4, label=each.label)
            beyond = np.geomspace(each.steps[-1], last, 20)
            ahead = [min(each.at(steps), 1.0) for steps in beyond]
            axes.plot(beyond, ahead, color=color, linestyle="dotted", linewidth=1)
        for marker, (name, trial) in zip("D^sv", trials.items(), strict=False):
            label = f"search: {name}"
            axes.plot(trial.steps, best(trial), color=INK, marker=marker, linestyle="none", label=label)
        axes.axhline(goal, color=MUTED, linestyle="dashed", linewidth=1)
        axes.annotate("the goal", (of[0].steps[0], goal), xytext=(0, 3), textcoords="offset points", color=MUTED)
        axes.set(xscale="log", ylim=(0, 1))
        axes.set_xlabel("training steps", color=INK)
        axes.set_ylabel("GenEval, mean of six tasks", color=INK)
        quiet(axes)
        axes.legend(frameon=False, labelcolor=INK, fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3)

    return standalone(svg_of(draw, (6.0, 4.0), "budget"))


def best(trial: Trial) -> float:
    """The mean of a trial's six tasks on validation, at its best guidance scale."""
    return max(scores["mean"] for scores in trial.scores.values())


def report(record: Record, trials: Mapping[str, Trial]) -> str:
    """The Markdown page."""
    means = lines(record, "geneval")
    seeds, n = len(means[0].scores), means[0].n
    parts = [
        "# What the goals of the embedded world would take",
        f"`{COMMAND}`, of the record of Figure 3 (`{record.command}`, {seeds} seeds a training, n = {n:,} test "
        f"prompts a score, {record.hardware}) and of the log of [the search](search.md). Trainings of Figure 3 have a "
        "constant learning rate and averaged weights, so that checkpoints on the way serve for shorter trainings. A "
        "line is fitted to score and logarithm of steps, one a seed; brackets are Student t over seeds. Where the line "
        "meets a goal far outside of what was measured, it is a guess: scores bend before they end.",
        "![Scores by steps, with their straight continuations](budget.svg)",
    ]
    for score, goal in GOALS.items():
        of = lines(record, score)
        head = ("", "parameters", *(f"{steps:,} steps" for steps in of[0].steps), "a doubling adds", f"meets {goal} at")
        rows = [
            (
                each.label,
                f"{each.parameters / 1e6:.2f} M",
                *(f"{value:.3f}" for value in each.means),
                _slope(each.doubling),
                _meets(each, goal),
            )
            for each in of
        ]
        parts += [f"## {CALLED[score]}: the goal is {goal}", pipe_table(head, rows)]
    parts += [
        "## How far a line carries",
        "The recipes that the search found, of one seed, by the best guidance scale on validation, beside what the "
        "lines above say at their steps. `modulated` is CrossFlow of width 128 with a rate that decays; `binding` has "
        "besides full captions in half of its examples, hard negatives, whitened tokens and strong positions; `layout` "
        "compares source and image place by place.",
        pipe_table(
            ("trial", "steps", "CPU minutes", "measured", *(f"line: {each.label}" for each in means)),
            [
                (
                    name,
                    f"{trial.steps:,}",
                    f"{trial.cpu_minutes:.0f}",
                    f"{best(trial):.3f}",
                    *(f"{each.at(trial.steps):.3f}" for each in means),
                )
                for name, trial in trials.items()
            ],
        ),
        _between(trials),
    ]
    return "\n\n".join(parts) + "\n"


def _between(trials: Mapping[str, Trial]) -> str:
    """What the recipes of the search say by themselves: the shortest and the best of the others."""
    name = max(RECIPES[1:], key=lambda each: best(trials[each]))
    first, last = trials[RECIPES[0]], trials[name]
    slope = (best(last) - best(first)) / math.log2(last.steps / first.steps)
    added = (
        f"From `{RECIPES[0]}` to `{name}` a doubling of the steps has added {slope:.3f}, changes of the recipe "
        "included."
    )
    doublings = (GOALS["geneval"] - best(last)) / slope
    if doublings <= 0:
        return f"{added} The goal of {GOALS['geneval']} is reached there, on validation."
    return (
        f"{added} At that pace {GOALS['geneval']} is {doublings:.1f} doublings away: "
        f"{last.steps * 2**doublings:,.0f} steps, {last.cpu_minutes * 2**doublings:.0f} CPU minutes where "
        f"{last.cpu_minutes:.0f} were spent."
    )


def _slope(value: Value) -> str:
    between = "" if value.ci_low is None else f" [{value.ci_low:+.3f}, {value.ci_high:+.3f}]"
    return f"{value.mean:+.3f}{between}"


def _meets(line: Line, goal: float) -> str:
    steps = line.reaches(goal)
    if steps is None:
        return "no rise that is sure"
    return f"{steps:,.0f} steps" if steps < MOST else f"more than {MOST:,} steps"


def main(
    out: Annotated[Path, typer.Option(help="The page; its figure lies beside it.")] = PAGE,
) -> None:
    """Fit the lines, and write the page and its figure."""
    with one_sentence():
        try:
            record = read_record(FIGURE3)
            logged = TypeAdapter(dict[str, Trial]).validate_json(SEARCH.read_bytes())
        except (OSError, ValidationError) as error:
            raise CrossFlowError(f"{SEARCH} cannot be read as the log of the search: {error}") from error
        trials = {name: logged[name] for name in RECIPES}
        write_whole(out.with_suffix(".svg"), drawn(lines(record, "geneval"), trials, GOALS["geneval"]))
        write_whole(out, report(record, trials).encode())
        typer.echo(out)


if __name__ == "__main__":
    typer.run(main)
