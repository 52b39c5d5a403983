"""The files of a finished ablation, which are made of its records alone: the same records give the same bytes.

::

    table.md, table.csv, table.tex, table.html   the tables with their verdicts, the search on validation, every seed
    results.json                                 everything as plain JSON
    *.svg, samples.png                           the figures of the page
    timing.md                                    CPU time of every training, which no other file holds
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossflow.errors import CrossFlowError
from crossflow.files.writing import write_whole
from crossflow_eval.ablate import figures
from crossflow_eval.ablate.jobs import cpu_seconds, failures, jobs_of
from crossflow_eval.ablate.measure import Measured, measured, references
from crossflow_eval.ablate.plan import Part, Plan, Table
from crossflow_eval.ablate.verdict import METHOD, Compared, Verdict, verdicts
from crossflow_eval.environment import hardware
from crossflow_eval.report import Entry
from crossflow_eval.report.grid import Grid, build_grid, plain_table
from crossflow_eval.report.page import Section, page
from crossflow_eval.report.text import DASH, latex, markdown, markdown_text, pipes, tidy
from crossflow_eval.stats import STUDENT, student_mean
from crossflow_eval.tables import Column, TableRow, table_of_suite
from crossflow_eval.tables import Table as Layout
from crossflow_eval.tables.published import Published, published
from crossflow_eval.types import Result, Role, Value

SCALE = Column(label="guidance scale, chosen on validation", value="guidance_scale", decimals=1)
FACTS = (
    Column(label="parameters, backbone", value="parameters/backbone", decimals=0),
    Column(label="parameters, all", value="parameters/all", decimals=0),
    Column(label="training steps", value="training/steps", decimals=0),
    Column(label="batch size", value="training/batch_size", decimals=0),
)
"""What a training was: the parameters that sampling needs, and what it was given."""


@dataclass(frozen=True)
class Found:
    """A table with what was measured of it: records by line and seed, and why lines have none."""

    table: Table
    records: Mapping[str, tuple[tuple[Part, Measured], ...]]
    failed: Mapping[str, str]
    beside: Mapping[Role, Result]
    verdicts: tuple[Verdict, ...]


def results_folder(plan: Plan) -> Path:
    """``results/<name>`` for the whole ablation; a part or a trial of it stays beside its runs."""
    whole = not plan.given and plan.scale.name != "smoke"
    return Path("results") / plan.name if whole else plan.out / "results" / plan.name


def collect(plan: Plan) -> list[Found]:
    """What there is of every table. A line is in it whole, with every seed, or it is said why it is not."""
    why = failures(jobs_of(plan), plan.out)
    found: list[Found] = []
    for table in plan.tables:
        records: dict[str, tuple[tuple[Part, Measured], ...]] = {}
        failed: dict[str, str] = {}
        for line in table.lines:
            parts = [part for part in table.parts if part.line == line]
            had = [(part, measured(plan.out, part.measurement)) for part in parts]
            if missing := [part for part, record in had if record is None]:
                reason = why.get(f"measure-{missing[0].measurement.digest}", "it was not run")
                failed[line.name] = f"seed {missing[0].seed}: {reason}"
            else:
                records[line.name] = tuple((part, record) for part, record in had if record is not None)
        beside = references(plan, table.task.test, table.task.limit) or {}
        found.append(Found(table, records, failed, beside, tuple(_verdicts(table, plan.scale.name, records))))
    return found


def write(plan: Plan, found: Sequence[Found], folder: Path) -> str:
    """Write all files into ``folder`` and return the text of ``table.md``.

    Raises CrossFlowError where nothing was measured, where runs of one column are not comparable, and where ``folder``
    cannot be written.
    """
    if not any(each.records for each in found):
        reasons = [reason for each in found for reason in each.failed.values()]
        raise CrossFlowError(f"No row was measured: {reasons[0] if reasons else 'there is none'}; run it again.")
    shown = [each for each in found if each.records]
    means, alone = [mean_grid(plan, each) for each in shown], [seed_grid(each) for each in shown]
    texts: list[str] = []
    for each, mean, seeds in zip(shown, means, alone, strict=True):
        reached = _reached(each, plan.scale.name)
        texts += [markdown(mean), _failed(each), _verdict_table(each), reached, _search(each), markdown(seeds)]
    text = "\n".join(filter(None, (*texts, _provenance(plan, shown))))
    drawn = figures.draw(plan, shown)
    record = json.dumps(_record(plan, found), indent=2, ensure_ascii=False, allow_nan=False)
    files: dict[str, bytes] = {
        "table.md": text.encode(),
        "table.csv": tidy([*means, *alone]).encode(),
        "table.tex": "\n".join(map(latex, means)).encode(),
        "table.html": page(means, (), sections=_sections(shown, drawn)).encode(),
        "results.json": f"{record}\n".encode(),
        "timing.md": _timing(plan).encode(),
        **{name: content for name, content in drawn.files.items()},
    }
    for name, content in files.items():
        write_whole(folder / name, content)
    return text


def mean_grid(plan: Plan, found: Found) -> Grid:
    """The table itself: a row's values are means over its seeds, with Student t intervals."""
    entries = [
        Entry(result=mean_result(name, [record for _, record in group])) for name, group in found.records.items()
    ]
    for role, result in found.beside.items():
        alone = {name: Value(mean=value.mean, n=value.n) for name, value in result.values.items()}
        entries.append(Entry(result=_between_seeds(result, values=alone), role=role))
    fewest, most = (of(len(group) for group in found.records.values()) for of in (min, max))
    how = "One training seed, so no intervals."
    if most > 1:
        how = f"Means of {most} training seeds, intervals by Student t with df {most - 1}, unclipped."
    if fewest < most:
        how = f"Means of {fewest} to {most} training seeds, intervals by Student t with df = seeds - 1, unclipped."
    ablation = found.table.ablation
    failed = [f"{line.label} failed" for line in found.table.lines if line.name in found.failed]
    notes = " ".join(filter(None, (f"{plan.scale.title}.", how, ablation.notes, _sentence(failed))))
    return build_grid(entries, _layout(found, ablation.title, notes, FACTS))


