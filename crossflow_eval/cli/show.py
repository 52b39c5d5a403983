"""The commands that show what is there: reports, comparisons, and the names of everything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from crossflow.errors import one_line, one_sentence
from crossflow_eval.cli.options import AsJson, RunFolder
from crossflow_eval.cli.terminal import print_table


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

        chosen = None if table is None else tables.load_table(table)
        finished = _finished(runs or [])  # before what takes seconds is loaded
        from crossflow_eval.report.runs import entries

        found = entries(finished)
        beside = None if out is None else out.parent
        text = reports.render(found, format, table=chosen, allow_mixed=allow_mixed, beside=beside)
        if out is None:
            return typer.echo(text)
        write_whole(out, text.encode())
        typer.echo(out)


def _finished(runs: list[Path]) -> list[Path]:
    """Those of the ``runs`` that are finished, the others named on stderr. CrossFlowError where none of them is."""
    from crossflow_eval import records

    found = [run for run in runs if (run / records.RESULT).is_file()]
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


def compare(run_a: RunFolder, run_b: RunFolder, as_json: AsJson = False) -> None:
    """Compare two runs of one suite, example by example: RUN_B minus RUN_A with its 95 % interval."""
    with one_sentence():
        from dataclasses import asdict

        from crossflow_eval.runs.compare import compare_runs

        found = compare_runs(run_a, run_b)
        if as_json:
            return typer.echo(json.dumps({name: asdict(each) for name, each in found.items()}, indent=2))
        rows = [
            (name, _signed(each.difference), _interval(each.ci_low, each.ci_high), _p(each.p), each.n)
            for name, each in found.items()
        ]
        print_table(("score", "difference", "95 % interval", "p", "n"), rows)
        for method in dict.fromkeys(each.method for each in found.values()):
            names = ", ".join(name for name, each in found.items() if each.method == method)
            typer.echo(f"{one_line(names)}: {method}.\n")


def check(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.", show_default=False)],
) -> None:
    """Say whether runs, and the references in them, are as they were scored. Exit code 2 if one is not."""
    with one_sentence():
        from crossflow.errors import CrossFlowError
        from crossflow_eval import records

        bad = 0
        for folder in (each for run in runs for each in (run, *records.references(run))):
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


def _interval(low: float | None, high: float | None) -> str:
    return "none" if low is None or high is None else f"[{_signed(low)}, {_signed(high)}]"


def _signed(number: float) -> str:
    """Four digits, or more where these would make a zero of what is none."""
    return f"{number:+.1e}" if 0 < abs(number) < 5e-5 else f"{number:+.4f}"


def _p(p: float) -> str:
    """Three digits that are on the side of 0.05 that p is on."""
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
