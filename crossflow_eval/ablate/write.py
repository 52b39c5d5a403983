"""The files of a finished ablation: ``table.md`` and ``table.csv`` to read, ``results.json`` with everything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crossflow.files.writing import write_whole
from crossflow_eval.ablate.measure import Measured
from crossflow_eval.ablate.plan import Plan
from crossflow_eval.environment import hardware
from crossflow_eval.report import Entry
from crossflow_eval.report.grid import Grid, build_grid
from crossflow_eval.report.text import markdown, tidy
from crossflow_eval.stats import STUDENT, student_mean
from crossflow_eval.tables import Column, Guidance
from crossflow_eval.types import Result, Role, Value

SCALE = Column(label="guidance scale, chosen on validation", value="guidance_scale", decimals=1)


def results_folder(plan: Plan) -> Path:
    """``results/<name>`` for the whole ablation; a part or a trial of it stays beside its runs."""
    return Path("results") / plan.ablation.name if plan.whole else plan.out / "results"


def write_table(plan: Plan, measured: Sequence[Measured], references: Mapping[Role, Result], folder: Path) -> str:
    """Write the three files into ``folder`` and return the text of ``table.md``.

    Raises CrossFlowError where runs of one column are not comparable, or ``folder`` cannot be written.
    """
    grids = (mean_grid(plan, measured, references), seed_grid(plan, measured, references))
    guidance = plan.ablation.guidance
    search = () if guidance is None else (_validation(guidance, measured),)
    text = "\n".join((*map(markdown, grids), *search, _provenance(plan, measured)))
    record = json.dumps(_record(plan, measured, references), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    for name, content in (("table.md", text), ("table.csv", tidy(grids)), ("results.json", record)):
        write_whole(folder / name, content.encode())
    return text


def mean_grid(plan: Plan, measured: Sequence[Measured], references: Mapping[Role, Result]) -> Grid:
    """The table itself: a row's values are means over its seeds, with Student t intervals."""
    entries = [Entry(result=mean_result(row, group)) for row, group in _rows(measured).items()]
    for role, result in references.items():
        alone = {name: Value(mean=value.mean, n=value.n) for name, value in result.values.items()}
        entries.append(Entry(result=_between_seeds(result, values=alone), role=role))
    how = "One training seed, so no intervals."
    if plan.seeds > 1:
        *others, last = (row.label for row in plan.table.rows if row.role != "model")
        how = (
            f"Means of {plan.seeds} training seeds, intervals by Student t with df {plan.seeds - 1}, unclipped. "
            f"{' and '.join(filter(None, (', '.join(others), last))).capitalize()} have none."
        )
    notes = " ".join((how, plan.table.notes))
    rows = tuple(row for row in plan.table.rows if row.role != "model" or set(row.models) & set(plan.rows))
    return build_grid(entries, plan.table.model_copy(update={"notes": notes, "rows": rows}))


def mean_result(row: str, group: Sequence[Measured]) -> Result:
    """The mean over the seeds of ``row`` as one result; what is not random between seeds stands beside it."""
    first = group[0].test
    values = {
        name: student_mean([each.test.values[name].mean for each in group], n=value.n)
        for name, value in first.values.items()
    }
    runs = {str(each.part.seed): each.test.settings.digest for each in group}
    settings = first.settings.model_copy(update={"model": row, "identity": {"recipe": group[0].part.recipe} | runs})
    return _between_seeds(first, settings=settings, values=values | _facts(group[0]))


def seed_grid(plan: Plan, measured: Sequence[Measured], references: Mapping[Role, Result]) -> Grid:
    """Every seed for itself, with the intervals of its run and the guidance scale it was given."""
    labels = {name: row.label for row in plan.table.rows for name in row.models}
    entries = [
        Entry(
            result=each.test.model_copy(
                update={"values": each.test.values | {"guidance_scale": Value(mean=each.scale, n=each.test.n)}}
            ),
            label=f"{labels.get(each.part.row, each.part.row)}, seed {each.part.seed}",
        )
        for each in measured
    ]
    entries += [Entry(result=result, role=role) for role, result in references.items()]
    had = {name for each in measured for name in each.test.values}
    chosen = () if plan.ablation.guidance is None else (SCALE,)
    update = {
        "title": "Each seed alone",
        "notes": "Intervals are those of one run over its outputs; what another training would change is not in them.",
        "source": "",
        "columns": (*chosen, *(column for column in plan.table.columns if column.value in had)),
        "rows": tuple(row for row in plan.table.rows if row.role != "model"),
    }
    return build_grid(entries, plan.table.model_copy(update=update))


