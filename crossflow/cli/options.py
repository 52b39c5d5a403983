"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Checkpoint = Annotated[
    Path | None, typer.Option("--ckpt", help="A checkpoint, ours or released.", show_default="the shipped")
]
Solver = Annotated[str | None, typer.Option(help="Name of a solver.", show_default="the checkpoint's")]
Steps = Annotated[int | None, typer.Option(help="Solver steps.", show_default="the checkpoint's")]
Guidance = Annotated[float | None, typer.Option(help="1 is no guidance.", show_default="the checkpoint's")]
Weaker = Annotated[
    Path | None,
    typer.Option(help="A weaker version of the model that guides it: an earlier checkpoint.", show_default=False),
]
Precision = Annotated[str, typer.Option(help="auto, float64, float32 or bfloat16.")]
Images = Annotated[Path, typer.Option(help="Folder for the images.", show_default=False)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
TextEncoder = Annotated[Path | None, typer.Option(help="Folder of CLIP or T5.", show_default="the hub's cache")]
Autoencoder = Annotated[
    Path | None, typer.Option(help="autoencoder_kl.pth or diffusers' folder.", show_default="in CROSSFLOW_CACHE")
]
