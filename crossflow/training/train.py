"""The training loop. Every step is a pure function of the state, the seed and the step number.

A run that was stopped anywhere resumes to the same bits. Any number of processes or micro-batches trains on the same
batches (``crossflow.training.data.pairs.shares``), and a saved state resumes on any number of processes.
"""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration

from crossflow.errors import CrossFlowError, Stopped, unknown
from crossflow.files.devices import usable_device
from crossflow.files.locks import writing_in
from crossflow.files.plain_json import read_json
from crossflow.files.processes import rank_and_world
from crossflow.files.progress import Stage, silent
from crossflow.files.seeds import check_seed
from crossflow.files.writing import refuse_existing, replacing, written
from crossflow.model.checkpoint import save_checkpoint, save_text_decoder
from crossflow.model.settings import Losses
from crossflow.recipes.recipe import TrainConfig
from crossflow.training.data import Data, open_data
from crossflow.training.data.pairs import read_ahead, shares
from crossflow.training.previews import draw, previews_of
from crossflow.training.run_state import Run

STEPS = ("training", "steps")
"""What a training shows of itself, and in which unit."""
TRACKERS = ("tensorboard", "wandb")
"""What can be told the log of a training, beside its file."""


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    data: str | Path | None = None,
    seed: int = 0,
    init: str | Path | None = None,
    resume: bool = False,
    precision: str | None = None,
    device: str = "auto",
    shard: bool = False,
    checkpointing: bool = False,
    text_encoder: Path | None = None,
    autoencoder: Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
    stage: Stage = silent,
    trackers: Sequence[str] = (),
    cache: Path | None = None,
) -> Path:
    """Train ``config`` into the folder ``out`` and return the path of the sampling checkpoint, ``model.safetensors``.

    The folder also gets ``log.jsonl`` (all losses), ``samples/``, ``timing.jsonl`` and ``state.safetensors``, which is
    all that ``resume`` needs; where the text is reconstructed, also ``text_decoder.safetensors``. Several processes
    must share the folder, and each holds its lock. The state is written last, so the other files are never
    behind it. ``data`` is the folder of pairs, for recipes that read one. ``init`` is a checkpoint of the same model,
    ours or released, whose weights the training starts from.
    ``precision`` is fp32, bf16, auto or None for the recipe's own; ``device`` is cpu, cuda or auto; for ``shard`` and
    ``checkpointing`` see ``Run``. ``text_encoder`` and ``autoencoder`` are weights that sample grids need if the
    model's autoencoder is external (see ``PromptGrids``). ``progress`` is told every line of the log, and ``stage``
    shows how far the data and the steps are. The log goes to ``trackers``, too: "tensorboard", into the folder
    ``tensorboard``, and "wandb", each where it is installed. ``cache`` is the folder of what the data are made into,
    which trainings may share; None is the folder ``cache`` of the run.

    On Ctrl-C and SIGTERM a training of one process saves all after the step that it is at, and raises Stopped; a second
    one stops it at once. Of several processes, which are never stopped at the same step, the last saved state stays.

    CrossFlowError if ``out`` holds another run, or this one without ``resume``; if another process trains there; if it
    cannot be written; if ``data`` is not what the recipe reads or ``init`` not its model; and if loss or weights are no
    longer finite.
    """
    clock = _Clock()
    out, data, init = Path(out), None if data is None else Path(data), None if init is None else Path(init)
    check_seed(seed)
    accelerator = _accelerator(device, trackers, out)
    stage = stage if accelerator.is_main_process else silent
    say = progress if accelerator.is_main_process else lambda line: None
    state = out / "state.safetensors"
    if init is not None and init.resolve().parent == out.resolve():
        raise CrossFlowError(f"{init} lies in the folder of the run, which writes its own there: choose another --out.")
    if state.exists() and not resume:
        raise CrossFlowError(f"{out} already holds a training run: add --resume to go on, or choose another --out.")
    found = open_data(config, data, seed)
    config = replace(config.on(found.count), model=config.model.after(init))
    with writing_in(out, "training", rank=accelerator.process_index):
        if accelerator.is_main_process and not (state.exists() or (out / "log.jsonl").exists()):  # a run's first file
            refuse_existing(out / name for name in ("model.safetensors", "timing.jsonl", "samples"))
        run = Run(
            config,
            accelerator,
            seed,
            _precision(precision or config.precision, accelerator.device),
            found,
            shard,
            checkpointing,
            init,
        )
        if state.exists():
            run.load(state)
            say(f"resuming after step {run.step} of {config.steps}")
        elif init is not None:
            anew = f"; these losses' networks start anew: {', '.join(run.started_anew)}" if run.started_anew else ""
            say(f"starting from {init}{anew}")
        short = f", all below the recipe's rate: its warm-up takes {config.warmup:,}"
        rising = short if config.warmup > config.steps else ""
        say(f"{out}: {config.steps:,} steps of {config.batch_size} examples{rising}")
        record = _Record(out, run, found, text_encoder, autoencoder, say, clock)
        with accelerator.main_process_first():  # the first process makes the cache, the others read it
            pairs = found.pairs(run.model, cache or out / "cache", stage)
        place = (accelerator.process_index, accelerator.num_processes)
        ahead = read_ahead(shares(pairs, config, seed, run.step, *place))
        with _stopping(accelerator.num_processes == 1) as stop, _tracking(run, trackers, out), stage(*STEPS) as at:
            at(run.step, config.steps)
            while run.step < config.steps:
                losses = run.advance(ahead)
                stopped = stop.is_set()
                record.write(losses, last=stopped)
                at(run.step, config.steps)
                if stopped and run.step < config.steps:
                    raise Stopped(f"The training is kept as it was after step {run.step:,}, in {out}.", "--resume")
        accelerator.wait_for_everyone()  # one that goes on from the file finds it
        return record.model


