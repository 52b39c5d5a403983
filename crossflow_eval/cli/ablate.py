"""The command that trains what it compares."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from crossflow.errors import CrossFlowError, one_sentence
from crossflow.files.program import look_for
from crossflow_eval.cli.options import AsJson
from crossflow_eval.cli.progress import bar

if TYPE_CHECKING:
    from crossflow_eval.ablate.jobs import Job
    from crossflow_eval.ablate.plan import Plan

Engine = Literal["local", "slurm"]


def ablate(
    suite: Annotated[
        str, typer.Option(help="table1 to table10, table3a to table3e, figure3, codi, or a .toml.", show_default=False)
    ],
    scale: Annotated[str, typer.Option(help="smoke, tiny, base or paper.")] = "tiny",
    rows: Annotated[str | None, typer.Option(help="Some rows, joined by commas.", show_default="all")] = None,
    seeds: Annotated[int | None, typer.Option(help="Trainings a row.", show_default="the scale's")] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Training steps of the row that others are compared with; theirs keep their ratio.",
            show_default="the recipe's",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first test examples.", show_default="the scale's")] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Image-text pairs to train on, at base and paper; a subfolder for each language model that rows read.",
            show_default=False,
        ),
    ] = None,
    test_data: Annotated[
        Path | None, typer.Option(help="The test suite's data root, at base and paper.", show_default=False)
    ] = None,
    engine: Annotated[Engine, typer.Option(help="What runs the jobs.")] = "local",
    jobs: Annotated[
        int | None, typer.Option(help="Jobs at a time, each of one thread.", show_default="GPUs, else cores")
    ] = None,
    gpus: Annotated[int, typer.Option(help="GPUs a training, by torchrun.")] = 1,
    slurm: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE of submitit's executor, such as slurm_partition=gpu.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done, and how long it would take.")
    ] = False,
    print_commands: Annotated[
        bool, typer.Option("--print-commands", help="Only print the commands that are left, in order.")
    ] = False,
    only: Annotated[
        str | None, typer.Option(help="Run one job that measures, by its name in --print-commands.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the trainings, which tables share.")] = Path("runs/ablate"),
    results: Annotated[
        Path | None, typer.Option(help="Folder of the table.", show_default="results/SUITE; of a part: OUT/results")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a table of the paper: rows with several seeds, measured alike, with verdicts. Run it again to resume."""
    with one_sentence():
        if suite.endswith(".toml"):
            look_for(Path(suite))
        from crossflow_eval.ablate.jobs import failures, jobs_of
        from crossflow_eval.ablate.plan import make_plan
        from crossflow_eval.ablate.write import collect, results_folder, write

        plan = make_plan(
            suite,
            scale=scale,
            out=out,
            rows=tuple(rows.split(",")) if rows else (),
            seeds=seeds,
            steps=steps,
            limit=limit,
            data=data,
            test_data=test_data,
            gpus=gpus,
        )
        if only is not None:
            _only(plan, only, show=not as_json)
            return
        todo = jobs_of(plan)
        if dry_run or print_commands:
            typer.echo(_commands(todo) if print_commands else _described(plan, todo))
            return
        if engine == "slurm":
            from crossflow_eval.ablate import slurm as cluster

            cluster.run_all(todo, plan.out, options=_options(slurm or []))
        else:
            from crossflow.files.progress import progress, silent
            from crossflow_eval.ablate import local

            local.run_all(todo, plan.out, jobs, gpus, silent if as_json else progress)
        where = results or results_folder(plan)
        text = write(plan, collect(plan), where)
        typer.echo((where / "results.json").read_text(encoding="utf-8") if as_json else text)
        typer.echo(f"Runs:  {plan.out}\nTable: {where / 'table.md'}\nPage:  {where / 'table.html'}", err=True)
        if failed := failures(todo, plan.out):
            name, reason = next(iter(failed.items()))
            raise CrossFlowError(
                f"{len(failed)} of {len(todo)} jobs failed, the first {name} ({reason.rstrip('.')}); what is finished "
                "is kept, and the same command tries them again."
            )


def _only(plan: Plan, name: str, show: bool) -> None:
    """Run one job of a plan."""
    from crossflow_eval.ablate.jobs import job_named
    from crossflow_eval.ablate.measure import make_references, measure
    from crossflow_eval.ablate.plan import Measurement

    found = job_named(plan, name)
    if isinstance(found, Measurement):
        measure(plan, found, bar(show))
    else:
        make_references(plan, *found, bar(show))


def _commands(todo: list[Job]) -> str:
    """The commands that are left, a comment before each level of the dependencies."""
    from crossflow_eval.ablate.jobs import levels

    lines: list[str] = []
    for number, level in enumerate(levels([job for job in todo if not job.done()]), 1):
        lines += [f"# {number}. in any order, and at the same time", *(job.line for job in level)]
    return "\n".join(lines) or "# Nothing is left to do."


def _described(plan: Plan, todo: list[Job]) -> str:
    """What is to be done: every training with the lines that share it, its steps and the time of them."""
    from crossflow_eval.ablate.describe import described

    return described(plan, todo)


def _options(given: list[str]) -> dict[str, str | int]:
    """KEY=VALUE pairs; whole numbers become numbers. Raises CrossFlowError for another form."""
    found: dict[str, str | int] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise CrossFlowError(f"--slurm {shlex.quote(pair)} is not KEY=VALUE, such as slurm_partition=gpu.")
        found[name] = int(value) if value.isdigit() else value
    return found
