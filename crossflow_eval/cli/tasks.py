"""The commands for outputs other than images of prompts: ``caption``, ``depth``, ``sr``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from crossflow_eval.cli import options
from crossflow_eval.cli.measure import measure

Outputs = Annotated[Path | None, typer.Option("--ckpt", help="Where the outputs are.", show_default=False)]
ModelName = Annotated[str, typer.Option(help="folder, or package.module:factory.")]


def caption(
    ckpt: Outputs = None,
    model: ModelName = "folder",
    suite: Annotated[str, typer.Option(help="See `list`.")] = "coco_karpathy",
    data: options.Data = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    out: options.Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure captions: a COCO results .json or a .jsonl (id, caption), or a model."""
    _measure("caption", ckpt, model, suite, data, limit, seed, out, as_json)


def depth(
    ckpt: Outputs = None,
    model: ModelName = "folder",
    suite: Annotated[str, typer.Option(help="See `list`.")] = "kitti_eigen",
    data: options.Data = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    out: options.Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure depth maps: a folder of .npy, .npz or 16-bit .png, or a model."""
    _measure("depth", ckpt, model, suite, data, limit, seed, out, as_json)


def sr(
    ckpt: Outputs = None,
    model: ModelName = "folder",
    suite: Annotated[str, typer.Option(help="See `list`.")] = "imagenet_sr",
    data: options.Data = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    out: options.Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure super-resolution: a folder of images, or a model."""
    _measure("sr", ckpt, model, suite, data, limit, seed, out, as_json)


def _measure(
    task: Literal["caption", "depth", "sr"],
    ckpt: Path | None,
    model: str,
    suite: str,
    data: Path | None,
    limit: int | None,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    measure(
        as_json,
        task=task,
        checkpoint=ckpt,
        model=model,
        suite=suite,
        data=data,
        limit=limit,
        seed=seed,
        out=out,
    )
