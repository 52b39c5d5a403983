"""What lies in results/ on one page, and README's Table 3: ``python -m benchmarks.results_page``.

Written to results/README.md, from the records alone: every ``results.json`` of an ablation, and title and command of
every page beside them; and to README.md between two marks, from those of Table 3. ``--check`` writes nothing and ends
with 2 where either is not what the records say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel, ValidationError

from crossflow.errors import CrossFlowError, one_sentence
from crossflow.files.writing import write_whole
from crossflow_eval.ablate.ablation import load_ablations
from crossflow_eval.tables.published import published

RESULTS = Path("results")
README = Path("README.md")
COMMAND = "python -m benchmarks.results_page"
MARKS = f"<!-- Table 3, by {COMMAND} -->\n", "<!-- end of Table 3 -->\n"
DASH = "—"


class Number(BaseModel):
    """A mean with its interval."""

    mean: float
    ci_low: float | None = None
    ci_high: float | None = None
    n: int


class Run(BaseModel):
    """A whole result, of one seed or of a reference, on ``n`` examples."""

    n: int = 0
    values: dict[str, Number] = {}
    higher_is_better: dict[str, bool] = {}


class Training(BaseModel):
    """What was trained: its steps, and its parameters with those of the encoder."""

    steps: int = 0
    all_parameters: int = 0


class Seed(BaseModel):
    """One training of a row; a failed one has no result."""

    seed: int = 0
    training: Training = Training()
    test: Run = Run()


class Row(BaseModel):
    """The means over the seeds of one row; none where it failed."""

    label: str = ""
    mean: dict[str, Number] = {}
    seeds: list[Seed] = []


class Verdict(BaseModel):
    """What one comparison came to."""

    title: str
    verdict: str
    difference: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p: float | None = None
    published_difference: float | None = None


class Part(BaseModel):
    """One table of a record: its rows, what they stand between, and its verdicts. ``value`` is the one shown."""

    table: str = ""
    title: str = ""
    value: str | None = None
    rows: dict[str, Row] = {}
    references: dict[str, Run] = {}
    failed: dict[str, str] = {}
    verdicts: list[Verdict] = []

    @property
    def score(self) -> str:
        """The value that is shown: the table's own, else the first that any row has."""
        return self.value or next((name for row in self.rows.values() for name in row.mean), "none measured")

    @property
    def heading(self) -> str:
        """The score with an arrow to its better side."""
        better = [seed.test.higher_is_better.get(self.score) for row in self.rows.values() for seed in row.seeds]
        arrow = " ↑" if True in better else " ↓" if False in better else ""
        return self.score.replace("_", " ") + arrow


class Record(BaseModel):
    """What the page shows of an ablation's ``results.json``; whatever else that holds is left alone.

    Records of the first version are of one table, whose ``rows`` stand in the record itself.
    """

    command: str
    interval: str
    hardware: str | None = None
    scale: str | None = None
    tables: list[Part] = []
    rows: dict[str, Row] = {}
    references: dict[str, Run] = {}

    @property
    def parts(self) -> list[Part]:
        """The tables of either version."""
        return self.tables or [Part(rows=self.rows, references=self.references)]


def page(folder: Path) -> str:
    """The Markdown page of all records in ``folder``, in the order of their paths.

    CrossFlowError for a record or page that cannot be read.
    """
    parts = (
        "# Results",
        f"Made of the records beside it by `{COMMAND}`; nothing in this folder is edited by hand.",
        "## Recipes trained and compared",
        "Of each table the first score; the rest stands behind its title. Scores of the embedded world are not "
        "comparable with published ones: read them between the rows without seeds.",
        *(_ablation(path, folder) for path in sorted(folder.rglob("results.json"))),
        "## The embedded world",
        _pages(folder, "scenes"),
        "## Benchmarks",
        _pages(folder, "benchmarks"),
    )
    return "\n\n".join(parts) + "\n"


def table3(folder: Path) -> str:
    """README's Table 3: every row that was trained to its end, what the paper prints of it, and its verdict.

    CrossFlowError for a record that cannot be read.
    """
    lines: list[tuple[str, ...]] = []
    for part in (part for path in sorted(folder.glob("table3*/results.json")) for part in read_record(path).parts):
        ablation = load_ablations(part.table)[0]
        methods = {row.name: row.method for row in ablation.rows}
        printed = {row.method: row.values[ablation.published or ""] for row in published(part.table).rows}
        said = {verdict.title.partition(" against ")[0]: _said(verdict) for verdict in part.verdicts}
        main = ablation.main("tiny")
        lines.append((f"**{part.title.removeprefix('Table ')}**", "", "", ""))
        for name, row in part.rows.items():
            if name in methods:  # not a checkpoint on the way
                paper, value = printed.get(methods[name] or ""), row.mean.get(part.score)
                verdict = "*the others are compared with it*" if main and name == main.name else said[row.label]
                ours = _number(value, interval=True)
                lines.append((row.label, ours, DASH if paper is None else f"{paper:.2f}", verdict))
    head = ("the row", "ours: GenEval, mean of six tasks ↑", "the paper: FID-10K ↓", "verdict: difference of ours")
    return pipe_table(head, lines) + "\n"


