"""The commands around a measurement: ``prepare``, ``stats``, ``doctor``, ``weights list | verify | fetch``."""

# Nothing heavy is imported here: ``--help`` answers at once, and each command imports what it needs.
from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from crossflow.errors import one_sentence
from crossflow.files.program import reading
from crossflow.files.progress import At, progress
from crossflow_eval.cli.terminal import print_table

if TYPE_CHECKING:
    from crossflow_eval.judges.weights import EvaluatorWeights
    from crossflow_eval.runs.doctor import Finding

weights = typer.Typer(no_args_is_help=True, help="The evaluators' published weights: list, verify or fetch them.")
prepare = typer.Typer(
    no_args_is_help=True,
    help="Make what a suite reads of a data set as it is published, or what it asks of another program.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Files = Annotated[list[str] | None, typer.Argument(help="File names; see `weights list`.", show_default="all")]


@weights.command(name="list")
def list_weights(as_json: AsJson = False) -> None:
    """List the files: what for, from where, licence, and whether they are here."""
    from crossflow_eval.judges.local_weights import home
    from crossflow_eval.judges.weights import PUBLISHED

    rows = [{**asdict(each), "here": (home() / each.file).exists()} for each in PUBLISHED]
    if as_json:
        return typer.echo(json.dumps({"folder": str(home()), "weights": rows}, indent=2))
    shown = ("metric", "file", "sha256", "licence", "url", "here")
    print_table(shown, [[str(row[name])[:16] if name == "sha256" else row[name] for name in shown] for row in rows])
    typer.echo(f"Folder: {home()} (CROSSFLOW_EVAL_HOME)", err=True)


@weights.command()
def verify(files: Files = None, as_json: AsJson = False) -> None:
    """Compare the files that are here with the published ones. Exit code 2 if one is missing or differs."""
    with one_sentence():
        from crossflow_eval.runs.doctor import weights_finding

        _report((weights_finding(each) for each in _named(files)), as_json)


@weights.command()
def fetch(files: Annotated[list[str], typer.Argument(help="File names, or all.", show_default=False)]) -> None:
    """Download files into the folder of the weights; call it again to go on where it was stopped."""
    with one_sentence():
        from crossflow_eval.judges.fetch import fetch as fetched

        for each in _named(None if files == ["all"] else files):
            with progress(each.file, "MB") as at:
                typer.echo(fetched(each, partial(_megabytes, at)))


def _megabytes(at: At, done: int, total: int | None) -> None:
    at(done // 10**6, None if total is None else total // 10**6)


@prepare.command()
@reading
def imagenet_sr(
    images: Annotated[Path, typer.Argument(help="ImageNet's validation images.", show_default=False)],
    root: Annotated[Path, typer.Argument(help="The suites' data root to write.", show_default=False)],
) -> None:
    """Make the pairs of 64 and 256 pixels of the suites imagenet_sr; call it again to go on where it was stopped."""
    with one_sentence():
        from crossflow_eval.cli.progress import bar
        from crossflow_eval.suites.superres import HIGH
        from crossflow_eval.suites.superres import prepare as prepared

        made, dropped = prepared(images, root, cast(Any, bar(True, "images")))
        typer.echo(f"{made} pairs in {root}; {dropped} images below {HIGH} pixels were left out", err=True)
        typer.echo(root)


@prepare.command(name="any")
def any_asks(
    out: Annotated[Path, typer.Argument(help="The folder to write.", show_default=False)],
    suite: Annotated[str, typer.Option(help="A suite of any to any.")] = "scenes-any-matrix",
    limit: Annotated[int | None, typer.Option(help="Only the first examples.", show_default="all")] = None,
) -> None:
    """Write what a suite of any to any asks for, asks.jsonl and the inputs as files, for another program."""
    with one_sentence():
        from crossflow.errors import named
        from crossflow_eval.runs.run import first_examples
        from crossflow_eval.suites.scenes import any_to_any
        from crossflow_eval.suites.scenes.any_asks import ASKS, write_asks

        known = named("suite of any to any", suite, dict.fromkeys(any_to_any.SUITES, suite))
        count = write_asks(first_examples(any_to_any.suite(known).examples(None), limit), out, progress)
        typer.echo(f"{count} examples; what is made of each is called ID.MODALITY and a suffix", err=True)
        typer.echo(out / ASKS)


def stats(
    images: Annotated[Path, typer.Argument(help="A folder of images, or ADM's .npz of them.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The .npz file to write.", show_default=False)],
    protocol: Annotated[
        str,
        typer.Option(
            help="clean, legacy_tensorflow, legacy_pytorch, crossflow, adm, t2ibenchmark, or efficientnet-lite0, "
            "which needs no download."
        ),
    ] = "clean",
    n: Annotated[int | None, typer.Option(help="Only the first, by name.", show_default="all")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="float32, or bfloat16, which moves FID a little.")] = "float32",
) -> None:
    """Write the reference of an FID: mean and covariance of the features of images, and JSON of what made them."""
    with one_sentence():
        from crossflow.files.devices import own_device
        from crossflow_eval.cli.progress import bar
        from crossflow_eval.metrics.fid import make_statistics

        where, track = own_device(device), cast(Any, bar(True, "images"))
        make_statistics(images, out, protocol, n=n, precision=precision, device=where, track=track)
        typer.echo(out)


def doctor(
    data: Annotated[
        Path | None, typer.Option(help="The data root of the suites that read one.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what can run on this machine, with the data, weights and programs that are here, and what the rest lacks."""
    with one_sentence():
        from crossflow_eval.runs.doctor import examine

        _report(examine(data), as_json, demanded=False)


def _named(files: Iterable[str] | None) -> list[EvaluatorWeights]:
    from crossflow.errors import unknown
    from crossflow_eval.judges.weights import PUBLISHED

    known = {each.file: each for each in PUBLISHED}
    for name in files or ():
        if name not in known:
            raise unknown("weights file", name, known)
    return [known[name] for name in files or known]


def _report(findings: Iterable[Finding], as_json: bool, demanded: bool = True) -> None:
    found = list(findings)
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in found], indent=2))
    else:
        print_table(
            ("", "", "", ""), [("yes" if each.ready else "no", each.kind, each.name, each.detail) for each in found]
        )
    if demanded and not all(each.ready for each in found):
        raise typer.Exit(2)
