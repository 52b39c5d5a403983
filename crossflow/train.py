"""Training: one loop, every step a pure function of the seed and the step's number.

All random numbers of a step, for the batch of all processes, come from one generator seeded by (seed, step); each
process then takes its rows. So a run that was stopped anywhere goes on to the same bits, and any number of processes
trains on the same batches.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from crossflow.checkpoint import check_tensors, config_to_json, read_tensors, save_checkpoint, write_atomically
from crossflow.configs import TrainConfig
from crossflow.data import CachedPairs, scene_images, scene_pairs
from crossflow.errors import CrossFlowError
from crossflow.latents import MiniLM
from crossflow.losses import draw
from crossflow.model import Batch, FlowModel, Losses, build_model
from crossflow.pipeline import TextToImage, grid

GRID_PROMPTS = (
    "a photo of a ball",
    "a photo of a ring and a cone",
    "a photo of three boxes",
    "a photo of a purple cross",
    "a photo of a pillar left of a ball",
    "a photo of a red box and a blue ring",
)
"""One prompt of each task form, drawn at every sample grid."""
PCA_IMAGES = 4000


def train(
    config: TrainConfig,
    out: Path,
    *,
    seed: int = 0,
    resume: bool = False,
    precision: str = "auto",
    device: str = "auto",
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """Train ``config`` into the folder ``out`` and return the path of the sampling checkpoint, ``model.safetensors``.

    The folder also gets ``log.jsonl`` (every loss part), ``state.safetensors`` (all that ``resume`` needs) and
    ``samples/``. Raises CrossFlowError when ``out`` already holds a run and ``resume`` is off, or holds another run.
    """
    accelerator = _accelerator(precision, device)
    state_file = out / "state.safetensors"
    if state_file.exists() and not resume:
        raise CrossFlowError(f"{out} already holds a training run; add --resume to go on, or choose another --out.")
    torch.manual_seed(seed)
    model = build_model(config.model)
    pairs = _pairs(config, model, out, accelerator, progress)
    run = _Run(config, model, accelerator, seed)
    if state_file.exists():
        run.load(state_file)
        progress(f"resuming after step {run.step}")
    log = _Log(out / "log.jsonl", run.step, accelerator.is_main_process)
    while run.step < config.steps:
        losses = run.advance(pairs)
        if run.step % config.log_every == 0 or run.step == config.steps:
            progress(log.write(run.step, config.rate(run.step - 1), losses))
        last = run.step == config.steps
        if accelerator.is_main_process and (run.step % config.save_every == 0 or last):
            run.save(state_file)
            save_checkpoint(out / "model.safetensors", run.ema, run.notes())
        if accelerator.is_main_process and (run.step % config.sample_every == 0 or last):
            _samples(run.ema, out / "samples" / f"step-{run.step:06d}.png")
    return out / "model.safetensors"


def _accelerator(precision: str, device: str) -> Accelerator:
    """``auto`` is bf16 where the hardware multiplies in it: CUDA from Ampere on, CPUs with AVX512-BF16 or AMX."""
    if device == "cuda" and not torch.cuda.is_available():
        raise CrossFlowError("--device cuda was asked for, but this machine has no usable CUDA device; use --device cpu.")
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    if precision == "auto":
        able = torch.ops.mkldnn._is_mkldnn_bf16_supported() if on_cpu else torch.cuda.is_bf16_supported()
        precision = "bf16" if able else "fp32"
    if precision not in ("bf16", "fp32"):
        raise CrossFlowError(f"precision is {precision!r}; it must be auto, bf16 or fp32.")
    return Accelerator(cpu=on_cpu, mixed_precision="no" if precision == "fp32" else "bf16")


def _pairs(
    config: TrainConfig, model: FlowModel, out: Path, accelerator: Accelerator, progress: Callable[[str], None]
) -> CachedPairs:
    """Fit the autoencoder and make the training pairs; the first process makes the cache, the others read it."""
    data = config.data
    model.autoencoder.fit(scene_images("train", min(PCA_IMAGES, data.count), data.size))
    with accelerator.main_process_first():
        return scene_pairs(data, config.model.token_count, model.autoencoder, MiniLM(), out / "cache", progress)


class _Run:
    """What changes from step to step: weights, their moving average, the optimiser, the step."""

    def __init__(self, config: TrainConfig, model: FlowModel, accelerator: Accelerator, seed: int) -> None:
        self.config, self.accelerator, self.seed, self.step = config, accelerator, seed, 0
        self.model = model.to(accelerator.device).train()
        self.ema = build_model(config.model).to(accelerator.device).eval()
        self.ema.load_state_dict(self.model.state_dict())
        fused = accelerator.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=0.0, betas=config.betas, weight_decay=config.weight_decay, fused=fused
        )
        self.wrapped = cast(nn.Module, accelerator.prepare_model(self.model))

    def advance(self, pairs: CachedPairs) -> Losses:
        """One optimiser step; returns the losses of the whole batch, averaged over processes and parts."""
        config, parts = self.config, []
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate(self.step)
        for part in range(config.accumulate):
            last = part == config.accumulate - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                losses = self._part(pairs, part)
                self.accelerator.backward(losses.total / config.accumulate)
            parts.append(torch.stack([value.detach().float() for value in losses]))
        self.accelerator.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._average()
        self.step += 1
        return Losses(*self.accelerator.reduce(torch.stack(parts).mean(0), reduction="mean"))

    def _part(self, pairs: CachedPairs, part: int) -> Losses:
        """Draw one part for all processes, take this one's rows, and run them."""
        config, accelerator = self.config, self.accelerator
        count = config.batch_size // config.accumulate
        if count % accelerator.num_processes:
            raise CrossFlowError(f"A batch of {count} does not divide over {accelerator.num_processes} processes.")
        share = count // accelerator.num_processes
        rows = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
        generator = torch.Generator().manual_seed(_seed(self.seed, self.step, part))
        batch = pairs.batch(count, generator)
        draws = draw(count, config.model.shape, config.model.null_rate, generator)
        device = accelerator.device
        mine = Batch(*(tensor[rows].to(device) for tensor in batch))
        with accelerator.autocast():
            return self.wrapped(mine, type(draws)(*(tensor[rows].to(device) for tensor in draws)))

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1.0 - decay)

    def notes(self) -> dict[str, str]:
        """What the header of the checkpoint says of its training."""
        return {"step": str(self.step), "seed": str(self.seed), "training": _training_json(self.config)}

    def save(self, path: Path) -> None:
        """Write everything a resumed run needs."""
        header = self.notes() | {"config": config_to_json(self.config.model)}
        write_atomically(path, {name: tensor.cpu().contiguous() for name, tensor in self._tensors().items()}, header)

    def load(self, path: Path) -> None:
        """Take up the state in ``path``, which must be of the same recipe and seed."""
        header, found = read_tensors(path)
        expected = self.notes() | {"config": config_to_json(self.config.model)}
        for name in ("config", "training", "seed"):
            if header.get(name) != expected[name]:
                raise CrossFlowError(f"{path} is the state of another run: its {name} differs; choose another --out.")
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()  # at rate 0, to create the optimiser's tensors
        self.optimizer.zero_grad(set_to_none=True)
        target = self._tensors()
        check_tensors(str(path), found, target)
        with torch.no_grad():
            for name, tensor in target.items():
                tensor.copy_(found[name])
        self.step = int(header["step"])

    def _tensors(self) -> dict[str, Tensor]:
        named: dict[str, Tensor] = {}
        for prefix, module in (("model", self.model), ("ema", self.ema)):
            named |= {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            state = self.optimizer.state[parameter]
            named |= {f"optimizer.{name}.{key}": tensor for key, tensor in state.items()}
        return named


class _Log:
    """``log.jsonl``: one line every so many steps. Lines past the step that a run resumes from are cut off."""

    def __init__(self, path: Path, step: int, active: bool) -> None:
        self.path, self.active = path, active
        if active:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_text().splitlines() if path.exists() else []
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            path.write_text("".join(f"{line}\n" for line in kept))

    def write(self, step: int, rate: float, losses: Losses) -> str:
        """Append a line and return it in words."""
        row: dict[str, Any] = {"step": step, "learning_rate": rate}
        row |= {name: float(value) for name, value in losses._asdict().items()}
        if self.active:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        return f"step {step}: " + ", ".join(f"{name} {float(value):.4g}" for name, value in losses._asdict().items())


def _samples(model: FlowModel, path: Path) -> None:
    pipeline = TextToImage(model, MiniLM())
    prompts = [prompt for prompt in GRID_PROMPTS for _ in range(8)]
    images = pipeline.generate(prompts, list(range(len(prompts))))
    path.parent.mkdir(exist_ok=True)
    grid(images, columns=8).save(path)


def _seed(*parts: int) -> int:
    text = ",".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _training_json(config: TrainConfig) -> str:
    settings = dataclasses.asdict(config)
    del settings["model"]
    return json.dumps(settings, sort_keys=True)
