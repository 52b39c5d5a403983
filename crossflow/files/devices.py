"""The device that a name means on this machine."""

import torch

from crossflow.errors import CrossFlowError


def usable_device(name: str) -> str:
    """``name`` (cpu, cuda or cuda:N) if this machine has it; ``auto`` is cuda where there is one, else cpu."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    usable = ["cpu", *(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count))]
    name = usable[min(1, len(usable) - 1)] if name == "auto" else name
    if name not in usable:
        raise CrossFlowError(f"This machine has no device {name!r}: it has {', '.join(usable)}.")
    return name
