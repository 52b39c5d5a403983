"""Train CrossFlow models, draw with them, look into their files. Results on stdout, everything else on stderr."""

# Nothing heavy is imported here: ``--help`` answers at once, and each command imports what it needs.
from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from crossflow.cli.cache import cache
from crossflow.cli.console import Autoencoder, Device, TextEncoder, one_sentence, to_stderr
from crossflow.cli.from_image import from_image

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

SHIPPED = Path(__file__).parents[1] / "weights" / "scenes-t2i.safetensors"

Checkpoint = Annotated[Path, typer.Option("--ckpt", help="A checkpoint, ours or released.", show_default="the shipped")]
Solver = Annotated[str | None, typer.Option(help="Name of a solver.", show_default="the checkpoint's")]
Steps = Annotated[int | None, typer.Option(help="Solver steps.", show_default="the checkpoint's")]
Guidance = Annotated[float | None, typer.Option(help="1 is none.", show_default="the checkpoint's")]
Precision = Annotated[str, typer.Option(help="auto, float64, float32 or bfloat16.")]
Images = Annotated[Path, typer.Option(help="Folder for the images.", show_default=False)]


def _list_configs(wanted: bool) -> bool:
    if not wanted:
        return wanted
    with one_sentence():
        from crossflow.recipes import CONFIGS

        for name, config in CONFIGS.items():
            kind = "standard flow matching" if config.model.encoder is None else "CrossFlow"
            network = type(config.model.backbone).__name__.removesuffix("Config")
            typer.echo(f"{name}: {kind}, {network}, {config.steps:,} steps of {config.batch_size}")
    raise typer.Exit


@app.command()
def train(
    config: Annotated[str, typer.Argument(help="Name of a recipe; see --list.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the run.", show_default=False)],
    data: Annotated[
        Path | None, typer.Option(help="Folder of crossflow cache, or of the authors' features.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the weights and of every draw.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in --out was stopped.")] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of steps.", show_default="the recipe's")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Items a step, over all processes.", show_default="the recipe's")
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option(min=1, help="Parts a step, one after the other.", show_default="the recipe's")
    ] = None,
    shard: Annotated[bool, typer.Option("--shard", help="Divide the weights among processes (FSDP2).")] = False,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Compute activations again and not keep them.")
    ] = False,
    text_encoder: TextEncoder = None,
    autoencoder: Autoencoder = None,
    precision: Annotated[str | None, typer.Option(help="auto, bf16 or fp32.", show_default="the recipe's")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    list_configs: Annotated[
        bool, typer.Option("--list", callback=_list_configs, is_eager=True, help="List the recipes and exit.")
    ] = False,
) -> None:
    """Train a recipe into a folder; the path of the checkpoint is printed.

    The text encoder and the autoencoder draw the sample grids of recipes that read --data; without them there are none.

    Several processes: torchrun --standalone --nproc-per-node 2 --no-python crossflow train CONFIG --out DIR
    """
    with one_sentence():
        from dataclasses import replace

        from crossflow.errors import named
        from crossflow.recipes import CONFIGS

        recipe = named("config", config, CONFIGS)
        own = {"steps": steps, "batch_size": batch_size, "accumulate": accumulate}
        recipe = replace(recipe, **{name: value for name, value in own.items() if value is not None})
        from crossflow.training.train import train as run

        path = run(
            recipe,
            out,
            data=data,
            seed=seed,
            resume=resume,
            precision=precision,
            device=device,
            shard=shard,
            checkpointing=checkpointing,
            text_encoder=text_encoder,
            autoencoder=autoencoder,
            progress=to_stderr,
        )
        if os.environ.get("RANK", "0") == "0":  # under torchrun one process speaks for all
            typer.echo(path)


app.command()(cache)


@app.command()
def sample(
    out: Annotated[Path, typer.Option(help="Folder for the images and samples.jsonl.", show_default=False)],
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt; may be repeated.", show_default=False)] = None,
    prompts: Annotated[Path | None, typer.Option(help="A file of prompts, one a line.", show_default=False)] = None,
    ckpt: Checkpoint = SHIPPED,
    per_prompt: Annotated[int, typer.Option(min=1, help="Images a prompt.")] = 1,
    seed: Annotated[int, typer.Option(help="With prompt and copy it decides an image.")] = 0,
    solver: Solver = None,
    steps: Steps = None,
    guidance_scale: Guidance = None,
    text_encoder: TextEncoder = None,
    autoencoder: Autoencoder = None,
    precision: Precision = "auto",
    device: Device = "auto",
) -> None:
    """Draw prompts into a folder. Give the same command again to go on where it was stopped."""
    with one_sentence():
        from crossflow.errors import CrossFlowError

        if (prompt is None) == (prompts is None):
            raise CrossFlowError("Give either --prompt TEXT, once or more, or --prompts FILE.")
        count = len(prompt or ()) if prompts is None else _count(prompts)
        from crossflow.sampling.samples import draw_into
        from crossflow.sampling.text_to_image import TextToImage

        pipeline = TextToImage.from_checkpoint(ckpt, device, text_encoder, autoencoder, precision)
        sampling = pipeline.sampling(solver, steps, guidance_scale)
        with _bar(None if count is None else count * per_prompt) as advance:
            lines = iter(prompt or ()) if prompts is None else _lines(prompts)
            drawn = draw_into(out, pipeline, lines, sampling, seed=seed, per_prompt=per_prompt, advance=advance)
        if drawn.truncated:
            limit = pipeline.model.config.token_count
            typer.echo(f"{drawn.truncated} prompts are longer than {limit} tokens: their ends were not read.", err=True)
        to_stderr(f"{drawn.new} images drawn, {drawn.kept} kept from before")
        typer.echo(out / "samples.jsonl")


