"""An autoencoder's weights in the format of CompVis, of any size: what the tests of autoencoders read."""

from collections.abc import Sequence

import torch


def compvis_state(widths: Sequence[int], blocks: int) -> dict[str, torch.Tensor]:
    """Random weights under CompVis' names for levels of these widths, the norms' away from one and zero."""
    generator = torch.Generator().manual_seed(0)
    state = {}

    def add(name: str, *shape: int) -> None:
        fan_in = torch.Size(shape[1:]).numel()
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) / fan_in**0.5
        state[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)

    def block(name: str, inner: int, outer: int) -> None:
        add(f"{name}.norm1", inner)
        add(f"{name}.conv1", outer, inner, 3, 3)
        add(f"{name}.norm2", outer)
        add(f"{name}.conv2", outer, outer, 3, 3)
        if inner != outer:
            add(f"{name}.nin_shortcut", outer, inner, 1, 1)

    def middle(name: str) -> None:
        block(f"{name}.block_1", widths[-1], widths[-1])
        add(f"{name}.attn_1.norm", widths[-1])
        for part in ["q", "k", "v", "proj_out"]:
            add(f"{name}.attn_1.{part}", widths[-1], widths[-1], 1, 1)
        block(f"{name}.block_2", widths[-1], widths[-1])

    add("encoder.conv_in", widths[0], 3, 3, 3)
    inner = widths[0]
    for level, width in enumerate(widths):
        for number in range(blocks):
            block(f"encoder.down.{level}.block.{number}", inner, width)
            inner = width
        if level < len(widths) - 1:
            add(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
    middle("encoder.mid")
    add("encoder.norm_out", widths[-1])
    add("encoder.conv_out", 8, widths[-1], 3, 3)
    add("quant_conv", 8, 8, 1, 1)
    add("post_quant_conv", 4, 4, 1, 1)
    add("decoder.conv_in", widths[-1], 4, 3, 3)
    middle("decoder.mid")
    for level in reversed(range(len(widths))):
        for number in range(blocks + 1):
            block(f"decoder.up.{level}.block.{number}", inner, widths[level])
            inner = widths[level]
        if level:
            add(f"decoder.up.{level}.upsample.conv", inner, inner, 3, 3)
    add("decoder.norm_out", widths[0])
    add("decoder.conv_out", 3, widths[0], 3, 3)
    return state
