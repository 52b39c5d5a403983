"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunFolder = Annotated[Path, typer.Argument(help="A run's folder.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and no progress.")]
Checkpoint = Annotated[
    Path | None,
    typer.Option("--ckpt", help="A checkpoint, or the images with --model folder.", show_default="shipped"),
]
ModelName = Annotated[str, typer.Option(help="crossflow, folder, diffusers:PATH_OR_ID, or package.module:factory.")]
Data = Annotated[Path | None, typer.Option(help="The suite's data root.", show_default=False)]
Limit = Annotated[int | None, typer.Option(help="Only the first examples.", show_default="all")]
Steps = Annotated[int | None, typer.Option(help="Solver steps.", show_default="the model's")]
GuidanceScale = Annotated[float | None, typer.Option(help="1 is none.", show_default="the model's")]
Solver = Annotated[str | None, typer.Option(help="Name of a solver.", show_default="the checkpoint's")]
Size = Annotated[int | None, typer.Option(help="Pixels a side, of diffusers.", show_default="the pipeline's")]
TextEncoder = Annotated[Path | None, typer.Option(help="Folder of CLIP or T5.", show_default="the hub's cache")]
Autoencoder = Annotated[
    Path | None, typer.Option(help="autoencoder_kl.pth or diffusers' folder.", show_default="in CROSSFLOW_CACHE")
]
Precision = Annotated[str | None, typer.Option(help="auto, or a type such as bfloat16.", show_default="auto")]
Seed = Annotated[int, typer.Option(help="Seed of the whole run.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N.", show_default="auto")]
Out = Annotated[Path | None, typer.Option(help="The run's folder.", show_default="runs/SUITE/MODEL-DIGEST")]
