"""A plan in words: its trainings, the rows that share each, their steps, and how long they would take here."""

from __future__ import annotations

from collections.abc import Sequence

from crossflow_eval.ablate.jobs import Job
from crossflow_eval.ablate.plan import Plan, Training
from crossflow_eval.models.crossflow import seconds_a_step
from crossflow_eval.report.text import DASH, pipes


def described(plan: Plan, jobs: Sequence[Job]) -> str:
    """Markdown: a line a training, then the totals. A step is measured where its data are drawn, on one thread."""
    done = {job.name for job in jobs if job.done()}
    seconds = {name: seconds_a_step(name) for name in dict.fromkeys(training.recipe for training in plan.trainings)}
    rows = [["training", "rows", "steps", "minutes", "state"]]
    total: float | None = 0.0
    for training in plan.trainings:
        left = f"train-{training.digest}" not in done
        each = seconds[training.recipe]
        minutes = None if each is None else each * training.steps / 60
        if left:
            total = None if total is None or minutes is None else total + minutes
        shown = DASH if minutes is None else f"{minutes:.1f}"
        state = "to do" if left else "done"
        rows.append([training.title, ", ".join(_rows(plan, training)), f"{training.steps:,}", shown, state])
    measuring = sum(job.steps == 0 and job.name not in done for job in jobs)
    todo = sum(job.steps > 0 and job.name not in done for job in jobs)
    time = (
        "no time is estimated, for the data are a folder's"
        if total is None
        else f"about {total:.0f} minutes of one core"
    )
    return (
        f"{plan.scale.title}\n\n{pipes(rows)}\n{todo} of {len(plan.trainings)} trainings to do, {time}, and "
        f"{measuring} other jobs; runs in {plan.out}."
    )


def _rows(plan: Plan, training: Training) -> list[str]:
    """The rows that a training is of, each with its table."""
    found = [
        f"{table.ablation.name} {part.line.row.name}"
        for table in plan.tables
        for part in table.parts
        if any(training in (each, *each.before) for each in part.measurement.trainings)
    ]
    return list(dict.fromkeys(found)) or ["none"]
