"""The commands that run a suite, or score a run again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from crossflow.errors import one_sentence
from crossflow_eval.cli import options
from crossflow_eval.cli.progress import bar


def t2i(
    ckpt: options.Checkpoint = None,
    model: options.ModelName = "crossflow",
    suite: Annotated[
        str | None, typer.Option(help="See `list`.", show_default="scenes-t2i; folder with --captions")
    ] = None,
    data: options.Data = None,
    captions: Annotated[
        Path | None, typer.Option(help="Prompts: .csv or .jsonl (image, caption), or COCO .json.", show_default=False)
    ] = None,
    limit: options.Limit = None,
    steps: options.Steps = None,
    guidance_scale: options.GuidanceScale = None,
    solver: options.Solver = None,
    size: options.Size = None,
    text_encoder: options.TextEncoder = None,
    autoencoder: options.Autoencoder = None,
    precision: options.Precision = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    out: options.Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure a text-to-image model; without options the shipped one. Run it again to resume."""
    measure(
        as_json,
        checkpoint=ckpt,
        model=model,
        captions=captions,
        data=data,
        suite=suite,
        limit=limit,
        steps=steps,
        guidance_scale=guidance_scale,
        solver=solver,
        size=size,
        text_encoder=text_encoder,
        autoencoder=autoencoder,
        precision=precision,
        seed=seed,
        device=device,
        out=out,
    )


def geneval(
    ckpt: options.Checkpoint = None,
    model: options.ModelName = "crossflow",
    limit: options.Limit = None,
    steps: options.Steps = None,
    guidance_scale: options.GuidanceScale = None,
    solver: options.Solver = None,
    size: options.Size = None,
    text_encoder: options.TextEncoder = None,
    autoencoder: options.Autoencoder = None,
    precision: options.Precision = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    out: options.Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure a text-to-image model by GenEval: `t2i --suite geneval`. --model folder reads GenEval's own layout."""
    t2i(
        suite="geneval",
        ckpt=ckpt,
        model=model,
        limit=limit,
        steps=steps,
        guidance_scale=guidance_scale,
        solver=solver,
        size=size,
        text_encoder=text_encoder,
        autoencoder=autoencoder,
        precision=precision,
        seed=seed,
        device=device,
        out=out,
        as_json=as_json,
    )


def score(run: options.RunFolder, data: options.Data = None, as_json: options.AsJson = False) -> None:
    """Score a run's outputs again, without generating."""
    with one_sentence():
        from crossflow_eval.runs import launch

        launch.score_again(run, bar(not as_json), data)
        _finish(run, as_json)


def measure(as_json: bool, **asked: Any) -> None:
    """Run what was ``asked``, the fields of a ``launch.Request``, and print its result."""
    with one_sentence():
        from crossflow_eval.runs import launch

        result, folder = launch.evaluate(launch.Request(**asked), bar(not as_json))
        if result is not None:
            _finish(folder, as_json)


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