def mean_result(name: str, group: Sequence[Measured]) -> Result:
    """The mean over the seeds of a line as one result; what is not random between seeds stands beside it."""
    first = group[0].test
    values = {
        value: student_mean([each.test.values[value].mean for each in group], n=of.n)
        for value, of in first.values.items()
        if all(value in each.test.values for each in group)
    }
    runs = {str(seed): each.test.settings.digest for seed, each in enumerate(group)}
    settings = first.settings.model_copy(update={"model": name, "identity": {"seeds": runs}})
    return _between_seeds(first, settings=settings, values=values | _facts(group[0]))


def seed_grid(found: Found) -> Grid:
    """Every seed for itself, with the intervals of its run and the guidance scale it was given."""
    labels = {line.name: line.label for line in found.table.lines}
    entries = [
        Entry(
            result=record.test.model_copy(update={"values": record.test.values | _chosen(record)}),
            label=f"{labels[name]}, seed {part.seed}",
        )
        for name, group in found.records.items()
        for part, record in group
    ]
    entries += [Entry(result=result, role=role) for role, result in found.beside.items()]
    notes = "Intervals are those of one run over its outputs; what another training would change is not in them."
    guided = any(_chosen(record) for group in found.records.values() for _, record in group)
    layout = _layout(found, f"{found.table.ablation.title}: each seed alone", notes, (SCALE,) if guided else ())
    ours = tuple(column for column in layout.columns if column.published is None)
    beside = tuple(row for row in layout.rows if row.role != "model")
    return build_grid(entries, layout.model_copy(update={"columns": ours, "rows": beside, "source": ""}))


