"""Sampling with DiMR, ours against the plain path: ``python -m benchmarks.sampling``, on a GPU with ``--device cuda``.

Writes results/benchmarks/sampling.md or sampling-cuda.md. The plain path is what the official sampler does
(``benchmarks.plain``). Both sides carry the same latents by the official Euler solver at guidance scale 7. The weights
are random, since the time does not depend on them. On a GPU the network is that of the released model at 256 pixels,
on a CPU one of its kind that is 55 times smaller.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain import as_authors, in_turns, machine, matmul_rate, measured, peak_memory, plain_velocity
from crossflow.files.devices import usable_device
from crossflow.flow.solver import euler_official
from crossflow.model.settings import Sampling
from crossflow.networks.dimr import DiMR, DiMRConfig, Stage
from crossflow.recipes import CONFIGS
from crossflow.sampling.sampler import Sampler

SCALE = 7.0
SHAPE = (4, 32, 32)
REDUCED = DiMRConfig(
    stages=(
        Stage(block="transformer", width=256, hidden=512, depth=17, heads=4, patch=2),
        Stage(block="convnext", width=128, hidden=256, depth=9, patch=1),
    )
)
OFFICIAL = "plain, autocast to bfloat16"
EXACT = "plain, float32"
ON_GPU = "Not measured on a GPU: `python -m benchmarks.sampling --device cuda` does, and writes sampling-cuda.md."


Carry = Callable[[Tensor], Tensor]
"""Carries latents from t = 0 to 1."""


class Way(NamedTuple):
    """How to make a way to carry latents, and the type that it multiplies in."""

    make: Callable[[], Carry]
    dtype: torch.dtype


class Carried(NamedTuple):
    """Median seconds of a batch, what a GPU held at most, and where the latents came to."""

    seconds: float
    memory: int | None
    latents: Tensor


def architecture(device: torch.device) -> DiMRConfig:
    released = CONFIGS["t2i-256px-clip-dimr"].model.backbone
    return released if device.type == "cuda" and isinstance(released, DiMRConfig) else REDUCED


def network_of(config: DiMRConfig, device: torch.device) -> DiMR:
    """Random weights; vectors are moved off their initial values, so that time matters in every norm."""
    with device:
        network = DiMR(config, SHAPE).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def counted(config: DiMRConfig) -> tuple[int, int]:
    """Parameters, and FLOP of the velocity of one latent, where a multiplication with its addition is two."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        network = DiMR(config, SHAPE)
        network(torch.empty(1, *SHAPE), torch.empty(1), torch.ones(1, dtype=torch.bool))
    return sum(part.numel() for part in network.parameters()), counter.get_total_flops()


def ways(network: DiMR, steps: int, compiled: torch.dtype | None = None) -> dict[str, Way]:
    """The plain path in both precisions, then ours, also with blocks ``compiled`` where their type is given."""
    sampling = Sampling(solver="euler_official", steps=steps, guidance_scale=SCALE)
    single, half = torch.float32, torch.bfloat16

    def plain(autocast: bool) -> Carry:
        return partial(euler_official, plain_velocity(as_authors(network), SCALE, autocast), steps=steps)

    found = {
        OFFICIAL: Way(partial(plain, True), half),
        EXACT: Way(partial(plain, False), single),
        "ours, bfloat16": Way(partial(Sampler, network, sampling, dtype=half), half),
        "ours, float32": Way(partial(Sampler, network, sampling), single),
    }
    if compiled is not None:
        name = f"ours, {str(compiled).removeprefix('torch.')}, blocks compiled"
        found[name] = Way(partial(Sampler, network, sampling, dtype=compiled, compiled=True), compiled)
    return found


def carried(compared: Mapping[str, Way], x0: Tensor, rounds: int) -> dict[str, Carried]:
    """Ways that take turns."""
    carry = {name: way.make() for name, way in compared.items()}
    seconds = in_turns({name: partial(each, x0) for name, each in carry.items()}, rounds, x0.device)
    return {name: Carried(seconds[name], peak_memory(x0.device), each(x0)) for name, each in carry.items()}


