"""The commands that run a suite, or score a run again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from crossflow.errors import one_sentence
from crossflow_eval.cli import options
from crossflow_eval.cli.progress import bar
from crossflow_eval.request import COMMANDS, Request


def score(
    run: options.RunFolder,
    data: options.Data = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N, of the judges.")] = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Score a run's outputs again, without generating."""
    with one_sentence():
        from crossflow.files.devices import auto_device
        from crossflow_eval import records
        from crossflow_eval.runs import launch

        with auto_device(device):
            launch.score_again(run, bar(not as_json), data)
        _finish(records.run_in(run), as_json)


def measure(request: Request, as_json: bool) -> None:
    """Run what was asked for, and print its result."""
    with one_sentence():
        from crossflow_eval.runs import launch

        result, folder = launch.evaluate(request, bar(not as_json))
        if result is not None:
            _finish(folder, as_json)


def commands() -> list[Callable[..., None]]:
    """The functions behind the commands that measure."""
    return [options.command(name, command, measure) for name, command in COMMANDS.items()]


def _finish(folder: Path, as_json: bool) -> None:
    """Write the HTML page of a finished run and print its result."""
    from crossflow_eval import report
    from crossflow_eval.report.runs import entries, write_page

    page, found = write_page(folder), entries([folder])
    if as_json:
        record = {"run": str(folder), "report": str(page), **found[-1].result.model_dump(mode="json")}
        return typer.echo(json.dumps(record, indent=2))
    text = report.render(found, "md")
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))
    else:
        typer.echo(text)
    typer.echo(f"Run:    {folder}\nReport: {page}", err=True)
