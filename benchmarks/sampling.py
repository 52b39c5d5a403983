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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain import as_authors, in_turns, machine, matmul_rate, plain_velocity
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
EXACT = "plain, float32"
ON_GPU = "Not measured on a GPU: `python -m benchmarks.sampling --device cuda` does, and writes sampling-cuda.md."


class Way(NamedTuple):
    """A way to carry latents from t = 0 to 1, and the type that it multiplies in."""

    carry: Callable[[Tensor], Tensor]
    dtype: torch.dtype


def architecture(device: torch.device) -> DiMRConfig:
    released = CONFIGS["t2i-256px-clip-dimr"].model.backbone
    return released if device.type == "cuda" and isinstance(released, DiMRConfig) else REDUCED


def network_of(device: torch.device) -> DiMR:
    """Random weights; vectors are moved off their initial values, so that time matters in every norm."""
    with device:
        network = DiMR(architecture(device), SHAPE).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def counted(device: torch.device) -> tuple[int, int]:
    """Parameters, and FLOP of the velocity of one latent, where a multiplication with its addition is two."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        network = DiMR(architecture(device), SHAPE)
        network(torch.empty(1, *SHAPE), torch.empty(1), torch.ones(1, dtype=torch.bool))
    return sum(part.numel() for part in network.parameters()), counter.get_total_flops()


def ways(network: DiMR, steps: int, device: torch.device, compiled: bool) -> dict[str, Way]:
    """The plain path in both precisions, then ours; the precision that ``auto`` picks on this device comes last."""
    plain = as_authors(network)
    sampling = Sampling(solver="euler_official", steps=steps, guidance_scale=SCALE)
    single, half = torch.float32, torch.bfloat16
    auto = half if device.type == "cuda" else single
    found = {
        "plain, autocast to bfloat16": Way(
            partial(euler_official, plain_velocity(plain, SCALE, True), steps=steps), half
        ),
        EXACT: Way(partial(euler_official, plain_velocity(plain, SCALE, False), steps=steps), single),
        "ours, bfloat16": Way(Sampler(network, sampling, dtype=half), half),
        "ours, float32": Way(Sampler(network, sampling), single),
    }
    if compiled:
        name = f"ours, {str(auto).removeprefix('torch.')}, blocks compiled"
        found[name] = Way(Sampler(network, sampling, dtype=auto, compiled=True), auto)
    return found


def measure(steps: int, batch: int, rounds: int, device: torch.device) -> list[str]:
    """The lines: seconds an image, ratios to both plain paths, FLOP a second, share of the peak, differences."""
    network = network_of(device)
    x0 = torch.randn(batch, *SHAPE, device=device)
    compared = ways(network, steps, device, shutil.which("gcc") is not None)
    seconds = in_turns({name: partial(way.carry, x0) for name, way in compared.items()}, rounds, device)
    found = {name: way.carry(x0) for name, way in compared.items()}
    peaks = {dtype: matmul_rate(dtype, device) for dtype in (torch.float32, torch.bfloat16)}
    work = 2 * steps * counted(device)[1] * batch
    official = next(iter(seconds.values()))
    lines = []
    for name, spent in seconds.items():
        rate = work / spent
        worst, decibels = difference(found[name], found[EXACT])
        cells = (
            name,
            f"{spent / batch:.3f}",
            f"{batch / spent:.2f}",
            f"{official / spent:.2f}",
            f"{seconds[EXACT] / spent:.2f}",
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
    parameters, flops = counted(device)
    unit = "seconds of the GPU" if device.type == "cuda" else "CPU seconds"
    return "\n".join(
        (
            "# Sampling with DiMR",
            "",
            f"`{command}`; {machine(device)}.",
            f"{parameters / 1e6:.0f} M parameters, random weights, {flops / 1e9:.1f} GFLOP an evaluation; latents of",
            f"256 pixels, {batch} at once, {steps} steps with guidance. Times are {unit} an image, medians, all",
            "taking turns. Text encoder and autoencoder, the same on both sides, are left out; PNGs are in",
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
