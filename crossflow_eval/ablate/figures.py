"""The figures of an ablation: how it trained, what guidance does, how it scales, and what its rows draw."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from crossflow.errors import CrossFlowError
from crossflow_eval import records
from crossflow_eval.ablate.plan import WALK, Part, Plan, Training
from crossflow_eval.report.curves import Curve, figure
from crossflow_eval.report.page import Section, html_table, plotted
from crossflow_eval.report.pictures import address
from crossflow_eval.report.plot import standalone
from crossflow_eval.report.runs import entries
from crossflow_eval.stats import student_mean

if TYPE_CHECKING:
    from crossflow_eval.ablate.measure import Measured
    from crossflow_eval.ablate.write import Found

SHOWN = 12
"""Examples whose outputs are shown side by side."""
FIGURES, OUTPUTS = "Figures", "Outputs"
"""The tabs of a page that hold what is drawn: curves, and pictures of the rows' outputs."""


@dataclass(frozen=True)
class Drawn:
    """Files by name, and sections of a page."""

    files: Mapping[str, bytes]
    sections: Sequence[Section]


def draw(plan: Plan, found: Sequence[Found]) -> Drawn:
    """All figures of the tables that were measured; the same records give the same bytes."""
    files: dict[str, bytes] = {}
    sections: list[Section] = []
    for each in found:
        name, title = each.table.ablation.name, each.table.ablation.title
        figures = [
            ("training", "The flow loss in training, mean of seeds", "step", "flow loss", _training(plan, each), "log"),
            ("guidance", "Guidance on validation", "guidance scale", each.table.task.choose, _guidance(each), "linear"),
        ]
        if each.table.ablation.figure:
            choose = each.table.task.choose
            figures += [
                ("size", "Quality by parameters, at all steps", "parameters", choose, _by_size(each), "linear"),
                ("steps", "Quality by steps", "training steps", choose, _by_steps(each), "linear"),
            ]
        for kind, what, x, y, curves, scale in figures:
            if curves:
                svg = figure(curves, x, y, f"{name}-{kind}", scale)
                files[f"{name}-{kind}.svg"] = standalone(svg)
                sections.append(Section(title=f"{title}: {what}", body=plotted(svg, what), tab=FIGURES))
        sheet = _sheet(plan, each)
        if sheet:
            files[f"{name}-samples.png"] = _joined(sheet)
            sections.append(_side_by_side(f"{title}: the same examples and seeds", sheet))
        for label, strip in _walks(plan, each):
            heading = f"{title}: {label}, from one source latent to another"
            sections.append(Section(title=heading, body=f"<div class=strip>{_image(strip)}</div>", tab=OUTPUTS))
    return Drawn(files, sections)


def verdict_section(title: str, rows: Sequence[Sequence[str]]) -> Section:
    """The verdicts of a table as a section of a page."""
    return Section(title=f"{title}: verdicts", body=html_table(rows))


def _training(plan: Plan, found: Found) -> list[Curve]:
    """The flow loss of each line's trainings."""
    curves: list[Curve] = []
    seen: set[tuple[str, ...]] = set()
    for line in found.table.lines:
        group = found.records.get(line.name, ())
        digests = tuple(_training_of(part, record).digest for part, record in group)
        if not digests or digests in seen:
            continue
        seen.add(digests)
        logs = [_log(plan.out / digest) for digest in digests]
        steps = sorted(set.intersection(*(set(log) for log in logs)))
        if len(steps) > 1:
            means = [float(np.mean([log[step] for log in logs])) for step in steps]
            curves.append(Curve(label=line.row.label, x=[float(step) for step in steps], y=means))
    return curves


def _training_of(part: Part, record: Measured) -> Training:
    """The training that was chosen."""
    return next(each for each in part.measurement.trainings if each.recipe == record.chosen.recipe)


def _log(folder: Path) -> dict[int, float]:
    """The flow loss by step; nothing where a log cannot be read."""
    try:
        return records.read_losses(folder).get("flow", {})
    except CrossFlowError:
        return {}


def _guidance(found: Found) -> list[Curve]:
    """The value on validation of each line that is guided, at each scale; for autoguidance of the best weaker model."""
    curves: list[Curve] = []
    for line in found.table.lines:
        group = found.records.get(line.name, ())
        if not group or not line.row.guided or line.at < 1:
            continue
        higher = group[0][1].test.higher_is_better[found.table.task.choose]
        by_scale: dict[float, list[float]] = {}
        for _, record in group:
            best: dict[float, float] = {}
            for tried in record.tried:
                given, value = tried.candidate.guidance_scale, tried.value.mean
                scale = 1.0 if given is None else given
                best[scale] = (max if higher else min)(best.get(scale, value), value)
            for scale, value in best.items():
                by_scale.setdefault(scale, []).append(value)
        curves.append(_over_seeds(line.label, dict(sorted(by_scale.items()))))
    return curves


