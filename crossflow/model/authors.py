"""The authors' released checkpoints (github.com/qihao067/CrossFlow): configs and names of their weights.

Such a file is one state dict of float32 tensors, a ``.pth`` or a ``.safetensors`` with the same keys. It holds no
config, so the config is inferred from the shapes. Shapes do not determine the number of attention heads: it is known
for the widths in the authors' code; for any other width it is assumed to be one per 64 channels, but at least four, and
a warning says so.

The file also holds the image tower, ``open_clip*``, which only training needs; it is dropped.
"""

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from crossflow.errors import CrossFlowError, Notice
from crossflow.modalities.kl_autoencoder import KLConfig
from crossflow.modalities.tokens import TokensConfig
from crossflow.model.authors_models import AUTHORS_LOSSES, AUTHORS_MODELS, STAGE_WEIGHTS
from crossflow.model.crossflow import FlowConfig
from crossflow.model.settings import Sampling
from crossflow.networks.dimr import DiMRConfig, Stage
from crossflow.networks.dit import DiTConfig
from crossflow.sources.released import ReleasedEncoderConfig

TRAINING_ONLY = ("open_clip.", "open_clip_output.")
"""Prefixes of weights that sampling does not need."""
DIMR_HEADS = {960: 16, 1024: 16}
"""Attention heads by width, of every DiMR in the authors' code."""
DIT_HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16, 1280: 20}
"""Attention heads by width, of every DiT in the authors' code."""

COMPILED = "_orig_mod."
PREFIXES = ("module.", "model.", "ema.", "nnet.")
"""What wrappers put before the names of all weights."""
HALVES = (torch.float16, torch.bfloat16)

Shapes = Mapping[str, Sequence[int]]


def released_name(name: str) -> str:
    """The name of our weight ``name`` in released files."""
    name = name.removeprefix("backbone.")
    return f"context_encoder.{name.removeprefix('encoder.')}" if name.startswith("encoder.") else name


def our_name(name: str) -> str:
    """Our name of the weight ``name`` in released files."""
    inner = name.removeprefix("context_encoder.")
    return f"backbone.{name}" if inner == name else f"encoder.{inner}"


