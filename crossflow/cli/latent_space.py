"""The commands on source latents: ``interpolate`` and ``arithmetic``."""

from __future__ import annotations

from typing import Annotated

import typer

from crossflow.cli.console import one_sentence
from crossflow.cli.options import (
    Autoencoder,
    Checkpoint,
    Device,
    Guidance,
    Images,
    Precision,
    Solver,
    Steps,
    TextEncoder,
)


def interpolate(
    first: Annotated[str, typer.Argument(help="The prompt to begin with.", show_default=False)],
    last: Annotated[str, typer.Argument(help="The prompt to end with.", show_default=False)],
    out: Images,
    frames: Annotated[int, typer.Option(min=2, help="Number of images, both ends included.")] = 40,
    ckpt: Checkpoint = None,
    seed: Annotated[int, typer.Option(help="It determines both source latents.")] = 0,
    solver: Solver = None,
    steps: Steps = None,
    guidance_scale: Guidance = None,
    text_encoder: TextEncoder = None,
    autoencoder: Autoencoder = None,
    precision: Precision = "auto",
    device: Device = "auto",
) -> None:
    """Interpolate between the source latents of two prompts: frames, a grid and an animation."""
    with one_sentence(goes_on=False):
        from crossflow.files.folders import shipped
        from crossflow.files.locks import check_writable
        from crossflow.model.settings import Override
        from crossflow.sampling import latent_space
        from crossflow.sampling.text_to_image import TextToImage

        check_writable(out, "writing")
        pipeline = TextToImage.from_checkpoint(ckpt or shipped("t2i"), device, text_encoder, autoencoder, precision)
        sampling = pipeline.defaults.but(Override(solver=solver, steps=steps, guidance_scale=guidance_scale))
        typer.echo(latent_space.draw_walk(pipeline, (first, last), frames, sampling, seed, out))


def arithmetic(
    base: Annotated[str, typer.Option(help="The prompt to begin with.", show_default=False)],
    out: Images,
    add: Annotated[list[str] | None, typer.Option(help="A prompt to add; may be repeated.", show_default=False)] = None,
    subtract: Annotated[
        list[str] | None, typer.Option(help="A prompt to subtract; may be repeated.", show_default=False)
    ] = None,
    scale: Annotated[float, typer.Option(help="Multiplies what is added and subtracted.")] = 1.0,
    ckpt: Checkpoint = None,
    seed: Annotated[int, typer.Option(help="It determines all source latents.")] = 0,
    solver: Solver = None,
    steps: Steps = None,
    guidance_scale: Guidance = None,
    text_encoder: TextEncoder = None,
    autoencoder: Autoencoder = None,
    precision: Precision = "auto",
    device: Device = "auto",
) -> None:
    """Add and subtract the source latents of prompts: an image of each prompt, and of the sum."""
    with one_sentence(goes_on=False):
        from crossflow.files.folders import shipped
        from crossflow.files.locks import check_writable
        from crossflow.model.settings import Override
        from crossflow.sampling import latent_space
        from crossflow.sampling.text_to_image import TextToImage

        check_writable(out, "writing")
        pipeline = TextToImage.from_checkpoint(ckpt or shipped("t2i"), device, text_encoder, autoencoder, precision)
        sampling = pipeline.defaults.but(Override(solver=solver, steps=steps, guidance_scale=guidance_scale))
        terms = latent_space.Sum(base=base, add=tuple(add or ()), subtract=tuple(subtract or ()), scale=scale)
        typer.echo(latent_space.draw_sum(pipeline, terms, sampling, seed, out))