def _over_seeds(label: str, values: Mapping[float, Sequence[float]]) -> Curve:
    means = [student_mean(each, n=len(each)) for each in values.values()]
    whole = all(mean.ci_low is not None for mean in means)
    reach = [(mean.ci_low or 0.0, mean.ci_high or 0.0) for mean in means] if whole else []
    return Curve(label=label, x=list(values), y=[mean.mean for mean in means], reach=reach)


def _method(name: str) -> str:
    return name.rpartition("-")[0]


def _by_size(found: Found) -> list[Curve]:
    """For each method the score of its last checkpoints by their parameters."""
    curves: dict[str, dict[float, list[float]]] = {}
    labels: dict[str, str] = {}
    for line in found.table.lines:
        group = found.records.get(line.name, ())
        if line.at == 1 and group:
            labels[_method(line.row.name)] = line.row.label.partition(",")[0]
            scores = [record.test.values[found.table.task.choose].mean for _, record in group]
            curves.setdefault(_method(line.row.name), {})[float(group[0][1].training.all_parameters)] = scores
    return [_over_seeds(labels[method], dict(sorted(values.items()))) for method, values in curves.items()]


def _by_steps(found: Found) -> list[Curve]:
    """For each method and size the score by the steps of its checkpoints."""
    curves: dict[str, dict[float, list[float]]] = {}
    for line in found.table.lines:
        if group := found.records.get(line.name, ()):
            scores = [record.test.values[found.table.task.choose].mean for _, record in group]
            curves.setdefault(line.row.label, {})[float(group[0][1].training.steps)] = scores
    return [_over_seeds(label, values) for label, values in curves.items()]


def _sheet(plan: Plan, found: Found) -> dict[str, list[tuple[str, bytes]]]:
    """Prompt and picture of the first examples of every line's first seed; nothing where outputs are no pictures."""
    sheet: dict[str, list[tuple[str, bytes]]] = {}
    for line in found.table.lines:
        group = found.records.get(line.name, ())
        folder = plan.out / group[0][1].run if group else None
        if folder is None or line.at < 1 or not folder.is_dir():
            continue
        entry = entries([folder])[0]
        first = {str(row["id"]): row for row in reversed(entry.rows) if int(row.get("index", 0)) == 0}
        rows = list(reversed(first.values()))
        chosen = rows[:: max(1, len(rows) // SHOWN)][:SHOWN]
        drawn = [(str(row.get("prompt", row["id"])), entry.picture(row)) for row in chosen]
        pictures = [(prompt, content) for prompt, content in drawn if content is not None]
        if pictures:
            sheet[line.label] = pictures
    return sheet


def _joined(sheet: Mapping[str, Sequence[tuple[str, bytes]]]) -> bytes:
    """The pictures as one, a row a line of the table."""
    rows = [[Image.open(io.BytesIO(content)).convert("RGB") for _, content in row] for row in sheet.values()]
    width = max(image.width for row in rows for image in row) + 2
    height = max(image.height for row in rows for image in row) + 2
    whole = Image.new("RGB", (max(map(len, rows)) * width, len(rows) * height), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            whole.paste(image, (x * width, y * height))
    return _png(whole)


def _side_by_side(title: str, sheet: Mapping[str, Sequence[tuple[str, bytes]]]) -> Section:
    prompts = [prompt for prompt, _ in next(iter(sheet.values()))]
    head = "".join(f"<th scope=col>{escape(prompt)}</th>" for prompt in prompts)
    rows = "".join(
        f"<tr><th scope=row>{escape(label)}</th>{''.join(f'<td>{_image(content)}</td>' for _, content in row)}</tr>"
        for label, row in sheet.items()
    )
    table = f"<table class=sheet><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return Section(title=title, body=f"<div class=scroll>{table}</div>", tab=OUTPUTS)


def _walks(plan: Plan, found: Found) -> list[tuple[str, bytes]]:
    """The strips between two prompts that were drawn for lines of the table."""
    strips: list[tuple[str, bytes]] = []
    for line in found.table.lines:
        for part, record in found.records.get(line.name, ())[:1]:
            path = plan.out / _training_of(part, record).digest / WALK / "grid.png"
            if path.is_file():
                strips.append((line.label, path.read_bytes()))
    return strips


def _image(content: bytes) -> str:
    return f'<img alt="" src="{address(content)}">'


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return stream.getvalue()