def plain(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The weights in float32 and without the prefixes of wrappers, and in words what was done to them.

    ``module.`` is DistributedDataParallel's, ``_orig_mod.``, which may be inside a name, torch.compile's.
    """
    found, done = {name.replace(COMPILED, ""): part for name, part in tensors.items()}, []
    if found.keys() != tensors.keys():
        done.append(f"{COMPILED} was taken out of the names of its weights")
    while prefix := next((each for each in PREFIXES if found and all(name.startswith(each) for name in found)), None):
        found = {name.removeprefix(prefix): part for name, part in found.items()}
        done.append(f"the prefix {prefix} was taken off the names of its weights")
    halves = {str(part.dtype).removeprefix("torch.") for part in found.values() if part.dtype in HALVES}
    if halves:
        found = {name: part.float() if part.dtype in HALVES else part for name, part in found.items()}
        done.append(f"its weights are {' and '.join(sorted(halves))}, and are made float32")
    return found, done


def split(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The weights that sampling needs, and the names of the others."""
    dropped = sorted(name for name in tensors if name.startswith(TRAINING_ONLY))
    return {name: part for name, part in tensors.items() if not name.startswith(TRAINING_ONLY)}, dropped


def infer_config(path: str | Path, shapes: Shapes, heads: int | None = None) -> FlowConfig:
    """The config of a released model from the shapes of its weights, with the authors' recipe and sampling settings.

    ``heads`` is the number of attention heads of the backbone; None applies the rule above. CrossFlowError for a file
    of another architecture; it names the first missing weight.
    """
    try:
        config = _config(shapes, heads)
    except KeyError as error:
        raise CrossFlowError(
            f"{path} is no CrossFlow checkpoint, neither ours nor a released one: it has no weight {error.args[0]}."
        ) from error
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise CrossFlowError(
            f"{path} is no CrossFlow checkpoint, neither ours nor a released one: its weights have strange shapes."
        ) from error
    except CrossFlowError as error:
        raise CrossFlowError(f"{path} cannot be read as a released checkpoint: {error}") from error
    released = AUTHORS_MODELS.values()
    return next((known for known in released if replace(config, guidance=known.guidance) == known), config)


def _config(shapes: Shapes, heads: int | None) -> FlowConfig:
    encoder, token_count, token_width = _text_encoder(shapes)
    backbone, shape = _dimr(shapes, heads) if "stages.0.input_layer.1.weight" in shapes else _dit(shapes, heads)
    stages = backbone.resolutions
    return FlowConfig(
        shape=shape,
        reads=TokensConfig(
            model="t5-v1.1-xxl" if encoder.compress else "clip-vit-l14", count=token_count, width=token_width
        ),
        source=encoder,
        target=KLConfig(),
        backbone=backbone,
        losses=AUTHORS_LOSSES,
        stage_weights=STAGE_WEIGHTS.get(stages) or tuple(0.5 ** (stages - 1 - i) for i in range(stages)),
        sampling=Sampling(solver="euler_official", steps=50, guidance_scale=7.0),
    )


def _dimr(shapes: Shapes, heads: int | None) -> tuple[DiMRConfig, tuple[int, int, int]]:
    stages, sides, channels = [], set(), 0
    for i in range(_count(shapes, "stages")):
        here = f"stages.{i}"
        width, channels, patch, _ = shapes[f"{here}.input_layer.1.weight"]
        sides.add(math.isqrt(shapes[f"{here}.input_layer.3.position_embeddings.weight"][0]) * patch)
        attends = f"{here}.blocks.0.block1.query_key_value.weight" in shapes
        stages.append(
            Stage(
                block="transformer" if attends else "convnext",
                width=width,
                hidden=shapes[f"{here}.blocks.0.block2.w0.weight"][0],
                depth=_count(shapes, f"{here}.blocks"),
                patch=patch,
                heads=_heads(width, heads, DIMR_HEADS) if attends else 1,
                kernel=7 if attends else shapes[f"{here}.blocks.0.block1.1.weight"][-1],
            )
        )
    (side,) = sides
    return DiMRConfig(stages=tuple(stages)), (channels, side, side)


def _dit(shapes: Shapes, heads: int | None) -> tuple[DiTConfig, tuple[int, int, int]]:
    width, channels, patch, _ = shapes["x_embedder.proj.weight"]
    side = math.isqrt(shapes["pos_embed"][1]) * patch
    depth, heads = _count(shapes, "blocks"), _heads(width, heads, DIT_HEADS)
    return DiTConfig(width=width, depth=depth, heads=heads, patch=patch), (channels, side, side)


def _text_encoder(shapes: Shapes) -> tuple[ReleasedEncoderConfig, int, int]:
    """The text encoder, and the count and width of the tokens that it reads."""
    here = "context_encoder"
    width = shapes[f"{here}.layers.0.attn.W_Q.weight"][0]
    reductions = _count(shapes, f"{here}.reduction_layers")
    compress = f"{here}.compressor.fc1.weight" in shapes
    adapted = f"{here}.adaptor.fc1.weight" in shapes
    first = shapes[f"{here}.adaptor.fc1.weight" if adapted else f"{here}.linear.weight"]
    convolutions = (shapes[f"{here}.adaptor.conv{i}.weight"][0] for i in (1, 2) if adapted)
    config = ReleasedEncoderConfig(
        width=width,
        depth=_count(shapes, f"{here}.layers"),
        hidden=shapes[f"{here}.layers.0.feed_forward.ffn_1.weight"][0],
        reductions=reductions,
        compress=compress,
        adaptor=(first[0], next(convolutions), next(convolutions)) if adapted else None,
    )
    token_width = shapes[f"{here}.compressor.fc1.weight"][1] if compress else width
    return config, first[1] // (width // 2**reductions), token_width


def _heads(width: int, said: int | None, known: Mapping[int, int]) -> int:
    if said is not None or width in known:
        return known[width] if said is None else said
    heads = max(4, width // 64)
    warnings.warn(
        f"No file says how many attention heads it has, and {width} is not a width of the authors': {heads} are taken; "
        "`crossflow convert` with --heads sets others.",
        Notice,
        stacklevel=2,
    )
    return heads


def _count(shapes: Shapes, prefix: str) -> int:
    """The number of indexed modules under ``prefix``; gaps are found later, when the weights are checked."""
    pattern = re.compile(rf"{re.escape(prefix)}\.(\d+)\.")
    return 1 + max((int(found[1]) for name in shapes if (found := pattern.match(name))), default=-1)