@contextmanager
def _stopping(wanted: bool) -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets, where ``wanted``; the second one stops as it always does."""
    stop = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = [signal.getsignal(each) for each in signals]

    def restore() -> None:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)

    def first(*_: object) -> None:
        stop.set()
        restore()

    for each in signals:
        signal.signal(each, first)
    try:
        yield stop
    finally:
        restore()


def _accelerator(device: str, trackers: Sequence[str], out: Path) -> Accelerator:
    if device not in ("auto", "cpu", "cuda"):
        raise CrossFlowError(f"device is {device!r}: it must be auto, cpu or cuda.")
    for name in trackers:
        if name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS)
        if find_spec(name) is None:
            raise CrossFlowError(f"--{name} needs {name}: install it, or crossflow[{name}].")
    folder = None if not trackers else ProjectConfiguration(str(out), logging_dir=str(out / "tensorboard"))
    where = usable_device(device)
    held: torch.device | None = PartialState._shared_state.get("device")
    if held is not None and held.type != where and rank_and_world()[1] == 1:  # that of a training before, in a notebook
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=where == "cpu", mixed_precision="no", log_with=list(trackers) or None, project_config=folder)


@contextmanager
def _tracking(run: Run, trackers: Sequence[str], out: Path) -> Iterator[None]:
    """Open the trackers, and close them in any case. What a stopped run had said after ``run.step`` is taken back."""
    if not trackers:
        yield
        return
    name = out.absolute().name
    kept = {"id": f"{name}-{run.config.digest(run.seed, run.init)}", "resume": "allow"}
    options = {
        "tensorboard": {"purge_step": run.step + 1},
        "wandb": {"dir": str(out), "name": name, "config": asdict(run.config), **kept},
    }
    run.accelerator.init_trackers("crossflow", init_kwargs={each: options[each] for each in trackers})
    try:
        yield
    finally:
        for tracker in run.accelerator.trackers:
            tracker.finish()


def _precision(name: str, device: torch.device) -> str:
    """``auto`` is bf16 where the hardware supports it: CUDA from Ampere on, CPUs with AVX512-BF16 or AMX."""
    if name == "auto":
        on_cpu = device.type == "cpu"
        able = _fast_on_cpu() if on_cpu else torch.cuda.is_bf16_supported(False)
        return "bf16" if able else "fp32"
    if name not in ("bf16", "fp32"):
        raise CrossFlowError(f"precision is {name!r}: it must be auto, bf16 or fp32.")
    return name


def _fast_on_cpu() -> bool:
    """Whether this CPU has bfloat16; a torch without oneDNN, as on a Mac, does not even have the question."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _Record:
    """Writes the files of a run when they are due, on the main process; all processes must call ``write``."""

    def __init__(
        self,
        out: Path,
        run: Run,
        data: Data,
        text_encoder: Path | None,
        autoencoder: Path | None,
        say: Callable[[str], None],
        clock: "_Clock",
    ) -> None:
        self.out, self.run, self.say, self.clock = out, run, say, clock
        self.clock.step = run.step
        self.model = out / "model.safetensors"
        self.main = run.accelerator.is_main_process
        if self.main:
            self.log = _Log(out / "log.jsonl", run.step)
            self.previews = previews_of(run.config, data, text_encoder, autoencoder, run.accelerator.device, say)

    def write(self, losses: Losses, last: bool = False) -> None:
        """Write what is due after a step, and what a training goes on from if it is the ``last`` of this process.

        Loss or weights that are not finite raise CrossFlowError before that.
        """
        run, config, step = self.run, self.run.config, self.run.step
        log_now, sample_now, save_now = (
            step % every == 0 or step == config.steps
            for every in (config.log_every, config.sample_every, config.save_every)
        )
        keep_now, save_now = step in config.keep_at, save_now or last
        if not (log_now or sample_now or save_now or keep_now):
            return
        if not losses["total"].isfinite():
            raise CrossFlowError(f"The loss is {losses['total'].item()} at step {step}: use a lower learning rate.")
        shown = sample_now or save_now or keep_now
        if shown and not run.finite():
            raise CrossFlowError(f"Weights are no longer finite after step {step}: use a lower learning rate.")
        if log_now and self.main:
            line = self.log.write(step, config.rate(step - 1), losses)
            run.accelerator.log(self.log.last, step=step)
            self.say(line)
        average = run.average() if shown else None
        if sample_now and average is not None:
            draw(self.previews, average, self.out / "samples" / f"step-{step:06d}.png", self.say)
        decoder = run.text_decoder() if save_now else None
        if save_now and average is not None:
            save_checkpoint(self.model, average, run.notes())
        if decoder is not None:
            save_text_decoder(self.model, decoder, run.notes())
        if keep_now and average is not None:
            save_checkpoint(self.out / f"model-{step:06d}.safetensors", average, run.notes())
        if save_now:
            run.save(self.out / "state.safetensors")
        if save_now and self.main:
            self.clock.write(self.out / "timing.jsonl", step)