def _layout(found: Found, title: str, notes: str, own: Sequence[Column]) -> Layout:
    """Rows and columns: those of the suite's table, of what the paper published, and the ``own`` ones."""
    task, any_result = found.table.task, next(iter(found.records.values()))[0][1].test
    of_suite = table_of_suite(task.test) or plain_table([Entry(result=any_result)])
    had = {name for group in found.records.values() for _, record in group for name in record.test.values}
    columns = [column for column in task.columns or of_suite.columns if column.value in had]
    paper = _published_of(found.table)
    lines = [line for line in found.table.lines if line.name in found.records]
    rows = [
        TableRow(label=line.label, models=(line.name,), published=_values(paper, line.row.method)) for line in lines
    ]
    printed = [
        Column(label=column.name, published=column.name, decimals=_decimals(paper, column.name))
        for column in (paper.columns if paper else ())
        if any(column.name in row.published for row in rows)
    ]
    return Layout(
        name=found.table.ablation.name,
        title=title,
        source=paper.source if paper and printed else "",
        notes=notes,
        transpose=True,
        columns=(*columns, *printed, *own),
        rows=(*rows, *(row for row in of_suite.rows if row.role in found.beside)),
    )


def _decimals(paper: Published | None, column: str) -> int:
    """As many as the paper prints."""
    values = [row.values[column] for row in paper.rows] if paper else []
    return max((len(str(value).partition(".")[2]) for value in values if value is not None), default=0)


def _published_of(table: Table) -> Published | None:
    return None if table.ablation.paper is None else published(table.ablation.paper)


def _values(paper: Published | None, method: str | None) -> dict[str, float]:
    """The published values of a row of the paper."""
    if paper is None or method is None:
        return {}
    values = next((row.values for row in paper.rows if row.method == method), None)
    if values is None:
        raise CrossFlowError(f"The paper's table {paper.title!r} has no row {method!r}.")
    return {name: value for name, value in values.items() if value is not None}


def _between_seeds(result: Result, **update: Any) -> Result:
    """The result with ``update``, its protocol saying that its intervals are between seeds."""
    protocol = {name: {**constants, "interval": STUDENT} for name, constants in result.protocol.items()}
    return result.model_copy(update={"protocol": protocol, **update})


def _facts(record: Measured) -> dict[str, Value]:
    training = record.training
    facts = {
        "parameters/backbone": training.backbone_parameters,
        "parameters/all": training.all_parameters,
        "training/steps": training.steps,
        "training/batch_size": training.batch_size,
    }
    return {name: Value(mean=number, n=record.test.n) for name, number in facts.items()}


def _chosen(record: Measured) -> dict[str, Value]:
    scale = record.chosen.guidance_scale
    return {} if scale is None else {"guidance_scale": Value(mean=scale, n=record.test.n)}


def _verdicts(table: Table, scale: str, records: Mapping[str, tuple[tuple[Part, Measured], ...]]) -> list[Verdict]:
    """Every line that has a whole training, against the one that the table compares with."""
    ablation, by = table.ablation, table.task.choose
    of = ablation.main(scale)
    main = next((line for line in table.lines if line.row == of and line.at == 1), None)
    if main is None:
        return []
    paper = _published_of(table)
    column = next((each for each in paper.columns if each.name == ablation.published), None) if paper else None

    def scores(name: str) -> tuple[float, ...]:
        return tuple(record.test.values[by].mean for _, record in records.get(name, ()))

    def printed(method: str | None) -> float | None:
        return _values(paper, method).get(column.name) if column else None

    compared: list[Compared] = []
    for line in table.lines:
        if line != main and line.at == 1:
            pair = printed(line.row.method), printed(main.row.method)
            compared.append(
                Compared(
                    title=f"{line.label} against {main.label}",
                    ours=scores(line.name),
                    theirs=scores(main.name),
                    published=None if pair[0] is None or pair[1] is None else (pair[0], pair[1]),
                )
            )
    better = [record.test.higher_is_better[by] for group in records.values() for _, record in group]
    published_by = (column.name, column.better == "higher") if column and column.better else None
    return verdicts(ablation.name, by, compared, better[0] if better else True, published_by)


