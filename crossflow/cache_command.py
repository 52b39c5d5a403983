"""The command ``crossflow cache``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from crossflow.console import Autoencoder, Device, TextEncoder, one_sentence, to_stderr


def cache(
    config: Annotated[str, typer.Argument(help="Name of the recipe that will read it.", show_default=False)],
    images: Annotated[Path, typer.Option(help="Folder of images.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the shards.", show_default=False)],
    captions: Annotated[
        Path | None,
        typer.Option(help=".jsonl or .csv with image and caption, or COCO's .json.", show_default="NAME.txt by NAME"),
    ] = None,
    text_encoder: TextEncoder = None,
    autoencoder: Autoencoder = None,
    half: Annotated[bool, typer.Option("--half", help="Keep token embeddings in float16.")] = False,
    per_shard: Annotated[int, typer.Option(min=1, help="Pairs a shard.")] = 1024,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")] = False,
    device: Device = "auto",
) -> None:
    """Make a folder of images and captions into what training reads. Give the same command again to go on.

    Several processes: torchrun --standalone --nproc-per-node 2 --no-python crossflow cache CONFIG ...
    """
    with one_sentence():
        from crossflow.configs import CONFIGS, PairData
        from crossflow.errors import CrossFlowError, named

        recipe = named("config", config, CONFIGS)
        if not isinstance(recipe.data, PairData):
            raise CrossFlowError(f"{config} draws its own data: choose a recipe that reads pairs from a folder.")
        from crossflow.autoencoder import KLAutoencoder
        from crossflow.cache import cache as make
        from crossflow.checkpoint import content_sha256, usable_device
        from crossflow.latents import cache_folder
        from crossflow.pairs import parts_read
        from crossflow.pipeline import AUTOENCODER
        from crossflow.text import LanguageModel, embedder_named

        device = usable_device(device)
        if device == "cuda":
            device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        parts = parts_read(recipe)
        if "image_features" in parts:
            raise CrossFlowError(
                f"{config} reads image features, which this command does not make: choose the recipe without them."
            )
        embedder = embedder_named(recipe.model.text, text_encoder, device)
        source = autoencoder or cache_folder() / AUTOENCODER
        kl = KLAutoencoder.from_path(source, device=device)
        made_by = {"text": recipe.model.text, "autoencoder_sha256": content_sha256(source)}
        if isinstance(embedder, LanguageModel):
            made_by["text_encoder_sha256"] = content_sha256(embedder.folder)
        make(
            images,
            captions,
            out,
            embedder,
            kl,
            recipe=made_by,
            size=recipe.data.size,
            token_count=recipe.model.token_count,
            per_shard=per_shard,
            tokens_dtype="float16" if half else "float32",
            keep_images="image" in parts,
            skip_bad=skip_bad,
            process_index=int(os.environ.get("RANK", 0)),
            process_count=int(os.environ.get("WORLD_SIZE", 1)),
            progress=to_stderr,
        )
        if os.environ.get("RANK", "0") == "0":  # under torchrun one process speaks for all
            typer.echo(out)