def measure(steps: int, batch: int, rounds: int, device: torch.device) -> list[str]:
    """The lines: seconds an image, ratios to both plain paths, FLOP a second, share of the peak, differences."""
    network = network_of(architecture(device), device)
    x0 = torch.randn(batch, *SHAPE, device=device)
    auto = torch.bfloat16 if device.type == "cuda" else torch.float32
    compared = ways(network, steps, auto if shutil.which("gcc") else None)
    found = dict(measured(partial(carried, x0=x0, rounds=rounds), compared, device))
    peaks = {dtype: matmul_rate(dtype, device) for dtype in (torch.float32, torch.bfloat16)}
    work = 2 * steps * counted(architecture(device))[1] * batch
    lines = []
    for name, each in found.items():
        rate = work / each.seconds
        worst, decibels = difference(each.latents, found[EXACT].latents)
        cells = (
            name,
            f"{each.seconds / batch:.3f}",
            f"{batch / each.seconds:.2f}",
            f"{found[OFFICIAL].seconds / each.seconds:.2f}",
            f"{found[EXACT].seconds / each.seconds:.2f}",
            f"{rate / 1e9:,.0f}",
            f"{100 * rate / peaks[compared[name].dtype]:.0f} %",
            f"{worst:.1e}",
            "" if math.isinf(decibels) else f"{decibels:.0f} dB",
        )
        lines.append(f"| {' | '.join(cells)} |")
    rates = ", ".join(f"{str(dtype).removeprefix('torch.')} {rate / 1e9:,.0f}" for dtype, rate in peaks.items())
    return [*lines, "", f"The peak is that of large matrix products, measured in this run: {rates} GFLOP/s."]


def difference(found: Tensor, exact: Tensor) -> tuple[float, float]:
    """The largest one, and the ratio of the exact latents' range to the root mean square one, in decibels."""
    error = (found - exact).double()
    rms = float(error.square().mean().sqrt())
    span = float(exact.max() - exact.min())
    return float(error.abs().max()), 20 * math.log10(span / rms) if rms else math.inf


def report(lines: list[str], command: str, batch: int, steps: int, device: torch.device) -> str:
    """The Markdown page."""
    parameters, flops = counted(architecture(device))
    unit = "seconds of the GPU" if device.type == "cuda" else "CPU seconds"
    turns = "one after the other" if device.type == "cuda" else "taking turns"
    return "\n".join(
        (
            "# Sampling with DiMR",
            "",
            f"`{command}`; {machine(device)}.",
            f"{parameters / 1e6:.0f} M parameters, random weights, {flops / 1e9:.1f} GFLOP an evaluation; latents of",
            f"256 pixels, {batch} at once, {steps} steps with guidance. Times are {unit} an image, medians, all",
            f"{turns}. Text encoder and autoencoder, the same on both sides, are left out; PNGs are in",
            "png.md. The plain path with autocast is the official sampler's. Differences are of latents, to the plain",
            "path in float32; the peak of the PSNR is the range of these latents.",
            "",
            "| path | s | images/s | faster than autocast | than plain float32 | GFLOP/s | share of the peak "
            "| largest difference | PSNR |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
            *lines,
            "",
            *([] if device.type == "cuda" else [ON_GPU, ""]),
        )
    )


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, help="20 on a GPU, as the official sampler takes, else 1")
    parser.add_argument("--steps", type=int, help="50 on a GPU, else 10")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = torch.device(usable_device(args.device))
    on_gpu = device.type == "cuda"
    batch, steps = args.batch or (20 if on_gpu else 1), args.steps or (50 if on_gpu else 10)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    lines = measure(steps, batch, args.rounds, device)
    command = f"python -m benchmarks.sampling --device {device} --batch {batch} --steps {steps} --rounds {args.rounds}"
    page = report(lines, command, batch, steps, device)
    out = args.out or Path(f"results/benchmarks/sampling{'-cuda' if on_gpu else ''}.md")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page)
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
