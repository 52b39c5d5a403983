"""The commands ``train`` and ``train-reader``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from crossflow.cli.console import one_sentence, to_stderr
from crossflow.cli.options import Autoencoder, Device, TextEncoder


def _list_configs(wanted: bool) -> bool:
    if not wanted:
        return wanted
    with one_sentence():
        from crossflow.recipes import CONFIGS
        from crossflow.recipes.anytoany import ANY_TO_ANY, IN_ORDER, base_of, of_base

        for name, config in {**CONFIGS, **ANY_TO_ANY}.items():
            typer.echo(f"{name}: {config.model.summary}, {config.steps:,} steps of {config.batch_size}")
        for name, recipes in IN_ORDER.items():
            before = of_base(name)
            goes_on = "" if before is None else f"; with {before} of {base_of(name)} as --init, those after it"
            typer.echo(f"{name}: {len(recipes)} stages in order{goes_on}")
    raise typer.Exit


def train(
    config: Annotated[str, typer.Argument(help="Name of a recipe; see --list.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the run.", show_default=False)],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of your images, of a data set, of crossflow cache, or of the authors' features.",
            show_default=False,
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="How the data set lies in --data: images, your own with what belongs to them, tars, coco, ...",
            show_default="the recipe's",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the initial weights and of all sampling.")] = 0,
    init: Annotated[
        Path | None, typer.Option(help="A checkpoint to start from (fine-tuning).", show_default="fresh weights")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run in --out; at a constant rate with more --steps, too.")
    ] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of steps.", show_default="the recipe's")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Items per step, over all processes.", show_default="the recipe's")
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(min=1, help="Micro-batches per step (gradient accumulation).", show_default="the recipe's"),
    ] = None,
    shard: Annotated[bool, typer.Option("--shard", help="Shard the weights over processes (FSDP2).")] = False,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Recompute activations instead of storing them.")
    ] = False,
    text_encoder: TextEncoder = None,
    autoencoder: Autoencoder = None,
    precision: Annotated[str | None, typer.Option(help="auto, bf16 or fp32.", show_default="the recipe's")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also log for TensorBoard, into OUT/tensorboard.")
    ] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="Also log to Weights & Biases.")] = False,
    list_configs: Annotated[
        bool, typer.Option("--list", callback=_list_configs, is_eager=True, help="List the recipes and exit.")
    ] = False,
) -> None:
    """Train a recipe into a folder and print the path of the checkpoint.

    CONFIG codi trains all stages of the any-to-any system in order, each into a folder of its own inside --out, and
    codi-self and the like its variants; their --init may be a stage of codi, which leaves out what that has.

    The recipes own-* read a folder of your own images as it is, and what lies beside them. Others of text to image that
    read --data need the text encoder and the autoencoder for sample grids, and draw none without them. docs/recipes.md
    says how a data set is laid out.

    Several processes: torchrun --standalone --nproc-per-node 2 --no-python crossflow train CONFIG --out DIR
    """
    with one_sentence():
        from dataclasses import replace

        from crossflow.files.processes import rank_and_world
        from crossflow.recipes import recipe_named
        from crossflow.recipes.anytoany import IN_ORDER

        own = {"batch_size": batch_size, "accumulate": accumulate}
        recipes = {
            name: replace(
                recipe if steps is None else recipe.in_steps(steps),
                **{option: value for option, value in own.items() if value is not None},
            )
            for name, recipe in (IN_ORDER.get(config) or {config: recipe_named(config)}).items()
        }
        from crossflow.files.progress import progress
        from crossflow.training.in_order import train_in_order
        from crossflow.training.train import train as run

        chosen = {"tensorboard": tensorboard, "wandb": wandb}
        options: dict[str, Any] = {
            "data": data,
            "seed": seed,
            "init": init,
            "resume": resume,
            "precision": precision,
            "device": device,
            "shard": shard,
            "checkpointing": checkpointing,
            "text_encoder": text_encoder,
            "autoencoder": autoencoder,
            "progress": to_stderr,
            "stage": progress,
            "trackers": [name for name, wanted in chosen.items() if wanted],
        }
        if layout is not None:
            recipes = {name: recipe.laid_out(layout) for name, recipe in recipes.items()}
        single = recipes.get(config)
        path = train_in_order(recipes, out, **options) if single is None else run(single, out, **options)
        if rank_and_world()[0] == 0:  # under torchrun only the main process prints
            typer.echo(path)


def train_reader(
    checkpoint: Annotated[Path, typer.Argument(help="A text-to-image model, ours or released.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The file of the decoder.", show_default=False)],
    captions: Annotated[
        Path | None,
        typer.Option(
            help="What it is to read: Karpathy's caption_datasets.zip or dataset_coco.json, whose training part is "
            "taken; .jsonl or .csv with image and caption, or COCO's .json.",
            show_default="the scenes trained on",
        ),
    ] = None,
    text_encoder: TextEncoder = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Number of steps.", show_default="800, of captions 20000")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the initial weights and of all sampling.")] = 0,
    device: Device = "auto",
) -> None:
    """Train what reads captions off a text-to-image model run backward; crossflow-eval caption --reader measures it.

    On scenes one thread and a few minutes. The same seed on the same machine gives the same file.
    """
    with one_sentence(goes_on=False):
        import torch

        from crossflow.files.progress import progress
        from crossflow.training.train_prompt_reader import train_reader as run

        if captions is None:
            torch.set_num_threads(1)
        path = run(
            checkpoint,
            out,
            captions=captions,
            text_encoder=text_encoder,
            steps=steps,
            seed=seed,
            device=device,
            say=to_stderr,
            stage=progress,
        )
        typer.echo(path)
