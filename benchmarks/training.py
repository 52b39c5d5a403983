"""A training step of the released model, ours against the plain one: ``python -m benchmarks.training``.

Writes results/benchmarks/training.md, with ``--device cuda`` training-cuda.md. The plain step is written as the
authors' program has it: plain norms and attention (``benchmarks.plain``), activations computed again in the backward
pass, text encoder, image tower and network called one after the other, AdamW as PyTorch has it by default, and a moving
average of every tensor by itself. Ours is ``CrossFlow.forward`` as ``crossflow train`` calls it: activations kept,
fused AdamW, one fused moving average; on a GPU also with compiled blocks. Both sides begin with the same weights and
get the same batches, random latents and features of images that were computed beforehand: the recipe
``t2i-256px-clip-dimr-image-features``, on a CPU with a network that is 55 times smaller.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain import as_authors, in_turns, machine, matmul_rate, measured, peak_memory, rounding
from benchmarks.sampling import REDUCED
from crossflow.files.devices import usable_device
from crossflow.flow import losses
from crossflow.flow.batch import Batch, Item
from crossflow.flow.losses import Draws
from crossflow.losses import KL
from crossflow.losses.towers import IMAGE_FEATURES, PIXELS, SIGLIP, SIGLIP_SIDE, SIGLIP_WIDTH, FeatureTower
from crossflow.model.crossflow import CrossFlow, FlowConfig
from crossflow.networks.dimr import DiMR, DiMRConfig
from crossflow.recipes import CONFIGS
from crossflow.recipes.recipe import TrainConfig
from crossflow.sampling.sampler import compile_blocks
from crossflow.sources.released import ReleasedEncoderConfig
from crossflow.training.optimizer import Optimizer

RECIPE = CONFIGS["t2i-256px-clip-dimr-image-features"]
OFFICIAL = "plain, autocast to bfloat16"
ON_GPU = "Not measured on a GPU: `python -m benchmarks.training --device cuda` does, and writes training-cuda.md."


Step = Callable[[Batch, Draws], Tensor]
"""Takes one training step and returns its loss."""


class Side(NamedTuple):
    """How to make a step of a model and its recipe, and the type that it multiplies in."""

    make: Callable[[CrossFlow, TrainConfig], Step]
    dtype: torch.dtype


def sized(recipe: TrainConfig, device: torch.device) -> TrainConfig:
    """The recipe, on a CPU with a network that is 55 times smaller than the released one."""
    return recipe if device.type == "cuda" else reduced(recipe, REDUCED)


def reduced(recipe: TrainConfig, backbone: DiMRConfig, side: int = 32) -> TrainConfig:
    """The recipe with another network, a small source encoder, and latents of ``side``."""
    encoder = ReleasedEncoderConfig(width=768, depth=1, hidden=1024)
    model = replace(cast(FlowConfig, recipe.model), shape=(4, side, side), backbone=backbone, source=encoder)
    return replace(recipe, model=model, data=replace(recipe.data, size=8 * side))


def batch_of(config: FlowConfig, count: int, seed: int, device: torch.device) -> tuple[Batch, Draws]:
    """Random pairs, with features of their images and with the images, and the draws of their step."""
    generator = torch.Generator().manual_seed(seed)
    side = (SIGLIP_SIDE, SIGLIP_SIDE, 3)
    tokens = config.reads.shape
    items = {
        config.target.name: Item(torch.randn(count, *config.shape, generator=generator)),
        config.reads.name: Item(
            torch.randn(count, *tokens, generator=generator), torch.arange(tokens[0]).expand(count, -1) < 20
        ),
        IMAGE_FEATURES: Item(torch.randn(count, SIGLIP_WIDTH, generator=generator)),
        PIXELS: Item(torch.randint(0, 256, (count, *side), generator=torch.Generator().manual_seed(seed)).byte()),
    }
    batch = Batch(items, torch.arange(count))
    return batch.to(device), losses.draw(count, config.shape, config.guidance.null_rate, generator).to(device)


def tower_of(model: CrossFlow) -> Any:
    return model.terms["contrastive"].tower


class ImageTower(nn.Module):
    """The authors' image tower: a SigLIP-L/16 on pixels, trained along, before the head of ``features``."""

    def __init__(self, features: FeatureTower, depth: int | None) -> None:
        super().__init__()
        import timm

        self.features = features
        cut: dict[str, Any] = {} if depth is None else {"depth": depth}
        self.visual: Any = timm.create_model(SIGLIP, num_classes=0, **cut)
        self.visual.set_grad_checkpointing(True)

    @property
    def scale(self) -> Tensor:
        return self.features.scale

    def forward(self, image: Tensor) -> Tensor:
        return self.features(self.visual(image.permute(0, 3, 1, 2).float() / 127.5 - 1))