class _Clock:
    """``timing.jsonl``: one line per saved state, with seconds and the main process's CPU seconds since the last one.

    ``from`` is the step of the previous state, or the step at which this process started, so that steps lost in a kill
    and repeated are not counted twice, and a gap between lines shows that one is missing.
    """

    def __init__(self) -> None:
        self.step, self.seconds, self.cpu_seconds = 0, time.monotonic(), time.process_time()

    def write(self, path: Path, step: int) -> None:
        """Append the line for the state of ``step``, which has just been saved."""
        seconds, cpu_seconds = time.monotonic(), time.process_time()
        row = {"from": self.step, "to": step}
        row |= {"seconds": seconds - self.seconds, "cpu_seconds": cpu_seconds - self.cpu_seconds}
        with written(path), path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.step, self.seconds, self.cpu_seconds = step, seconds, cpu_seconds


class _Log:
    """``log.jsonl``: one line of losses every ``log_every`` steps.

    On opening, lines after the step that the run resumes from are removed, and so is a truncated last line.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.last: dict[str, float] = {}
        with written(path):
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        try:
            kept = [line for line in lines if line.endswith(b"\n") and read_json(line, str(path))["step"] <= step]
        except (CrossFlowError, KeyError, TypeError) as error:
            raise CrossFlowError(
                f"{path} is not the log of a training run: remove it, or choose another --out."
            ) from error
        with replacing(path) as temporary:
            temporary.write_bytes(b"".join(kept))

    def write(self, step: int, rate: float, losses: Losses) -> str:
        """Append a line, and return it formatted for the console."""
        values = {name: float(value) for name, value in losses.items()}
        row: dict[str, Any] = {"step": step, "learning_rate": rate, **values}
        with written(self.path), self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.last = {name: value for name, value in row.items() if name != "step"}
        return f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items())
