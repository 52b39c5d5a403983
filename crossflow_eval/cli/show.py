"""The commands that show what is there: reports, comparisons, and the names of everything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crossflow.errors import one_line, one_sentence
from crossflow_eval.cli.options import AsJson, Data, RunFolder
from crossflow_eval.cli.terminal import print_table

if TYPE_CHECKING:
    from crossflow_eval.stats import Comparison


def report(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Folders of finished runs.", show_default="none, with --table")
    ] = None,
    format: Annotated[str, typer.Option(help="md, csv, latex or html.")] = "md",
    table: Annotated[
        str | None, typer.Option(help="A table for all runs, such as table2.", show_default="by their suites")
    ] = None,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Let a column mix protocols or n, and say so below.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="The file to write; a page links the original outputs from there.", show_default="stdout"),
    ] = None,
) -> None:
    """Print one report of several runs. Of several folders those that are no finished run are named and left out."""
    with one_sentence():
        from crossflow.files.writing import write_whole
        from crossflow_eval import report as reports
        from crossflow_eval import tables

        if out is not None:
            reports.check_replaces(out)
        chosen = None if table is None else tables.load_table(table)
        finished = _finished(runs or [])  # before what takes seconds is loaded
        from crossflow_eval.report.runs import entries

        found = entries(finished)
        beside = None if out is None else out.parent
        text = reports.render(found, format, table=chosen, allow_mixed=allow_mixed, beside=beside, provenance=True)
        if out is None:
            return typer.echo(text)
        write_whole(out, text.encode())
        typer.echo(out)


def _finished(runs: list[Path]) -> list[Path]:
    """Those of the ``runs`` that are finished, the others named on stderr. CrossFlowError where none of them is."""
    from crossflow_eval import records

    found = [run for run in runs if (records.run_in(run) / records.RESULT).is_file()]
    for run in (run for run in runs if found and run not in found):
        what = "is not finished" if (run / records.SETTINGS).is_file() else "is no run"
        typer.echo(f"{run} {what}, and is left out.", err=True)
    if runs and not found:
        records.check_whole(runs[0])
    return found


def view(
    runs: Annotated[
        Path, typer.Argument(help="A folder of runs and trainings, or one of them.", metavar="[RUNS]")
    ] = Path("runs"),
    port: Annotated[int, typer.Option(help="The port on 127.0.0.1.", show_default="any that is free")] = 0,
) -> None:
    """Serve the page live to this machine, while runs and trainings go on: open the address that is printed.

    Rows come as they are made, and curves grow. It only reads; Ctrl-C ends it.
    """
    with one_sentence():
        from crossflow.errors import CrossFlowError

        try:
            from crossflow_eval.view.server import serve
        except ModuleNotFoundError as error:
            raise CrossFlowError(
                f"crossflow-eval view needs {error.name}: install starlette and uvicorn, or crossflow[view]."
            ) from error
        serve(runs, port, typer.echo)


def compare(run_a: RunFolder, run_b: RunFolder, data: Data = None, as_json: AsJson = False) -> None:
    """Compare two runs of one suite, example by example: RUN_B minus RUN_A with its 95 % interval."""
    with one_sentence():
        from dataclasses import asdict

        from crossflow_eval.runs.compare import compare_runs

        found = compare_runs(run_a, run_b, data)
        if as_json:
            return typer.echo(json.dumps(asdict(found), indent=2, default=str))
        rows = [
            (name, _number(each.first), _number(each.second), _signed(of.difference), _interval(of), _p(of.p), of.n)
            for name, each in found.scores.items()
            for of in (each.comparison,)
        ]
        print_table(("score", "A", "B", "B - A", "95 % interval", "p", "n"), rows)
        for letter, side in (("A", found.first), ("B", found.second)):
            typer.echo(f"{letter}: {one_line(side.name)}, {side.examples} examples, {side.folder}")
        for note in found.notes:
            typer.echo(one_line(note))
        for method in dict.fromkeys(each.comparison.method for each in found.scores.values()):
            names = ", ".join(name for name, each in found.scores.items() if each.comparison.method == method)
            typer.echo(f"{one_line(names)}: {method}.\n")


def check(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.", show_default=False)],
) -> None:
    """Say whether runs, and the references in them, are as they were scored. Exit code 2 if one is not."""
    with one_sentence():
        from crossflow.errors import CrossFlowError
        from crossflow_eval import records

        bad = 0
        folders = [records.run_in(run) for run in runs]
        for folder in (each for run in folders for each in (run, *records.references(run).values())):
            try:
                result = records.check_whole(folder)
            except CrossFlowError as error:
                typer.echo(f"Error: {error}", err=True)
                bad += 1
                continue
            none = f"carries no digests, for an earlier version made it: `crossflow-eval score {folder}` gives it some"
            typer.echo(f"{folder}: {'sound' if result.proof else none}, {result.n} outputs")
        if bad:
            raise typer.Exit(2)


def verify(
    run: RunFolder,
    data: Data = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Also write a .md, or the run's page as .html with this first.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compute a run's numbers again by the original packages. Exit code 1 if one disagrees, 2 if none could be."""
    with one_sentence():
        from crossflow.errors import CrossFlowError
        from crossflow.files.writing import write_whole
        from crossflow_eval.cli.progress import bar
        from crossflow_eval.report import verification
        from crossflow_eval.runs.verify import verify as verified

        if out is not None:
            verification.check_name(out)
        found = verified(run, data, bar(not as_json))
        typer.echo(json.dumps(found.plain(), indent=2) if as_json else verification.markdown(found))
        if out is not None:
            write_whole(out, verification.rendered(found, run, out).encode())
            typer.echo(out, err=True)
        if not found.verified:
            raise CrossFlowError(f"No number of {run} could be computed again; the reasons stand above.")
        if found.wrong:
            raise typer.Exit(1)


def _interval(of: Comparison) -> str:
    low, high = of.ci_low, of.ci_high
    return "none" if low is None or high is None else f"[{_signed(low)}, {_signed(high)}]"


def _number(number: float) -> str:
    return f"{number:.4f}"


def _signed(number: float) -> str:
    """Four digits, or more where these would make a zero of what is none."""
    return f"{number:+.1e}" if 0 < abs(number) < 5e-5 else f"{number:+.4f}"


def _p(p: float | None) -> str:
    """Three digits that are on the side of 0.05 that p is on."""
    if p is None:
        return "none"
    shown = f"{p:.3g}"
    return "<0.05" if p < 0.05 <= float(shown) else shown


def list_all(as_json: AsJson = False) -> None:
    """List suites with their metrics, models, tables, and the weights that published metrics need."""
    with one_sentence():
        from crossflow_eval import models, suites, tables
        from crossflow_eval.judges import weights

        found = {name: suites.load_suite(name) for name in suites.suite_names()}
        known: dict[str, Any] = {
            "suites": {name: sorted(suite.metrics) for name, suite in found.items()},
            "metrics": sorted({metric for suite in found.values() for metric in suite.metrics}),
            "models": [*models.BUILT_IN, *models.other_models(), *models.FORMS],
            "tables": tables.table_names(),
            "weights": {each.metric: each.need for each in weights.PUBLISHED},
        }
        if as_json:
            return typer.echo(json.dumps(known, indent=2))
        for kind, entries in known.items():
            named = entries.items() if isinstance(entries, Mapping) else ((entry, "") for entry in entries)
            rows = [(name, more if isinstance(more, str) else ", ".join(more)) for name, more in named]
            print_table((kind, ""), rows)