app.command()(from_image)


@app.command()
def interpolate(
    first: Annotated[str, typer.Argument(help="The prompt to begin with.", show_default=False)],
    last: Annotated[str, typer.Argument(help="The prompt to end with.", show_default=False)],
    out: Images,
    frames: Annotated[int, typer.Option(min=2, help="Images, both ends included.")] = 40,
    ckpt: Checkpoint = SHIPPED,
    seed: Annotated[int, typer.Option(help="It decides both sources.")] = 0,
    solver: Solver = None,
    steps: Steps = None,
    guidance_scale: Guidance = None,
    text_encoder: TextEncoder = None,
    autoencoder: Autoencoder = None,
    precision: Precision = "auto",
    device: Device = "auto",
) -> None:
    """Walk on a line from one prompt's source to another's: frames, a grid and an animation."""
    with one_sentence():
        from crossflow.sampling import latent_space
        from crossflow.sampling.text_to_image import TextToImage

        pipeline = TextToImage.from_checkpoint(ckpt, device, text_encoder, autoencoder, precision)
        sampling = pipeline.sampling(solver, steps, guidance_scale)
        typer.echo(latent_space.draw_walk(pipeline, (first, last), frames, sampling, seed, out))


@app.command()
def arithmetic(
    base: Annotated[str, typer.Option(help="The prompt to begin with.", show_default=False)],
    out: Images,
    add: Annotated[list[str] | None, typer.Option(help="A prompt to add; may be repeated.", show_default=False)] = None,
    subtract: Annotated[
        list[str] | None, typer.Option(help="A prompt to subtract; may be repeated.", show_default=False)
    ] = None,
    scale: Annotated[float, typer.Option(help="Multiplies what is added and subtracted.")] = 1.0,
    ckpt: Checkpoint = SHIPPED,
    seed: Annotated[int, typer.Option(help="It decides all sources.")] = 0,
    solver: Solver = None,
    steps: Steps = None,
    guidance_scale: Guidance = None,
    text_encoder: TextEncoder = None,
    autoencoder: Autoencoder = None,
    precision: Precision = "auto",
    device: Device = "auto",
) -> None:
    """Add and subtract the sources of prompts: an image of each prompt, and of the sum."""
    with one_sentence():
        from crossflow.sampling import latent_space
        from crossflow.sampling.text_to_image import TextToImage

        pipeline = TextToImage.from_checkpoint(ckpt, device, text_encoder, autoencoder, precision)
        sampling = pipeline.sampling(solver, steps, guidance_scale)
        terms = latent_space.Sum(base=base, add=tuple(add or ()), subtract=tuple(subtract or ()), scale=scale)
        typer.echo(latent_space.draw_sum(pipeline, terms, sampling, seed, out))


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="A checkpoint that the authors released.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.", show_default=False)],
    heads: Annotated[
        int | None, typer.Option(min=1, help="Attention heads, which no file tells.", show_default="by the width")
    ] = None,
) -> None:
    """Write a released checkpoint as one of ours, without what only training needs."""
    with one_sentence():
        from crossflow.model.checkpoint import convert as converted

        dropped = converted(file, out, heads)
        to_stderr(f"{len(dropped)} weights dropped, which are needed in training only: open_clip*" if dropped else "")
        typer.echo(out)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="A checkpoint.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Where to write it.", show_default=False)],
    solver: Annotated[str, typer.Option(help="Name of a solver.", show_default=False)],
    steps: Annotated[int, typer.Option(min=1, help="Solver steps.", show_default=False)],
    guidance_scale: Annotated[float, typer.Option(help="1 is none.", show_default=False)],
) -> None:
    """Copy a checkpoint with other recommended sampling settings, as chosen on a validation split."""
    with one_sentence():
        from crossflow.model.checkpoint import export_checkpoint
        from crossflow.model.config import Sampling

        export_checkpoint(file, out, Sampling(solver=solver, steps=steps, guidance_scale=guidance_scale))
        typer.echo(out)


@app.command()
def info(file: Annotated[Path, typer.Argument(help="A checkpoint.", show_default=False)] = SHIPPED) -> None:
    """Print what a checkpoint is and how it was trained, as JSON."""
    with one_sentence():
        from crossflow.model.checkpoint import describe

        typer.echo(json.dumps(describe(file), indent=2))


def _lines(path: Path) -> Iterator[str]:
    """The prompts in a file of UTF-8 text, one a line, without blank lines; it is never read whole."""
    from crossflow.errors import CrossFlowError

    found = False
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line in file:
                if text := line.strip():
                    found = True
                    yield text
    except OSError as error:
        raise CrossFlowError(f"The prompts {path} cannot be read ({error.strerror}): give a text file.") from error
    except UnicodeDecodeError as error:
        raise CrossFlowError(f"The prompts {path} are not UTF-8 text ({error.reason}): convert the file.") from error
    if not found:
        raise CrossFlowError(f"{path} holds no prompt: write one a line.")


def _count(path: Path) -> int | None:
    """The number of prompts in a file, which is so checked as a whole; None for a pipe, which can be read only once."""
    return None if path.is_fifo() else sum(1 for _ in _lines(path))


@contextmanager
def _bar(total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("drawing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        yield lambda count: progress.advance(task, count)
