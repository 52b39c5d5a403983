"""The commands on checkpoint files: ``convert``, ``export`` and ``info``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from crossflow.cli.console import one_sentence, to_stderr


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
    solver: Annotated[str, typer.Option(help="Name of a solver.", show_default=False)],
    steps: Annotated[int, typer.Option(min=1, help="Solver steps.", show_default=False)],
    guidance_scale: Annotated[float, typer.Option(help="1 is no guidance.", show_default=False)],
) -> None:
    """Copy a checkpoint with other default sampling settings, as chosen on a validation split."""
    with one_sentence():
        from crossflow.model.checkpoint import export_checkpoint
        from crossflow.model.settings import Sampling

        export_checkpoint(file, out, Sampling(solver=solver, steps=steps, guidance_scale=guidance_scale))
        typer.echo(out)


def info(file: Annotated[Path | None, typer.Argument(help="A checkpoint.", show_default="the shipped")] = None) -> None:
    """Print a checkpoint's config and training as JSON."""
    with one_sentence():
        from crossflow.files.folders import shipped
        from crossflow.model.checkpoint import describe

        typer.echo(json.dumps(describe(file or shipped("t2i")), indent=2))
