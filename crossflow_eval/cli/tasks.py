"""The commands for outputs other than images of prompts: ``caption``, ``depth``, ``sr``."""

# Annotations are evaluated where they stand: those of ``suite`` differ from command to command.
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

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


def _command(task: Literal["caption", "depth", "sr"], field_suite: str, text: str) -> Callable[..., None]:
    """The command of a task, with ``text`` as its help; ``field_suite`` measures what was made elsewhere."""
    suites = f"scenes-{task}; {field_suite} with --data or outputs"

    def command(
        ckpt: Checkpoint = None,
        model: ModelName = None,
        suite: Annotated[str | None, typer.Option(help="See `list`.", show_default=suites)] = None,
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
        measure(
            as_json,
            task=task,
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

    command.__name__, command.__doc__ = task, text
    return command


caption = _command(
    "caption",
    "coco_karpathy",
    "Measure captions; without options the shipped model's. --ckpt may be a COCO results .json or a .jsonl.",
)
depth = _command(
    "depth",
    "kitti_eigen",
    "Measure depth maps; without options the shipped model's. --ckpt may be a folder of .npy, .npz or 16-bit .png.",
)
sr = _command(
    "sr",
    "imagenet_sr",
    "Measure super-resolution; without options the shipped model's. --ckpt may be a folder of images.",
)
