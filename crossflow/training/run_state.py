"""The state of a training run: weights, their moving average, optimiser and step; and the optimiser step itself."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from crossflow.errors import CrossFlowError
from crossflow.files.hashes import file_sha256
from crossflow.files.tensors import read_tensors, write_tensors
from crossflow.model.checkpoint import NOT_SHIPPED, check_tensors, decoder_prefix, take_weights
from crossflow.model.config import TrainedModel
from crossflow.model.settings import Losses
from crossflow.recipes.recipe import Stage, TrainConfig
from crossflow.training.data import Data
from crossflow.training.data.pairs import Share, seed_of
from crossflow.training.optimizer import Optimizer
from crossflow.training.sharding import divide, share_like, share_of, whole


class Run:
    """One process's part of a training run, at step 0 until ``load``.

    What the model has that is fitted is fitted to ``data``, the training data. ``init`` is a checkpoint to start
    from: its weights, and with them its fitted autoencoder, replace the initial ones; the networks of the loss terms,
    which no checkpoint has, start anew, and ``started_anew`` names them. ``shard`` shards weights, averages
    and optimiser state over the processes; ``checkpointing`` recomputes activations in the backward pass. Both save
    memory without changing results, so a run may resume with or without them, and on any number of processes.

    Dropout, and what varies captions, is seeded by (seed, step, first item of the share), so a resumed run has it too.
    It alone depends on the number of processes: losses are the same for any number without, and on average with it.
    """

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        seed: int,
        precision: str,
        data: Data,
        shard: bool,
        checkpointing: bool,
        init: Path | None = None,
    ) -> None:
        self.config, self.accelerator, self.seed, self.precision = config, accelerator, seed, precision
        self.data = data.fingerprint
        self.step = 0
        processes, device = accelerator.num_processes, accelerator.device
        if config.batch_size % (config.accumulate * processes):
            raise CrossFlowError(
                f"A batch of {config.batch_size} does not divide into {config.accumulate} parts "
                f"over {processes} processes: let it be a multiple of {config.accumulate * processes}."
            )
        if config.stages and shard and processes > 1:
            raise CrossFlowError("The weights of a recipe of several stages cannot be sharded: leave --shard out.")
        self.model, self.started_anew = _fresh_model(config, seed, init, data)
        self.init = None if init is None else file_sha256(init)
        self.model.train()
        if checkpointing:
            _checkpoint(self.model)
        self.sharded = shard and processes > 1
        if self.sharded:
            divide(self.model, device)
        self.wrapped: nn.Module = self.model if self.sharded else accelerator.prepare_model(self.model.to(device))
        self.stage: Stage | None = None
        self.weights = dict(self.model.named_parameters())
        self.trained = {name for name, part in self.weights.items() if part.requires_grad}
        self.decoder = decoder_prefix(config.model)
        self.averages = {
            name: part.detach().clone()
            for name, part in self.weights.items()
            if not name.startswith(NOT_SHIPPED) or (self.decoder is not None and name.startswith(self.decoder))
        }
        self.optimizer = Optimizer(config.optimizer, self.model, config.betas, config.weight_decay)

    def advance(self, shares: Iterator[Share]) -> Losses:
        """One optimiser step; returns the losses averaged over processes and micro-batches."""
        config, device, stage = self.config, self.accelerator.device, self.config.stage(self.step)
        if config.stages:
            self._enter(stage)
        losses: list[Losses] = []
        for part in range(config.accumulate):
            share = next(shares)
            torch.manual_seed(seed_of(self.seed, self.step, "dropout", share.start))
            synchronised = self.sharded or part == config.accumulate - 1
            with contextlib.nullcontext() if synchronised else self.accelerator.no_sync(self.wrapped):
                with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                    found: Losses = self.wrapped(share.batch.to(device), share.draws.to(device), stage.losses)
                self.accelerator.backward(found["total"] / config.accumulate)
            losses.append({name: value.detach().float() for name, value in found.items()})
        self._update()
        stacked = torch.stack([torch.stack(list(each.values())) for each in losses]).mean(0)
        reduced = cast(Tensor, self.accelerator.reduce(stacked, reduction="mean"))
        return dict(zip(losses[0], reduced, strict=True))

    def _enter(self, stage: Stage) -> None:
        """Freeze what the stage does not train; of several processes the gradients of the rest alone are averaged."""
        if stage == self.stage:
            return
        self.stage = stage
        for name, part in self.weights.items():
            part.requires_grad_(name in self.trained and stage.trained(name))
        if self.accelerator.num_processes > 1:
            device = self.accelerator.device
            places = [device] if device.type == "cuda" else None
            idle = stage.losses is not None  # the networks of losses that are not counted
            self.wrapped = DistributedDataParallel(self.model, device_ids=places, find_unused_parameters=idle)

    def _update(self) -> None:
        """Clip gradients, step, and update the moving average, whose decay is smaller in a stage's first steps.

        So the average forgets what the weights were that only now begin to be trained.
        """
        if self.config.clip is not None:
            nn.utils.clip_grad_norm_(self.weights.values(), self.config.clip)
        self.optimizer.step(self.config.rate(self.step))
        inside = self.config.inside(self.step)
        decay = min(self.config.ema, (1 + inside) / (10 + inside))
        with torch.no_grad():
            averages: list[Tensor] = list(self.averages.values())
            weights: list[Tensor] = [self.weights[name] for name in self.averages]
            torch._foreach_lerp_(averages, weights, 1.0 - decay)  # pyright: ignore[reportPrivateImportUsage]
        self.step += 1

    def average(self) -> TrainedModel | None:
        """The averaged model for sampling, on the main process, else None; all processes must call it."""
        held: dict[str, Tensor] = {**self.model.state_dict(), **self.averages}
        needed = {name: part for name, part in held.items() if not name.startswith(NOT_SHIPPED)}
        parts = whole(needed, keep=self.accelerator.is_main_process)
        if not self.accelerator.is_main_process:
            return None
        with torch.device("meta"):
            model = self.config.model.build(training=False)
        model.load_state_dict(parts, assign=True)
        return model.eval()

    def text_decoder(self) -> dict[str, Tensor] | None:
        """The averaged weights of the text decoder, for recipes that train one, on the main process, else None.

        All processes must call it.
        """
        if (prefix := self.decoder) is None:
            return None
        held = {name.removeprefix(prefix): part for name, part in self.averages.items() if name.startswith(prefix)}
        return whole(held, keep=self.accelerator.is_main_process) or None

    def notes(self) -> dict[str, Any]:
        """The checkpoint's notes on its training."""
        notes = {
            "step": self.step,
            "seed": self.seed,
            "precision": self.precision,
            "training": self.config.plain(),
            "digest": self.config.digest(self.seed, self.init),
        }
        further = {"data": self.data, "init": self.init}
        return notes | {name: value for name, value in further.items() if value is not None}

    def save(self, path: Path) -> None:
        """Write the state of the run from the main process; all processes must call it."""
        tensors = whole(self._tensors() | self.optimizer.state(), keep=self.accelerator.is_main_process)
        if self.accelerator.is_main_process:
            write_tensors(path, tensors, self._header())

    def finite(self) -> bool:
        """Whether every number of the state is; all processes must call it. A finite loss does not say so."""
        parts = (share_of(tensor) for tensor in (self._tensors() | self.optimizer.state()).values())
        broken = sum(not part.isfinite().all() for part in parts)
        device = self.accelerator.device
        return not self.accelerator.reduce(torch.tensor(float(broken), device=device), reduction="sum")

    def load(self, path: Path) -> None:
        """Load the state in ``path``; CrossFlowError unless recipe, seed, precision, data and init are the same.

        The digest says so of recipe, seed and init: one of an earlier version lacks fields that have been added since,
        which then have their defaults. A training whose steps do not depend on their number may be made longer.
        """
        header, found = read_tensors(path)
        mine = json.loads(json.dumps(self._header()))
        if any(header.get(name) != mine.get(name) for name in ("precision", "data")) or not self._goes_on(header):
            raise _another(path, header, mine)
        held = self._tensors()
        check_tensors(path, found, held | self.optimizer.blank_state())
        with torch.no_grad():
            for name, tensor in held.items():
                tensor.copy_(share_like(found[name], tensor))
        self.optimizer.load_state(found)
        self.step = int(header["step"])

    def _goes_on(self, header: Mapping[str, Any]) -> bool:
        """Whether this training is the one of a state, or that one with another number of steps still to come."""
        begun = [self.config]
        match header:
            case {"training": {"steps": int(steps)}, "step": int(step)} if 0 < step <= min(steps, self.config.steps):
                begun.append(self.config.begun_with(steps))
        return header.get("digest") in [each.digest(self.seed, self.init) for each in begun]

    def _header(self) -> dict[str, Any]:
        return self.notes() | {"config": dataclasses.asdict(self.config.model)}

    def _tensors(self) -> dict[str, Tensor]:
        parts = (("model", self.model.state_dict()), ("ema", self.averages))
        return {f"{prefix}.{name}": part for prefix, tensors in parts for name, part in tensors.items()}