def _rows(measured: Sequence[Measured]) -> dict[str, list[Measured]]:
    rows: dict[str, list[Measured]] = {}
    for each in measured:
        rows.setdefault(each.part.row, []).append(each)
    return rows


def _between_seeds(result: Result, **update: Any) -> Result:
    """The result with ``update``, its protocol saying that its intervals are between seeds."""
    protocol = {name: {**constants, "interval": STUDENT} for name, constants in result.protocol.items()}
    return result.model_copy(update={"protocol": protocol, **update})


def _facts(each: Measured) -> dict[str, Value]:
    training = each.training
    facts = {
        "parameters/backbone": training.backbone_parameters,
        "parameters/all": training.all_parameters,
        "training/steps": training.steps,
        "training/batch_size": training.batch_size,
    }
    return {name: Value(mean=number, n=each.test.n) for name, number in facts.items()}


def _validation(guidance: Guidance, measured: Sequence[Measured]) -> str:
    """The search for the guidance scale as a pipe table; the chosen one is bold."""
    head = ["guidance scale", *(f"{scale:g}" for scale in guidance.scales)]
    lines = [f"| {' | '.join(head)} |", f"| :--- |{' ---: |' * len(guidance.scales)}"]
    for each in measured:
        shown = [f"{each.validation[scale].values[guidance.choose].mean:.3f}" for scale in guidance.scales]
        marked = [
            f"**{text}**" if scale == each.scale else text for scale, text in zip(guidance.scales, shown, strict=True)
        ]
        lines.append(f"| {' | '.join([each.part.title, *marked])} |")
    title = (
        f"**The choice of guidance: {guidance.choose} of the first {guidance.limit} examples of "
        f"{guidance.validation}; the test suite was not looked at**"
    )
    return f"{title}\n\n" + "\n".join(lines) + "\n"


def _provenance(plan: Plan, measured: Sequence[Measured]) -> str:
    seconds = [
        f"{row} {', '.join('unknown' if s is None else f'{s:.0f}' for s in (each.cpu_seconds for each in group))}"
        for row, group in _rows(measured).items()
    ]
    of_run, precision = measured[0].test, "/".join(sorted({each.training.precision for each in measured}))
    identity = of_run.settings.identity
    lines = (
        f"Training: {precision}, one process of one thread each.",
        f"Sampling: {identity['solver']}, {identity['steps']} steps, {identity['precision']} on {identity['device']}.",
        f"CPU-seconds of training, seed by seed, data preparation included: {'; '.join(seconds)}.",
        f"Hardware: {hardware()}.",
        f"Commit: {of_run.environment.get('git_commit', 'unknown')[:12]}.",
        f"Command: `{plan.command}`",
    )
    return "\n".join(f"- {line}" for line in lines) + "\n"


def _record(plan: Plan, measured: Sequence[Measured], references: Mapping[Role, Result]) -> dict[str, Any]:
    """Everything as plain JSON: each seed's whole result, its validation curve and scale, and the rows' means."""
    guidance = plan.ablation.guidance
    return {
        "ablation": plan.ablation.model_dump(mode="json"),
        "command": plan.command,
        "hardware": hardware(),
        "interval": STUDENT,
        "rows": {
            row: {
                "recipe": group[0].part.recipe,
                "mean": mean_result(row, group).model_dump(mode="json")["values"],
                "seeds": [
                    {
                        "seed": each.part.seed,
                        "cpu_seconds": each.cpu_seconds,
                        "guidance_scale": each.scale,
                        "validation": {
                            f"{scale:g}": result.values[guidance.choose].model_dump()
                            for scale, result in each.validation.items()
                        }
                        if guidance
                        else {},
                        "test": each.test.model_dump(mode="json"),
                    }
                    for each in group
                ],
            }
            for row, group in _rows(measured).items()
        },
        "references": {role: result.model_dump(mode="json") for role, result in references.items()},
    }
