"""Training: one loop, every step a pure function of the seed and the step's number.

All random numbers of a step come from one generator seeded by (seed, step), for the batch of all processes and all
accumulated parts; each then takes its rows. So a run that was stopped anywhere goes on to the same bits, and any
number of processes or parts trains on the same batches.
"""

import contextlib
import copy
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from crossflow.checkpoint import (
    check_tensors,
    read_tensors,
    replacing,
    save_checkpoint,
    usable_device,
    write_tensors,
    written,
)
from crossflow.configs import SceneData, TrainConfig
from crossflow.data import Pairs, scene_images, scene_pairs
from crossflow.errors import CrossFlowError
from crossflow.latents import MiniLM
from crossflow.losses import draw
from crossflow.model import FlowModel, Losses, build_model
from crossflow.optimizer import Optimizer
from crossflow.pipeline import TextToImage
from crossflow.samples import grid
from crossflow.scenes.spec import VERSION as WORLD

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

    The folder also gets ``log.jsonl`` (every loss part), ``samples/`` and ``state.safetensors``, all that ``resume``
    needs. The state is written last, so whatever it says has happened is there. ``precision`` is fp32, bf16 or auto,
    ``device`` cpu, cuda or auto. Raises CrossFlowError when ``out`` holds another run, or this one and ``resume`` is
    off; when it cannot be written; and when the loss is no longer finite.
    """
    accelerator = _accelerator(device)
    state_file, model_file = out / "state.safetensors", out / "model.safetensors"
    if state_file.exists() and not resume:
        raise CrossFlowError(f"{out} already holds a training run: add --resume to go on, or choose another --out.")
    with written(out):
        out.mkdir(parents=True, exist_ok=True)
    say = progress if accelerator.is_main_process else lambda line: None
    run = _Run(config, accelerator, seed, _precision(precision, accelerator.device))
    if state_file.exists():
        run.load(state_file)
        say(f"resuming after step {run.step} of {config.steps}")
    log = _Log(out / "log.jsonl", run.step) if accelerator.is_main_process else None
    with accelerator.main_process_first():  # the first process makes the cache, the others read it
        pairs = _pairs(config, run.model, out / "cache", say)
    while run.step < config.steps:
        losses = run.advance(pairs)
        if log is None:
            continue
        log_now, sample_now, save_now = (
            run.step % every == 0 or run.step == config.steps
            for every in (config.log_every, config.sample_every, config.save_every)
        )
        if log_now:
            say(log.write(run.step, config.rate(run.step - 1), losses))
        if sample_now:
            _samples(run.ema, out / "samples" / f"step-{run.step:06d}.png")
        if save_now:
            save_checkpoint(model_file, run.ema, run.notes())
            run.save(state_file)
    return model_file


def _accelerator(device: str) -> Accelerator:
    if device not in ("auto", "cpu", "cuda"):
        raise CrossFlowError(f"device is {device!r}: it must be auto, cpu or cuda.")
    return Accelerator(cpu=usable_device(device) == "cpu", mixed_precision="no")


def _precision(name: str, device: torch.device) -> str:
    """``auto`` is bf16 where the hardware multiplies in it: CUDA from Ampere on, CPUs with AVX512-BF16 or AMX."""
    if name == "auto":
        on_cpu = device.type == "cpu"
        able = torch.ops.mkldnn._is_mkldnn_bf16_supported() if on_cpu else torch.cuda.is_bf16_supported(False)
        return "bf16" if able else "fp32"
    if name not in ("bf16", "fp32"):
        raise CrossFlowError(f"precision is {name!r}: it must be auto, bf16 or fp32.")
    return name


def _fresh_model(config: TrainConfig, seed: int) -> FlowModel:
    """The model at step 0: its weights drawn with ``seed``, its autoencoder fitted."""
    torch.manual_seed(seed)
    model = build_model(config.model)
    if isinstance(config.data, SceneData) and model.autoencoder is not None:
        model.autoencoder.fit(scene_images("train", min(PCA_IMAGES, config.data.count), config.data.size))
    return model


def _pairs(config: TrainConfig, model: FlowModel, cache: Path, say: Callable[[str], None]) -> Pairs:
    if isinstance(config.data, SceneData) and model.autoencoder is not None:
        return scene_pairs(config.data, config.model.token_count, model.autoencoder, MiniLM(), cache, say)
    raise CrossFlowError("This recipe reads image-text pairs from a folder, which cannot be given yet.")


class _Run:
    """What changes from step to step: weights, their moving average, the optimiser, the step."""

    def __init__(self, config: TrainConfig, accelerator: Accelerator, seed: int, precision: str) -> None:
        self.config, self.accelerator, self.seed, self.precision = config, accelerator, seed, precision
        self.step = 0
        shares = config.accumulate * accelerator.num_processes
        if config.batch_size % shares:
            raise CrossFlowError(
                f"A batch of {config.batch_size} does not divide into {config.accumulate} parts "
                f"over {accelerator.num_processes} processes."
            )
        self.share = config.batch_size // shares
        self.model = _fresh_model(config, seed).to(accelerator.device).train()
        self.ema = copy.deepcopy(self.model).eval()
        self.optimizer = Optimizer(config.optimizer, self.model, config.betas, config.weight_decay)
        self.wrapped = cast(nn.Module, accelerator.prepare_model(self.model))

    def advance(self, pairs: Pairs) -> Losses:
        """One optimiser step; returns the losses of the whole batch, averaged over processes and parts."""
        config, device = self.config, self.accelerator.device
        generator = torch.Generator().manual_seed(_seed(self.seed, self.step))
        picks = pairs.pick(self.step, config.batch_size, generator)
        draws = draw(config.batch_size, config.model.shape, config.model.null_rate, generator)
        losses = []
        for part in range(config.accumulate):
            start = (part * self.accelerator.num_processes + self.accelerator.process_index) * self.share
            batch = pairs.load(picks, draws, start, start + self.share).to(device)
            mine = draws.rows(start, start + self.share).to(device)
            synchronised = part == config.accumulate - 1
            with contextlib.nullcontext() if synchronised else self.accelerator.no_sync(self.wrapped):
                with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                    found: Losses = self.wrapped(batch, mine)
                self.accelerator.backward(found.total / config.accumulate)
            losses.append(torch.stack([value.detach().float() for value in found]))
        self._update()
        return Losses(*cast(Tensor, self.accelerator.reduce(torch.stack(losses).mean(0), reduction="mean")))

    def _update(self) -> None:
        """Clip, step, and let the moving average follow; it follows faster at first, when there is little to keep."""
        if self.config.clip is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step(self.config.rate(self.step))
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            averages: list[Tensor] = list(self.ema.parameters())
            weights: list[Tensor] = list(self.model.parameters())
            torch._foreach_lerp_(averages, weights, 1.0 - decay)  # pyright: ignore[reportPrivateImportUsage]
        self.step += 1

    def notes(self) -> dict[str, Any]:
        """What the header of the checkpoint says of its training, beside the model's config."""
        training = dataclasses.asdict(self.config) | {"world": WORLD}
        del training["model"]
        return {"step": self.step, "seed": self.seed, "precision": self.precision, "training": training}

    def save(self, path: Path) -> None:
        """Write everything a resumed run needs."""
        write_tensors(path, self._weights() | self.optimizer.state(), self._header())

    def load(self, path: Path) -> None:
        """Take up the state in ``path``, which must be of the same recipe, seed and precision."""
        header, found = read_tensors(path)
        mine = json.loads(json.dumps(self._header()))
        for name in ("config", "training", "seed", "precision"):
            if header.get(name) != mine[name]:
                raise CrossFlowError(f"{path} is the state of another run, its {name} differs: choose another --out.")
        weights = self._weights()
        check_tensors(path, found, weights | self.optimizer.blank_state())
        with torch.no_grad():
            for name, tensor in weights.items():
                tensor.copy_(found[name])
        self.optimizer.load_state(found)
        self.step = int(header["step"])

    def _header(self) -> dict[str, Any]:
        return self.notes() | {"config": dataclasses.asdict(self.config.model)}

    def _weights(self) -> dict[str, Tensor]:
        modules = (("model", self.model), ("ema", self.ema))
        return {f"{prefix}.{name}": part for prefix, module in modules for name, part in module.state_dict().items()}