def _sentence(parts: Sequence[str]) -> str:
    return "; ".join(parts) + "." if parts else ""


def _failed(found: Found) -> str:
    """Lines that have no value, with the reason."""
    labels = {line.name: line.label for line in found.table.lines}
    said = (f"{labels[name]} failed, {reason.rstrip('.')}." for name, reason in found.failed.items())
    return "".join(f"- {markdown_text(each)}\n" for each in said)


def verdict_rows(found: Found) -> list[list[str]]:
    """The verdicts as text, heading first."""
    name = found.table.task.choose
    printed = next((each.published_value for each in found.verdicts if each.published_value), None)
    paper = f"in the paper ({printed})" if printed else "in the paper"
    rows = [["comparison", f"difference of {name}", "p", paper, "verdict", "seeds that would decide"]]
    for each in found.verdicts:
        interval = "" if each.ci_low is None else f" [{each.ci_low:+.3f}, {each.ci_high:+.3f}]"
        rows.append(
            [
                each.title,
                DASH if each.difference is None else f"{each.difference:+.3f}{interval}",
                DASH if each.p is None else f"{each.p:.3f}",
                DASH if each.published_difference is None else f"{each.published_difference:+.2f}",
                each.verdict,
                DASH if each.seeds_needed is None else str(each.seeds_needed),
            ]
        )
    return rows


def _verdict_table(found: Found) -> str:
    if not found.verdicts:
        return ""
    how, rows = f"{METHOD[0].upper()}{METHOD[1:]}", [list(map(markdown_text, row)) for row in verdict_rows(found)]
    return f"**Verdicts of {found.table.ablation.name}**\n\n{pipes(rows)}\n{how}\n"


def _reached(found: Found, scale: str) -> str:
    """After how many steps rows that are measured along their training are level with the one compared with."""
    of, by = found.table.ablation.main(scale), found.table.task.choose
    main = found.records.get(of.name, ()) if of else ()
    if not main:
        return ""
    higher, goal = main[0][1].test.higher_is_better[by], _mean([record for _, record in main], by)
    said: list[str] = []
    for row in dict.fromkeys(line.row for line in found.table.lines if line.at < 1):
        scores = {
            group[0][1].training.steps: _mean([record for _, record in group], by)
            for line in found.table.lines
            if line.row.recipes == row.recipes and (group := found.records.get(line.name))
        }
        level = [steps for steps, score in sorted(scores.items()) if (score >= goal) == higher or score == goal]
        along = ", ".join(f"{score:.3f} after {steps:,}" for steps, score in sorted(scores.items()))
        first = f"first after {level[0]:,} steps" if level else "after none of these steps"
        level_with = markdown_text(f"{row.label} is level with {main[0][0].line.label}")
        said.append(
            f"- {level_with} ({by} {goal:.3f} after "
            f"{main[0][1].training.steps:,} steps) {first}: {along}. Means over seeds, without an interval.\n"
        )
    return "".join(said)


def _mean(group: Sequence[Measured], value: str) -> float:
    return sum(record.test.values[value].mean for record in group) / len(group)


def _search(found: Found) -> str:
    """The search on validation as a pipe table; the candidate that was chosen is bold."""
    searched = {name: group for name, group in found.records.items() if any(record.tried for _, record in group)}
    if not searched:
        return ""
    task = found.table.task
    labels = {line.name: line.label for line in found.table.lines}
    rows = [["on validation", "candidate", task.choose]]
    for name, group in searched.items():
        for part, record in group:
            for tried in record.tried:
                value = f"{tried.value.mean:.3f}"
                chosen = tried.candidate == record.chosen
                rows.append(
                    [
                        markdown_text(f"{labels[name]}, seed {part.seed}"),
                        _candidate(tried.candidate, several=len(part.measurement.trainings) > 1),
                        f"**{value}**" if chosen else value,
                    ]
                )
    title = (
        f"**The search on validation: {task.choose} of the first {task.validation_limit} examples of "
        f"{task.validation}; the test suite was not looked at**"
    )
    return f"{title}\n\n{pipes(rows)}"


