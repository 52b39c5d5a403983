"""The commands on checkpoint files: ``convert``, ``export`` and ``info``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from crossflow.cli.console import one_sentence, to_stderr
from crossflow.cli.options import Guidance, Solver, Steps


def convert(
    file: Annotated[Path, typer.Argument(help="A checkpoint that the authors released.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.", show_default=False)],
    heads: Annotated[
        int | None, typer.Option(min=1, help="Attention heads, which no file states.", show_default="by the width")
    ] = None,
) -> None:
    """Convert a released checkpoint to our format, without training-only weights."""
    with one_sentence():
        from crossflow.model.checkpoint import convert as converted

        dropped = converted(file, out, heads)
        to_stderr(f"{len(dropped)} training-only weights dropped: open_clip*" if dropped else "")
        typer.echo(out)


def export(
    file: Annotated[Path, typer.Argument(help="A checkpoint.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Where to write it.", show_default=False)],
    solver: Solver = None,
    steps: Steps = None,
    guidance_scale: Guidance = None,
    half: Annotated[bool, typer.Option("--half", help="In half precision, to be computed in float32.")] = False,
) -> None:
    """Copy a checkpoint with other default sampling settings, as chosen on a validation split, or half as large."""
    with one_sentence():
        from crossflow.anytoany.system import export_system
        from crossflow.model.checkpoint import export_checkpoint, holds_system
        from crossflow.model.settings import Override

        exported = export_system if holds_system(file) else export_checkpoint
        exported(file, out, Override(solver=solver, steps=steps, guidance_scale=guidance_scale), half=half)
        typer.echo(out)


def info(file: Annotated[Path | None, typer.Argument(help="A checkpoint.", show_default="the shipped")] = None) -> None:
    """Print a checkpoint's config and training as JSON."""
    with one_sentence():
        from crossflow.files.folders import shipped
        from crossflow.model.checkpoint import describe

        typer.echo(json.dumps(describe(file or shipped("t2i")), indent=2))