class _Log:
    """``log.jsonl``: one line every so many steps.

    On opening, lines past the step that a run resumes from are cut off, and so is a line that a kill cut in half.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        try:
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        except (ValueError, KeyError, TypeError) as error:
            raise CrossFlowError(
                f"{path} is not the log of a training run: remove it, or choose another --out."
            ) from error
        with replacing(path) as temporary:
            temporary.write_text("".join(kept))

    def write(self, step: int, rate: float, losses: Losses) -> str:
        """Append a line and return it in words. A loss that is not finite ends the run before it is saved."""
        values = {name: float(value) for name, value in losses._asdict().items()}
        if not math.isfinite(values["total"]):
            raise CrossFlowError(f"The loss is {values['total']} at step {step}: use a lower learning rate.")
        row: dict[str, Any] = {"step": step, "learning_rate": rate, **values}
        with written(self.path), self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def _samples(model: FlowModel, path: Path) -> None:
    """Draw a grid: a row of eight images for each of ``GRID_PROMPTS``."""
    prompts = [prompt for prompt in GRID_PROMPTS for _ in range(8)]
    images = TextToImage(model, MiniLM()).generate(prompts, list(range(len(prompts))))
    with replacing(path) as temporary:
        grid(images, columns=8).save(temporary, format="PNG")


def _seed(*parts: int) -> int:
    text = ",".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