def _said(of: Verdict) -> str:
    """A verdict with the difference that it is of."""
    if of.difference is None or of.ci_low is None or of.ci_high is None or of.p is None:
        return of.verdict
    return f"{of.verdict}: {of.difference:+.3f} [{of.ci_low:+.3f}, {of.ci_high:+.3f}], p = {of.p:.3f}"


def _readme(text: str) -> str:
    """README with its Table 3 as the records have it. CrossFlowError where its marks are not there."""
    before, found, rest = text.partition(MARKS[0])
    _, ends, after = rest.partition(MARKS[1])
    if not found or not ends:
        raise CrossFlowError(f"{README} has no table between {MARKS[0].strip()} and {MARKS[1].strip()}.")
    return f"{before}{found}{table3(RESULTS)}{ends}{after}"


def read_record(path: Path) -> Record:
    """The record of an ablation; CrossFlowError for a file that is none."""
    try:
        return Record.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CrossFlowError(f"{path} cannot be read as the record of an ablation: {error}") from error


def _ablation(path: Path, folder: Path) -> str:
    record = read_record(path)
    table = path.with_name("table.md")
    facts = {"Hardware": record.hardware, "Scale": record.scale, "Brackets": record.interval}
    told = " ".join(f"{name}: {fact}." for name, fact in facts.items() if fact is not None)
    parts = [f"### {_link(_title(table), table, folder)}"]
    for part in record.parts:
        parts += [f"**{part.title}**"] if len(record.parts) > 1 else []
        parts += _part(part)
    return "\n\n".join((*parts, f"Command: `{record.command}`. {told}"))


def _part(part: Part) -> list[str]:
    """A table's score by rows, and its verdicts."""
    trained = [(name, row.mean.get(part.score), str(len(row.seeds))) for name, row in part.rows.items()]
    beside = [(name, run.values.get(part.score), DASH) for name, run in part.references.items()]
    lines = [
        (name, _number(value, interval=seeds != DASH), DASH if value is None else str(value.n), seeds)
        for name, value, seeds in trained + beside
    ]
    lines += [(name, "failed", DASH, DASH) for name in part.failed]
    found = [pipe_table(("row", part.heading, "n", "seeds"), lines)]
    if part.verdicts:
        head = ("comparison", "verdict", "difference", "p", "difference in the paper")
        found.append(pipe_table(head, map(_verdict, part.verdicts)))
    return found


def _verdict(of: Verdict) -> tuple[str, ...]:
    difference = DASH if of.difference is None else f"{of.difference:+.4g}"
    if of.ci_low is not None and of.ci_high is not None:
        difference += f" [{of.ci_low:+.4g}, {of.ci_high:+.4g}]"
    published = DASH if of.published_difference is None else f"{of.published_difference:+.4g}"
    return of.title, of.verdict, difference, DASH if of.p is None else f"{of.p:.3g}", published


def _number(value: Number | None, *, interval: bool) -> str:
    if value is None:
        return DASH
    digits = 3 if abs(value.mean) < 10 else 2
    text = f"{value.mean:.{digits}f}"
    if not interval or value.ci_low is None or value.ci_high is None:
        return text
    return f"{text} [{value.ci_low:.{digits}f}, {value.ci_high:.{digits}f}]"


def _pages(folder: Path, name: str) -> str:
    """A line a page of ``folder/name``: its title and the first command that it names."""
    lines = []
    for path in sorted((folder / name).glob("*.md")):
        command = re.search(r"`((?:python -m|crossflow)\S* [^`]+)`", _text(path).replace("\n", " "))
        lines.append((_link(_title(path), path, folder), f"`{command[1]}`" if command else DASH))
    return pipe_table(("page", "command"), lines)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CrossFlowError(f"{path} cannot be read: {error}.") from error


def _title(path: Path) -> str:
    return _text(path).split("\n")[0].strip("#* ")


def _link(title: str, path: Path, folder: Path) -> str:
    return f"[{title}]({path.relative_to(folder).as_posix()})"


def pipe_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A pipe table; numbers, which are all but the first of more than two columns, stand on the right."""
    sides = (":---", *("---:" if len(head) > 2 else ":---" for _ in head[1:]))
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in (head, sides, *lines))


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text)


def main(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; end with 2 where the page is stale.")] = False,
) -> None:
    """Write results/README.md and README's Table 3 from the records in results/."""
    with one_sentence():
        for path, text in ((RESULTS / "README.md", page(RESULTS)), (README, _readme(_text(README)))):
            if not check:
                write_whole(path, text.encode())
            elif not path.is_file() or _text(path) != text:
                raise CrossFlowError(f"{path} is not what its records say; write it again by {COMMAND}.")


if __name__ == "__main__":
    typer.run(main)
