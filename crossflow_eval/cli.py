"""Measure models: run a suite, score again, report, compare. Results on stdout, everything else on stderr."""

# Nothing heavy is imported here: ``--help`` answers at once, and each command imports what it needs.
from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from crossflow_eval.run import Track
    from crossflow_eval.store import Job

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and no progress.")]
RunFolder = Annotated[Path, typer.Argument(help="A run's folder.", show_default=False)]


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Let an error that a user can mend end the program with its sentence on stderr and exit code 2."""
    from crossflow_eval.types import SetupError

    try:
        yield
    except SetupError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error


@app.callback()
def _main() -> None:
    said = logging.StreamHandler(sys.stderr)
    said.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("crossflow_eval")
    logger.handlers = [said]
    logger.setLevel(logging.INFO)


@app.command()
def t2i(
    ckpt: Annotated[
        Path | None, typer.Option(help="A checkpoint, or the images with --model folder.", show_default="shipped")
    ] = None,
    model: Annotated[str, typer.Option(help="crossflow, folder, or package.module:factory.")] = "crossflow",
    captions: Annotated[
        Path | None, typer.Option(help="Prompts: .csv or .jsonl (image, caption), or COCO .json.", show_default=False)
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="See `list`.", show_default="scenes-t2i; folder with --captions")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first examples.", show_default="all")] = None,
    steps: Annotated[int | None, typer.Option(help="Solver steps.", show_default="the checkpoint's")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="1 is none.", show_default="the checkpoint's")] = None,
    solver: Annotated[str | None, typer.Option(help="Name of a solver.", show_default="the checkpoint's")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the whole run.")] = 0,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N.", show_default="auto")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder.", show_default="runs/SUITE/MODEL-DIGEST")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a text-to-image model; without options the shipped one. Run it again to resume."""
    with _one_sentence():
        from crossflow_eval import launch

        request = launch.Request(
            checkpoint=ckpt,
            model=model,
            captions=captions,
            suite=suite,
            limit=limit,
            steps=steps,
            guidance_scale=guidance_scale,
            solver=solver,
            seed=seed,
            device=device,
            out=out,
        )
        result, folder = launch.evaluate(request, _bar(not as_json))
        if result is not None:
            _finish(folder, as_json)


@app.command()
def score(run: RunFolder, as_json: AsJson = False) -> None:
    """Score a run's outputs again, without generating."""
    with _one_sentence():
        from crossflow_eval import launch

        launch.score_again(run, _bar(not as_json))
        _finish(run, as_json)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.", show_default=False)],
    format: Annotated[str, typer.Option(help="md, csv, latex or html.")] = "md",
) -> None:
    """Print one report of several runs."""
    with _one_sentence():
        from crossflow_eval import launch
        from crossflow_eval import report as reports

        typer.echo(reports.render(launch.entries(runs), format))


@app.command()
def compare(run_a: RunFolder, run_b: RunFolder, as_json: AsJson = False) -> None:
    """Compare two runs of one suite, example by example: RUN_B minus RUN_A with its 95 % interval."""
    with _one_sentence():
        from dataclasses import asdict

        from crossflow_eval.pairing import compare_runs

        found = compare_runs(run_a, run_b)
        if as_json:
            return typer.echo(json.dumps({name: asdict(each) for name, each in found.items()}, indent=2))
        rows = [
            (name, f"{each.difference:+.4f}", f"[{each.ci_low:+.4f}, {each.ci_high:+.4f}]", f"{each.p:.3g}", each.n)
            for name, each in found.items()
        ]
        _print_table(("score", "difference", "95 % interval", "p", "n"), rows)


@app.command()
def ablate(
    suite: Annotated[str, typer.Option(help="Name of an ablation, such as table1.", show_default=False)],
    rows: Annotated[str | None, typer.Option(help="Some rows, joined by commas.", show_default="all")] = None,
    seeds: Annotated[int | None, typer.Option(help="Trainings a row.", show_default="the ablation's")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps.", show_default="the recipe's")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first test examples.", show_default="all")] = None,
    jobs: Annotated[int, typer.Option(help="Trainings at a time, each of one thread.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder of the trainings.", show_default="runs/ablate/SUITE")] = None,
    results: Annotated[
        Path | None, typer.Option(help="Folder of the table.", show_default="results/SUITE; of a part: OUT/results")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train recipes anew with several seeds, measure each, and print the table. Run it again to resume."""
    with _one_sentence():
        from crossflow_eval import ablate as ablation

        chosen = tuple(rows.split(",")) if rows else ()
        plan = ablation.make_plan(suite, out=out, rows=chosen, seeds=seeds, steps=steps, limit=limit)
        measured, references = ablation.ablate(plan, jobs=jobs, track=_bar(not as_json))
        where = results or ablation.results_folder(plan)
        text = ablation.write_table(plan, measured, references, where)
        typer.echo((where / "results.json").read_text(encoding="utf-8") if as_json else text)
        typer.echo(f"Runs:  {plan.out}\nTable: {where / 'table.md'}", err=True)


@app.command(name="list")
def list_all(as_json: AsJson = False) -> None:
    """List suites with their metrics, models, tables, and the weights that published metrics need."""
    with _one_sentence():
        from crossflow_eval import models, suites, tables, weights

        found = {name: suites.load_suite(name) for name in suites.suite_names()}
        known: dict[str, Any] = {
            "suites": {name: sorted(suite.metrics) for name, suite in found.items()},
            "metrics": sorted({metric for suite in found.values() for metric in suite.metrics}),
            "models": [*models.BUILT_IN, *models.other_models(), "package.module:factory"],
            "tables": tables.table_names(),
            "not measured": {each.metric: each.need for each in weights.TEXT_TO_IMAGE},
        }
        if as_json:
            return typer.echo(json.dumps(known, indent=2))
        for kind, entries in known.items():
            named = entries.items() if isinstance(entries, Mapping) else ((entry, "") for entry in entries)
            rows = [(name, more if isinstance(more, str) else ", ".join(more)) for name, more in named]
            _print_table((kind, ""), rows)


def _finish(folder: Path, as_json: bool) -> None:
    """Write the HTML page of a finished run and print its result."""
    from crossflow_eval import launch, report

    page = launch.write_page(folder)
    entries = launch.entries([folder])
    if as_json:
        record = {"run": str(folder), "report": str(page), **entries[-1].result.model_dump(mode="json")}
        return typer.echo(json.dumps(record, indent=2))
    text = report.render(entries, "md")
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))
    else:
        typer.echo(text)
    typer.echo(f"Run:    {folder}\nReport: {page}", err=True)


def _bar(show: bool) -> Track:
    """A progress bar a stage on stderr; none with --json or where stderr is no terminal."""

    def track(batches: Sequence[Sequence[Job]], stage: str) -> Iterable[Sequence[Job]]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), disable=not (show and sys.stderr.isatty())) as progress:
            task = progress.add_task(stage, total=sum(map(len, batches)))
            for batch in batches:
                yield batch
                progress.advance(task, len(batch))

    return track


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*headings, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*map(str, row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