def _another(path: Path, header: Mapping[str, Any], mine: Mapping[str, Any]) -> CrossFlowError:
    """What to say of the state of another run than mine: the first thing that differs, and how."""
    names = ("config", "training", "seed", "precision", "data", "init", "digest")
    name = next(name for name in names if header.get(name) != mine.get(name))
    was, now, how, remedy = header.get(name), mine.get(name), "", "choose another --out"
    if isinstance(was, dict) and isinstance(now, dict):
        fields = [field for field in {**was, **now} if was.get(field) != now.get(field)]
        how = f" in {', '.join(fields)}"
        if "steps" in fields:
            remedy = f"train further in another --out from its model, by --init {path.with_name('model.safetensors')}"
    elif name in ("seed", "precision"):
        how = f", {was} there and {now} here"
    return CrossFlowError(f"{path} is the state of another run, its {name} differs{how}: give the same, or {remedy}.")


def _fresh_model(config: TrainConfig, seed: int, init: Path | None, data: Data) -> tuple[TrainedModel, list[str]]:
    """The model at step 0, and the loss terms whose networks ``init`` lacks.

    Weights are initialised with ``seed``, and what is fitted is fitted to ``data``, unless all are those of ``init``.
    """
    torch.manual_seed(seed)
    model = config.model.build()
    if init is not None:
        return model, take_weights(model, init)
    data.fit(model)
    return model, []


def _checkpoint(model: TrainedModel) -> None:
    """Turn on activation checkpointing in the velocity network and the towers of loss terms."""
    network = (module for name, module in model.named_modules() if name.startswith("backbone"))
    if not any(hasattr(module, "checkpointing") for module in network):
        raise CrossFlowError("This recipe's network computes no activations again: leave --checkpointing out.")
    for module in model.modules():
        if hasattr(module, "checkpointing"):
            module.checkpointing = True  # pyright: ignore[reportArgumentType]
