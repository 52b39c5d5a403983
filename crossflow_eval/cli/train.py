"""The command that trains what it compares."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossflow.errors import one_sentence
from crossflow_eval.cli.options import AsJson
from crossflow_eval.cli.progress import bar


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
    with one_sentence():
        from crossflow_eval import ablate as ablation

        chosen = tuple(rows.split(",")) if rows else ()
        plan = ablation.make_plan(suite, out=out, rows=chosen, seeds=seeds, steps=steps, limit=limit)
        measured, references = ablation.ablate(plan, jobs=jobs, track=bar(not as_json))
        where = results or ablation.results_folder(plan)
        text = ablation.write_table(plan, measured, references, where)
        typer.echo((where / "results.json").read_text(encoding="utf-8") if as_json else text)
        typer.echo(f"Runs:  {plan.out}\nTable: {where / 'table.md'}", err=True)
