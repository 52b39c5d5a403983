"""Weights divided among processes (FSDP2): cut on the way in, gathered whole on the way out.

What is divided is a ``DTensor``; all functions here take whole tensors too, and leave these as they are.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed import get_world_size
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

UNIT = re.compile(r"(.*[._])?(blocks|layers)\.\d+")
"""The modules that are gathered, used and let go as one: the blocks of every network."""


def divide(model: nn.Module, device: torch.device) -> None:
    """Divide ``model`` among all processes and bring it to ``device``: each block by itself, and the rest as one.

    Weights are gathered, and gradients averaged, in the precision they have: under autocast the arithmetic is that of
    DDP, and so are the numbers.
    """
    mesh = init_device_mesh(device.type, (get_world_size(),))
    for name, module in reversed(list(model.named_modules())):  # the inner ones first, as fully_shard wants it
        if UNIT.fullmatch(name):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """The tensors gathered, on the CPU where they were divided; none of them unless ``keep``.

    All processes call it together, and one at a time is gathered, so that those that keep none need no memory.
    """
    found = {}
    for name, tensor in tensors.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            found[name] = full.cpu() if isinstance(tensor, DTensor) else full
    return found


def share_like(full: Tensor, held: Tensor) -> Tensor:
    """This process's share of a whole tensor, divided as ``held`` is."""
    if not isinstance(held, DTensor):
        return full
    full = full.to(held.device)
    return distribute_tensor(full, held.device_mesh, held.placements, src_data_rank=None)
