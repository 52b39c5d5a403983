"""Random weights under the keys of the authors' files, of any size: what test_plain_released is given."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
"""The weights of a file and their shapes."""
TIME_DEPENDENT = ("param0", "param1", "nodecay_weight", "nodecay_bias")


def dense(at: str, inputs: int, outputs: int) -> Shapes:
    return {f"{at}.weight": (outputs, inputs), f"{at}.bias": (outputs,)}


def pair(at: str, *size: int, first: tuple[int, ...] | None = None) -> Shapes:
    return {f"{at}.weight": first or size, f"{at}.bias": size}


def timed(at: str, width: int) -> Shapes:
    return {f"{at}.{name}": (width,) for name in TIME_DEPENDENT}


def joined(parts: Iterable[Shapes]) -> Shapes:
    return {name: shape for part in parts for name, shape in part.items()}


def text_shapes(
    latent: int, tokens: int, width: int, hidden: int, depth: int, reductions: int, compress: int = 0, adapt: int = 0
) -> Shapes:
    """Of a text encoder; ``compress`` is the width of tokens that a compressor reads, ``adapt`` the Adaptor's side."""
    at = "context_encoder"
    shapes = {}
    if compress:
        shapes |= dense(f"{at}.compressor.fc1", compress, width) | dense(f"{at}.compressor.fc2", width, width)
        shapes |= pair(f"{at}.compressor.ln_fc1", width)
    for i in range(depth + reductions):
        here = f"{at}.layers.{i}" if i < depth else f"{at}.reduction_layers.{i - depth}"
        shapes |= joined(dense(f"{here}.attn.W_{name}", width, width) for name in "QKVO")
        shapes |= dense(f"{here}.feed_forward.ffn_1", width, hidden) | dense(
            f"{here}.feed_forward.ffn_2", hidden, width
        )
        shapes |= {f"{here}.norm{k}.{name}": (width,) for k in (1, 2) for name in "gb"}
        if i >= depth:
            shapes |= dense(f"{here}.reduction", width, width // 2)
            width //= 2
    if not adapt:
        return shapes | dense(f"{at}.linear", tokens * width, 2 * latent)
    at, flat, channels = f"{at}.adaptor", adapt * adapt, 2 * latent // adapt**2
    shapes |= dense(f"{at}.fc1", tokens * width, flat) | dense(f"{at}.fc2", flat, flat)
    shapes |= pair(f"{at}.ln_fc1", flat) | pair(f"{at}.ln_fc2", flat)
    shapes |= pair(f"{at}.conv1", 5, first=(5, 1, 3, 3)) | pair(f"{at}.ln_conv1", 5, adapt, adapt)
    shapes |= pair(f"{at}.conv2", 6, first=(6, 5, 3, 3)) | pair(f"{at}.ln_conv2", 6, adapt, adapt)
    return shapes | pair(f"{at}.conv3", channels, first=(channels, 6, 3, 3))


def dimr_shapes(channels: int, side: int, stages: list[tuple[int, int, int, int, int]]) -> Shapes:
    """Of stages as (width, hidden, depth, patch, kernel); kernel 0 is a transformer."""
    shapes, below = {}, (0, 0)
    for i, (width, hidden, depth, patch, kernel) in enumerate(stages):
        at, grid = f"stages.{i}", side // patch
        shapes |= pair(f"{at}.input_layer.1", width, first=(width, channels, patch, patch))
        shapes |= {f"{at}.input_layer.3.position_embeddings.weight": (grid * grid, width)}
        if i:
            features, ratio = below[0], grid // below[1]
            shapes |= timed(f"{at}.upsample.0.weight", features) | timed(f"{at}.upsample.0.bias", features)
            shapes |= dense(f"{at}.upsample.1.kernel", features, width * ratio**2)
            shapes |= timed(f"{at}.upsample.2.weight", width) | timed(f"{at}.upsample.2.bias", width)
        if not kernel:
            shapes |= {f"{at}.tensor_true": (1,), f"{at}.tensor_false": (1,)}
        for k in range(depth):
            here = f"{at}.blocks.{k}"
            if kernel:
                shapes |= pair(f"{here}.block1.1", width, first=(width, 1, kernel, kernel))
            else:
                shapes |= timed(f"{here}.block1.norm.scale", width) | dense(f"{here}.block1.dense", width, width)
                shapes |= {f"{here}.block1.query_key_value.weight": (3 * width, width)}
            shapes |= timed(f"{here}.block2.norm.scale", width) | dense(f"{here}.block2.w2", hidden, width)
            shapes |= dense(f"{here}.block2.w0", width, hidden) | dense(f"{here}.block2.w1", width, hidden)
        shapes |= joined(dense(f"{at}.skip_denses.{k}", 2 * width, width) for k in range(depth // 2))
        shapes |= timed(f"{at}.output_layer.0.weight", width) | timed(f"{at}.output_layer.0.bias", width)
        shapes |= pair(f"{at}.output_layer.2", channels, first=(channels, width, 3, 3))
        below = ((depth + 1) * width, grid)
    return shapes


def dit_shapes(channels: int, side: int, width: int, depth: int, patch: int) -> Shapes:
    shapes = {"pos_embed": (1, (side // patch) ** 2, width), "y_embedder.embedding_table.weight": (2, width)}
    shapes |= pair("x_embedder.proj", width, first=(width, channels, patch, patch))
    shapes |= dense("t_embedder.mlp.0", 256, width) | dense("t_embedder.mlp.2", width, width)
    for i in range(depth):
        shapes |= dense(f"blocks.{i}.attn.qkv", width, 3 * width) | dense(f"blocks.{i}.attn.proj", width, width)
        shapes |= dense(f"blocks.{i}.mlp.fc1", width, 4 * width) | dense(f"blocks.{i}.mlp.fc2", 4 * width, width)
        shapes |= dense(f"blocks.{i}.adaLN_modulation.1", width, 6 * width)
    shapes |= dense("final_layer.adaLN_modulation.1", width, 2 * width)
    return shapes | dense("final_layer.linear", width, patch * patch * channels)


def numbers(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    """Random float32 weights: matrices that keep the size of what they map, gains around 1, and nothing at 0 or 1.

    Of the time-dependent parameters, the two values are 1 apart and what decides between them is large, so that a
    channel's value turns early, late, or not at all.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        z = torch.randn(shape, generator=generator)
        match name.rsplit(".", 1)[1] if "." in name else name:
            case "nodecay_weight" | "nodecay_bias":
                return 3.0 * z
            case "param0" | "param1" | "g":
                return (0.0 if ".bias." in name else 1.0) + 0.7 * z
            case "weight" if len(shape) in (2, 4):
                return z / math.sqrt(math.prod(shape[1:]))
            case "weight":
                return 1.0 + 0.5 * z
        return 0.5 * z

    return {name: draw(name, shape) for name, shape in shapes.items()}
