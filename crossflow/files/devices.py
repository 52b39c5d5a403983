"""Device names, resolved on this machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from crossflow.errors import CrossFlowError

_AUTO: ContextVar[str] = ContextVar("auto", default="auto")


@contextmanager
def auto_device(name: str | None) -> Iterator[None]:
    """Let ``auto`` be the device ``name`` for all that is loaded meanwhile. CrossFlowError where there is none such."""
    before = _AUTO.set("auto" if name is None else usable_device(name))
    try:
        yield
    finally:
        _AUTO.reset(before)


def usable_device(name: str) -> str:
    """``name`` (cpu, cuda or cuda:N) if this machine has it; ``auto`` is cuda if available, else cpu.

    Within ``auto_device``, ``auto`` is what that says. CrossFlowError for a device that the machine does not have.
    """
    name = _AUTO.get() if name == "auto" else name
    if name == "cpu":  # known without torch, which takes seconds to import
        return name
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    usable = ["cpu", *(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count))]
    name = usable[min(1, len(usable) - 1)] if name == "auto" else name
    if name not in usable:
        raise CrossFlowError(f"This machine has no device {name!r}: it has {', '.join(usable)}.")
    return name


def own_device(name: str) -> str:
    """``usable_device``, except that under ``torchrun`` ``auto`` and ``cuda`` give each local process its own GPU."""
    device, local = usable_device(name), os.environ.get("LOCAL_RANK", "")
    if device != "cuda" or not local.isdecimal():
        return device
    import torch

    return f"cuda:{int(local) % torch.cuda.device_count()}"
