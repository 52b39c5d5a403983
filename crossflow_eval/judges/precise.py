"""How judges compute, whatever was set before by the program, or by the model, that they are run beside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def in_float32() -> Iterator[None]:
    """Without gradients, and in float32 as protocols say: neither convolutions nor products of matrices in TF32.

    Convolutions are in TF32 by torch's own default on a GPU; products are once ``torch.set_float32_matmul_precision``
    has said so, which a model's module often does.
    """
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
