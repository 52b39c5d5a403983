"""Weights sharded over processes (FSDP2): sharding a model, and gathering and scattering its tensors.

A sharded tensor is a ``DTensor``; the functions here also accept plain tensors and leave these unchanged.
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
"""The modules that are gathered and resharded as one unit: the blocks of every network."""


def divide(model: nn.Module, device: torch.device) -> None:
    """Shard ``model`` over all processes and move it to ``device``: each block as a unit, and the rest as one.

    Weights are gathered, and gradients averaged, in their own precision, so that under autocast the arithmetic and the
    results are those of DDP.
    """
    mesh = init_device_mesh(device.type, (get_world_size(),))
    for name, module in reversed(list(model.named_modules())):  # inner modules first, as fully_shard requires
        if UNIT.fullmatch(name):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """The gathered tensors, on the CPU if they were sharded; empty without ``keep``.

    All processes must call it together. Tensors are gathered one at a time, so that processes that keep none need
    little memory.
    """
    found = {}
    for name, tensor in tensors.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            found[name] = full.cpu() if isinstance(tensor, DTensor) else full
    return found


def share_of(held: Tensor) -> Tensor:
    """The part of a tensor that this process holds."""
    return held.to_local() if isinstance(held, DTensor) else held


def share_like(full: Tensor, held: Tensor) -> Tensor:
    """This process's shard of a whole tensor, sharded as ``held`` is."""
    if not isinstance(held, DTensor):
        return full
    full = full.to(held.device)
    return distribute_tensor(full, held.device_mesh, held.placements, src_data_rank=None)
