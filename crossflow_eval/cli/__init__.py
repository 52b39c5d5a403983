"""Measure models: run a suite, score again, report, compare. Results on stdout, everything else on stderr."""

# Nothing heavy is imported here: ``--help`` answers at once, and each command imports what it needs.
from __future__ import annotations

import logging
import sys

import typer

from crossflow.files.program import OneLine, Program
from crossflow_eval.cli import ablate, measure, setup, show

app = typer.Typer(cls=Program, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.callback()
def _main() -> None:
    said = logging.StreamHandler(sys.stderr)
    said.setFormatter(OneLine())
    logger = logging.getLogger("crossflow_eval")
    logger.handlers = [said]
    logger.setLevel(logging.INFO)


for command in (*measure.commands(), measure.score, show.report, show.compare, show.check, ablate.ablate):
    app.command()(command)
app.command(name="list")(show.list_all)
for command in (setup.stats, setup.doctor):
    app.command()(command)
app.add_typer(setup.prepare, name="prepare")
app.add_typer(setup.weights, name="weights")