def _candidate(candidate: Any, several: bool) -> str:
    parts = [candidate.recipe] if several else []
    parts += [f"guided by its checkpoint at {100 * candidate.weaker:g} %"] if candidate.weaker is not None else []
    parts += [f"scale {candidate.guidance_scale:g}"] if candidate.guidance_scale is not None else []
    return ", ".join(parts)


def _provenance(plan: Plan, found: Sequence[Found]) -> str:
    """By what all of it was made; where tables differ in their sampling, the way of each."""
    by_table = {each.table.ablation.name: [r for of in each.records.values() for _, r in of] for each in found}
    records = [record for group in by_table.values() for record in group]
    ways: dict[str, list[str]] = {}
    for name, group in by_table.items():
        ways.setdefault(_distinct(map(_sampling, group)), []).append(name)
    named = [(way, f" ({', '.join(names)})" if len(ways) > 1 else "") for way, names in ways.items() if way]
    sampling = "; ".join(f"{way}{of}" for way, of in named)
    lines = (
        f"Training: {_distinct(record.training.precision for record in records)}, "
        f"{plan.gpus} process{'es' if plan.gpus > 1 else ''} a training.",
        f"Sampling: {sampling}." if sampling else "",
        f"Hardware: {hardware()}.",
        f"Commit: {_distinct(record.test.environment.get('git_commit', 'unknown')[:12] for record in records)}.",
        f"Command: `{plan.command}`",
    )
    return "\n".join(f"- {line}" for line in lines if line) + "\n"


def _sampling(record: Measured) -> str:
    """How the outputs of a record were sampled; nothing where nothing was."""
    identity = record.test.settings.identity
    if identity.get("solver") is None:
        return ""
    return ", ".join(f"{identity[name]} {word}".strip() for name, word in _SAMPLING if identity.get(name) is not None)


def _distinct(words: Iterable[str]) -> str:
    """Different words once each, in their order."""
    return " or ".join(dict.fromkeys(words))


_SAMPLING = (("solver", ""), ("steps", "steps"), ("precision", ""), ("device", ""))


def _timing(plan: Plan) -> str:
    """CPU time of every training, data preparation included."""
    rows = [["training", "folder", "CPU-seconds"]]
    for training in plan.trainings:
        seconds = [cpu_seconds(folder) for folder in training.folders(plan.out)]
        total = "unknown" if None in seconds else f"{sum(filter(None, seconds)):.0f}"
        rows.append([training.title, training.digest, total])
    return f"# CPU time\n\n{pipes(rows)}\n{hardware()}; one thread a process on a CPU.\n"


def _sections(found: Sequence[Found], drawn: figures.Drawn) -> list[Section]:
    """What the page shows below its tables."""
    parts: list[Section] = []
    for each in found:
        parts += [figures.verdict_section(each.table.ablation.title, verdict_rows(each))] if each.verdicts else []
    return [*parts, *drawn.sections]


def _record(plan: Plan, found: Sequence[Found]) -> dict[str, Any]:
    """Everything as plain JSON: each seed's whole result and its search, the rows' means, the verdicts."""
    return {
        "suite": Path(plan.suite).stem,
        "scale": plan.scale.name,
        "command": plan.command,
        "hardware": hardware(),
        "interval": STUDENT,
        "tables": [
            {
                "table": each.table.ablation.name,
                "title": each.table.ablation.title,
                "value": each.table.task.choose,
                "rows": {
                    name: {
                        "label": group[0][0].line.label,
                        "mean": mean_result(name, [record for _, record in group]).model_dump(mode="json")["values"],
                        "seeds": [{"seed": part.seed, **record.model_dump(mode="json")} for part, record in group],
                    }
                    for name, group in each.records.items()
                },
                "failed": dict(each.failed),
                "references": {role: result.model_dump(mode="json") for role, result in each.beside.items()},
                "verdicts": [verdict.model_dump(mode="json") for verdict in each.verdicts],
            }
            for each in found
        ],
    }