def plain_step(model: CrossFlow, recipe: TrainConfig, autocast: bool, pixels: bool = False) -> Step:
    """``pixels`` trains an image tower along; on a CPU it has one block in the place of 24."""
    config, (kl_term, _) = model.config, model.config.terms
    assert isinstance(model.backbone, DiMR) and isinstance(kl_term, KL)
    tower, seen_by = tower_of(model), IMAGE_FEATURES
    if pixels:
        device = next(model.parameters()).device
        tower, seen_by = ImageTower(tower, None if device.type == "cuda" else 1).to(device), PIXELS
        model.terms["contrastive"].tower = tower
    model.backbone = as_authors(model.backbone)
    model.backbone.checkpointing = True
    average = copy.deepcopy(model)
    free = [part for name, part in model.named_parameters() if "nodecay_" in name]
    rest = [part for name, part in model.named_parameters() if "nodecay_" not in name]
    groups = [{"params": rest, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, recipe.learning_rate, recipe.betas)

    def loss(batch: Batch, draws: Draws) -> Tensor:
        target = batch[config.target.name].values
        posterior = model.encoder(*batch[config.reads.name])
        x0 = posterior.sample(draws.noise)
        seen = tower(batch[seen_by].values)
        xt, velocity = model.path.sample(x0, target[draws.donor], draws.t)
        flow = losses.flow_matching(
            model.backbone.velocities(xt, draws.t, draws.conditional), velocity, config.stage_weights
        )
        kl = losses.kl(posterior.mean, posterior.log_var, kl_term.form)
        contrast = losses.contrastive(x0, seen, tower.scale, batch.same)
        return (flow + kl_term.weight * kl).mean() + contrast

    def step(batch: Batch, draws: Draws) -> Tensor:
        optimizer.zero_grad()
        with rounding(batch.same.device, autocast):
            total = loss(batch, draws)
        total.backward()
        optimizer.step()
        with torch.no_grad():
            for kept, weight in zip(average.parameters(), model.parameters(), strict=True):
                kept.mul_(recipe.ema).add_(weight, alpha=1 - recipe.ema)
        return total.detach()

    return step


def our_step(model: CrossFlow, recipe: TrainConfig, autocast: bool, compiled: bool = False) -> Step:
    if compiled:
        assert isinstance(model.backbone, DiMR)
        compile_blocks(model.backbone)
    weights: list[Tensor] = list(model.parameters())
    averages: list[Tensor] = [weight.detach().clone() for weight in weights]
    optimizer = Optimizer("adamw", model, recipe.betas, recipe.weight_decay)

    def step(batch: Batch, draws: Draws) -> Tensor:
        with rounding(batch.same.device, autocast):
            total = model(batch, draws)["total"]
        total.backward()
        optimizer.step(recipe.learning_rate)
        with torch.no_grad():
            torch._foreach_lerp_(averages, weights, 1 - recipe.ema)  # pyright: ignore[reportPrivateImportUsage]
        return total.detach()

    return step


def sides(device: torch.device) -> dict[str, Side]:
    """The plain step first, as the authors' program runs it; on a CPU both also in float32."""
    half, single = torch.bfloat16, torch.float32
    found = {
        OFFICIAL: Side(partial(plain_step, autocast=True), half),
        "ours, autocast to bfloat16": Side(partial(our_step, autocast=True), half),
    }
    if device.type != "cuda":
        found["plain, float32"] = Side(partial(plain_step, autocast=False), single)
        found["ours, float32"] = Side(partial(our_step, autocast=False), single)
    elif shutil.which("gcc"):
        found["ours, autocast to bfloat16, blocks compiled"] = Side(
            partial(our_step, autocast=True, compiled=True), half
        )
    return found


def forward_flops(config: FlowConfig) -> int:
    """Of the forward pass of one pair, counted; the backward pass is twice that."""
    batch, draws = batch_of(config, 1, 0, torch.device("meta"))
    with torch.device("meta"):
        model = CrossFlow(config)
        tower = tower_of(model)
        with FlopCounterMode(display=False) as counter:
            model.encoder(*batch[config.reads.name])
            tower(batch[IMAGE_FEATURES].values)
            model.backbone.velocities(batch[config.target.name].values, draws.t, draws.conditional)
    return counter.get_total_flops()


class Measured(NamedTuple):
    """Median seconds a step, the loss of the last, and the most bytes that a GPU held at once."""

    seconds: float
    loss: float
    memory: int | None


def stepped(
    compared: Mapping[str, Side], recipe: TrainConfig, count: int, rounds: int, seed: int, device: torch.device
) -> dict[str, Measured]:
    """Sides that take turns, each with the weights and the ``rounds`` + 1 batches of ``count`` pairs of ``seed``."""
    config = cast(FlowConfig, recipe.model)
    batches = [batch_of(config, count, seed + number, device) for number in range(rounds + 1)]
    seen: dict[str, list[Tensor]] = {name: [] for name in compared}
    works = {}
    for name, side in compared.items():
        torch.manual_seed(seed)
        with device:
            works[name] = partial(_take, side.make(CrossFlow(config).train(), recipe), batches, seen[name])
    seconds = in_turns(works, rounds, device)
    return {name: Measured(seconds[name], float(seen[name][-1]), peak_memory(device)) for name in compared}


def _take(step: Step, batches: list[tuple[Batch, Draws]], seen: list[Tensor]) -> None:
    """The step whose number is that of the losses seen; dropout is the same on every side."""
    torch.manual_seed(len(seen))
    seen.append(step(*batches[len(seen)]))


def table(found: Mapping[str, Measured], count: int, device: torch.device) -> list[str]:
    """The lines: seconds a step, pairs a second, ratio to the first, FLOP a second, share of the peak, last loss."""
    peaks = {dtype: matmul_rate(dtype, device) for dtype in (torch.float32, torch.bfloat16)}
    first = next(iter(found.values())).seconds
    work = 3 * forward_flops(cast(FlowConfig, sized(RECIPE, device).model)) * count
    lines = []
    for name, (seconds, loss, _) in found.items():
        share = work / seconds / peaks[sides(device)[name].dtype]
        cells = (
            name,
            f"{seconds:.3f}",
            f"{count / seconds:.2f}",
            f"{first / seconds:.2f}",
            f"{work / seconds / 1e9:,.0f}",
            f"{100 * share:.0f} %",
            f"{loss:.5f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    rates = ", ".join(f"{str(dtype).removeprefix('torch.')} {rate / 1e9:,.0f}" for dtype, rate in peaks.items())
    return [*lines, "", f"The peak is that of large matrix products, measured in this run: {rates} GFLOP/s."]


def report(lines: list[str], command: str, count: int, rounds: int, device: torch.device) -> str:
    """The Markdown page."""
    config = cast(FlowConfig, sized(RECIPE, device).model)
    with torch.device("meta"):
        size = sum(part.numel() for part in CrossFlow(config).backbone.parameters())
    unit = "seconds of the GPU" if device.type == "cuda" else "CPU seconds"
    return "\n".join(
        (
            "# A training step with DiMR",
            "",
            f"`{command}`; {machine(device)}.",
            f"A network of {size / 1e6:.0f} M parameters, {3 * forward_flops(config) / 1e9:.0f} GFLOP a pair with text",
            f"encoder and image head, forward and backward; {count} pairs a step. Times are {unit}, medians. FLOP",
            "are those that the step needs: what the plain side computes twice counts once. The loss is that",
            f"of step {rounds + 1}, from the same weights, batches and dropout.",
            "",
            "| step | s | pairs/s | times faster | GFLOP/s | share of the peak | loss |",
            "|---|---:|---:|---:|---:|---:|---:|",
            *lines,
            "",
            *([] if device.type == "cuda" else [ON_GPU, ""]),
        )
    )


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, help="24 on a GPU, else 2")
    parser.add_argument("--rounds", type=int, help="10 on a GPU, else 3")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = torch.device(usable_device(args.device))
    on_gpu = device.type == "cuda"
    count, rounds = args.batch or (24 if on_gpu else 2), args.rounds or (10 if on_gpu else 3)
    torch.set_num_threads(1)
    compare = partial(stepped, recipe=sized(RECIPE, device), count=count, rounds=rounds, seed=args.seed, device=device)
    lines = table(dict(measured(compare, sides(device), device)), count, device)
    command = f"python -m benchmarks.training --device {device} --batch {count} --rounds {rounds} --seed {args.seed}"
    page = report(lines, command, count, rounds, device)
    out = args.out or Path(f"results/benchmarks/training{'-cuda' if on_gpu else ''}.md")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page)
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
