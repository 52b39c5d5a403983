"""The command ``cache``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from crossflow.cli.console import one_sentence, to_stderr
from crossflow.cli.options import Autoencoder, Device, TextEncoder

if TYPE_CHECKING:
    from crossflow.losses.towers import FrozenSiglip
    from crossflow.modalities.kl_autoencoder import KLAutoencoder
    from crossflow.modalities.modality import TextEmbedder
    from crossflow.modalities.tokens import TokensConfig


def cache(
    config: Annotated[str, typer.Argument(help="Name of the recipe that will read it.", show_default=False)],
    images: Annotated[Path, typer.Option(help="Folder of images.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the shards.", show_default=False)],
    captions: Annotated[
        Path | None,
        typer.Option(
            help=".jsonl or .csv with image and caption, COCO's .json, or Karpathy's archive: its training part.",
            show_default="NAME.txt by NAME",
        ),
    ] = None,
    text_encoder: TextEncoder = None,
    autoencoder: Autoencoder = None,
    image_tower: Annotated[
        Path | None, typer.Option(help="SigLIP's weights, for recipes with image features.", show_default=False)
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Keep token embeddings in float16.")] = False,
    per_shard: Annotated[int, typer.Option(min=1, help="Pairs per shard.")] = 1024,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")] = False,
    device: Device = "auto",
) -> None:
    """Encode a folder of images and captions for training. The same command again resumes.

    Several processes: torchrun --standalone --nproc-per-node 2 --no-python crossflow cache CONFIG ...
    """
    with one_sentence():
        from crossflow.errors import CrossFlowError
        from crossflow.files.devices import own_device
        from crossflow.files.locks import check_writable
        from crossflow.files.processes import rank_and_world
        from crossflow.files.progress import progress, silent
        from crossflow.modalities.tokens import TokensConfig
        from crossflow.recipes import recipe_named
        from crossflow.training.data.cache import cache as make
        from crossflow.training.data.folders import parts_read

        recipe = recipe_named(config)
        if recipe.data.kind != "folder":
            how = (
                "draws its own data"
                if recipe.data.kind in ("scenes", "events")
                else "reads its data set as it is, without a cache"
            )
            raise CrossFlowError(f"{config} {how}: choose a recipe that reads pairs from a folder.")
        rank, world = rank_and_world()
        if rank == 0:
            check_writable(out, "encoding")
        parts, device = parts_read(recipe), own_device(device)
        tower, seen_by = _tower(config, image_tower, device) if "image_features" in parts else (None, {})
        embedder, kl, made_by = _loaded(cast(TokensConfig, recipe.model.reads), text_encoder, autoencoder, device)
        make(
            images,
            captions,
            out,
            embedder,
            kl,
            recipe=made_by | seen_by,
            size=recipe.data.size,
            token_count=recipe.model.reads.shape[0],
            per_shard=per_shard,
            tokens_dtype="float16" if half else "float32",
            keep_images="image" in parts,
            image_tower=tower,
            skip_bad=skip_bad,
            process_index=rank,
            process_count=world,
            progress=to_stderr,
            stage=progress if rank == 0 else silent,
        )
        if rank == 0:  # under torchrun only the main process prints
            typer.echo(out)


def _loaded(
    reads: TokensConfig, text_encoder: Path | None, autoencoder: Path | None, device: str
) -> tuple[TextEmbedder, KLAutoencoder, dict[str, str]]:
    """Text encoder and autoencoder, and their entries in the index."""
    from crossflow.files.folders import cache_folder
    from crossflow.files.hashes import content_sha256
    from crossflow.modalities.kl_autoencoder import KLAutoencoder
    from crossflow.modalities.text_embedders import weights_of
    from crossflow.sampling.text_to_image import AUTOENCODER

    embedder = reads.embedder(text_encoder, device)
    source = autoencoder or cache_folder() / AUTOENCODER
    kl = KLAutoencoder.from_path(source, device=device)
    made_by = {"text": reads.model, "autoencoder_sha256": content_sha256(source)}
    return embedder, kl, made_by | weights_of(embedder)


def _tower(config: str, weights: Path | None, device: str) -> tuple[FrozenSiglip, dict[str, str]]:
    """The network that computes image features, and its entry in the index."""
    from crossflow.errors import CrossFlowError
    from crossflow.files.hashes import content_sha256
    from crossflow.losses.towers import FrozenSiglip

    if weights is None or not weights.is_file():
        raise CrossFlowError(
            f"{config} reads image features: give --image-tower the file open_clip_model.safetensors of "
            "timm/ViT-L-16-SigLIP-256 on the hub."
        )
    return FrozenSiglip(weights, device), {"image_tower_sha256": content_sha256(weights)}
