"""The commands for outputs other than images of prompts: ``caption``, ``depth``, ``sr``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossflow_eval.cli import options
from crossflow_eval.cli.measure import measure

Checkpoint = Annotated[
    Path | None, typer.Option("--ckpt", help="A checkpoint, or outputs made elsewhere.", show_default="shipped")
]
ModelName = Annotated[
    str | None,
    typer.Option(help="crossflow, folder, or package.module:factory.", show_default="by what --ckpt is"),
]


def caption(
    ckpt: Checkpoint = None,
    model: ModelName = None,
    suite: Annotated[
        str | None,
        typer.Option(help="See `list`.", show_default="scenes-caption; coco_karpathy with --data or outputs"),
    ] = None,
    data: options.Data = None,
    limit: options.Limit = None,
    steps: options.Steps = None,
    guidance_scale: options.GuidanceScale = None,
    solver: options.Solver = None,
    precision: options.Precision = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    out: options.Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure captions; without options the shipped model's. --ckpt may be a COCO results .json or a .jsonl."""
    measure(
        as_json,
        task="caption",
        checkpoint=ckpt,
        model=model,
        suite=suite,
        data=data,
        limit=limit,
        steps=steps,
        guidance_scale=guidance_scale,
        solver=solver,
        precision=precision,
        seed=seed,
        device=device,
        out=out,
    )


def depth(
    ckpt: Checkpoint = None,
    model: ModelName = None,
    suite: Annotated[
        str | None,
        typer.Option(help="See `list`.", show_default="scenes-depth; kitti_eigen with --data or outputs"),
    ] = None,
    data: options.Data = None,
    limit: options.Limit = None,
    steps: options.Steps = None,
    guidance_scale: options.GuidanceScale = None,
    solver: options.Solver = None,
    precision: options.Precision = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    out: options.Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure depth maps; without options the shipped model's. --ckpt may be a folder of .npy, .npz or 16-bit .png."""
    measure(
        as_json,
        task="depth",
        checkpoint=ckpt,
        model=model,
        suite=suite,
        data=data,
        limit=limit,
        steps=steps,
        guidance_scale=guidance_scale,
        solver=solver,
        precision=precision,
        seed=seed,
        device=device,
        out=out,
    )


def sr(
    ckpt: Checkpoint = None,
    model: ModelName = None,
    suite: Annotated[
        str | None,
        typer.Option(help="See `list`.", show_default="scenes-sr; imagenet_sr with --data or outputs"),
    ] = None,
    data: options.Data = None,
    limit: options.Limit = None,
    steps: options.Steps = None,
    guidance_scale: options.GuidanceScale = None,
    solver: options.Solver = None,
    precision: options.Precision = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    out: options.Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure super-resolution; without options the shipped model's. --ckpt may be a folder of images."""
    measure(
        as_json,
        task="sr",
        checkpoint=ckpt,
        model=model,
        suite=suite,
        data=data,
        limit=limit,
        steps=steps,
        guidance_scale=guidance_scale,
        solver=solver,
        precision=precision,
        seed=seed,
        device=device,
        out=out,
    )
