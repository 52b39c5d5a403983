"""What the benchmarks of speed share: DiMR run as the authors' program runs it, and how work is measured.

The plain path keeps float32 weights that autocast rounds again at every call, computes all that depends on time at
every call after asking the device whether the times are equal, takes norms apart into their operations and attention
through float32, and answers the two halves of guidance one after the other.
"""

from __future__ import annotations

import copy
import gc
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from statistics import median
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossflow.flow.solver import Velocity
from crossflow.networks.dimr import Attention, DiMR
from crossflow.networks.time_dependent import TimeRMSNorm
from crossflow_eval.environment import hardware

Side = TypeVar("Side")
Found = TypeVar("Found")


class PlainRMSNorm(nn.Module):
    """gain(t) x / (rms + 1e-8), in as many operations as it is written with."""

    def __init__(self, norm: TimeRMSNorm) -> None:
        super().__init__()
        self.scale = norm.scale

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        gain = self.scale(t).reshape(-1, *[1] * (x.ndim - 2), x.shape[-1])
        rms = x.norm(2, dim=-1, keepdim=True) * x.shape[-1] ** -0.5
        return gain * (x / (rms + 1e-8))


class PlainAttention(nn.Module):
    """Self-attention after its norm; queries, keys and values go through float32."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads = attention.heads
        self.norm = PlainRMSNorm(attention.norm)
        self.query_key_value, self.dense = attention.query_key_value, attention.dense

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        joined = self.query_key_value(self.norm(x, t)).unflatten(-1, (3, self.heads, -1))
        query, key, value = (part.transpose(1, 2).float() for part in joined.unbind(2))
        return self.dense(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


def as_authors(network: DiMR) -> DiMR:
    """A copy with plain norms and attention."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, part in list(module.named_children()):
            if isinstance(part, Attention):
                setattr(module, name, PlainAttention(part))
            elif isinstance(part, TimeRMSNorm):
                setattr(module, name, PlainRMSNorm(part))
    return network


def plain_velocity(network: DiMR, scale: float, autocast: bool) -> Velocity:
    """The guided velocity, the halves of guidance one after the other."""

    def half(x: Tensor, t: Tensor, conditional: bool) -> Tensor:
        with rounding(x.device, autocast):
            return network(x, shared(t), torch.tensor([conditional] * len(x)).to(x.device))

    @torch.no_grad()
    def velocity(x: Tensor, t: Tensor) -> Tensor:
        better, worse = half(x, t, True), half(x, t, False)
        return worse + scale * (better - worse)

    return velocity


def shared(t: Tensor) -> Tensor:
    """One time for all where they are equal, which is read back from the device."""
    return t[:1] if bool(torch.all(t == t[0])) else t


def rounding(device: torch.device, active: bool) -> AbstractContextManager[object]:
    """Autocast to bfloat16, or nothing."""
    return torch.autocast(device.type, torch.bfloat16) if active else nullcontext()


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """How long ``work`` takes: CPU seconds of this process, or of a GPU the time until it is idle again."""
    if device.type != "cuda":
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def in_turns(works: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each, after one round that does not count; they take turns, so that a slow hour hits all."""
    spent: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            seconds = seconds_of(work, device)
            if number:
                spent[name].append(seconds)
    return {name: median(each) for name, each in spent.items()}


def measured(
    compare: Callable[[Mapping[str, Side]], Mapping[str, Found]], sides: Mapping[str, Side], device: torch.device
) -> Iterator[tuple[str, Found]]:
    """What ``compare`` finds of each side, as soon as it is known.

    On a CPU the sides take turns; on a GPU, which nobody shares, each has the memory to itself.
    """
    if device.type != "cuda":
        yield from compare(sides).items()
        return
    for name, side in sides.items():
        torch.cuda.reset_peak_memory_stats(device)
        yield from compare({name: side}).items()
        gc.collect()
        torch.cuda.empty_cache()


def peak_memory(device: torch.device) -> int | None:
    """The most bytes of a GPU that tensors held at once in this side of ``measured``; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def matmul_rate(dtype: torch.dtype, device: torch.device, side: int | None = None) -> float:
    """FLOP a second of the best of several products of square matrices: of large ones, the peak that can be reached."""
    large, times = (8192, 20) if device.type == "cuda" else (2048, 3)
    side = side or large
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

    def work() -> None:
        for _ in range(times):
            torch.matmul(a, b)

    work()
    return 2 * side**3 * times / min(seconds_of(work, device) for _ in range(5))


def machine(device: torch.device) -> str:
    """What the numbers were measured on."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{hardware()}, one thread used"
    return f"{where}; Python {platform.python_version()}, torch {torch.__version__}"
