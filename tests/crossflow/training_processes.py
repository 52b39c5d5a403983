"""Trains in forked processes, some of them killed, some of them several ranks; ``test_train.py`` reads what is left.

Called as ``python training_processes.py FOLDER``. One import of torch serves all the runs.
"""

import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import torch
from accelerate.state import AcceleratorState

import crossflow.training.train
from crossflow.flow import losses
from crossflow.flow.guidance import Indicator
from crossflow.model.settings import Sampling
from crossflow.model.standard import StandardConfig
from crossflow.networks.dimr import DiMRConfig
from crossflow.recipes import CONFIGS
from crossflow.recipes.recipe import SceneData, Stage, TrainConfig
from crossflow.sources.variational import VariationalConfig
from crossflow.training.data.shards import KeptPair, shard_name, write_index, write_shard
from crossflow.training.run_state import Run
from crossflow.training.train import train

TINY = CONFIGS["scenes-tiny"]
SMALL = replace(
    TINY,
    model=replace(TINY.model, sampling=Sampling(solver="euler", steps=1)),
    data=SceneData(count=64),
    optimizer="adamw",
    batch_size=8,
    steps=8,
    warmup=1,
    log_every=2,
    save_every=2,
    sample_every=4,
)
SHORT = replace(SMALL, steps=5, log_every=1)
GRID = replace(SHORT, model=replace(SHORT.model, source=VariationalConfig(width=32, depth=1, heads=1, readout="grid")))
BASELINE = replace(
    SHORT,
    model=StandardConfig(
        shape=SHORT.model.shape,
        reads=SHORT.model.reads,
        target=SHORT.model.target,
        backbone=SHORT.model.backbone,
        guidance=SHORT.model.guidance,
        sampling=SHORT.model.sampling,
    ),
)
QUIET = replace(SHORT, model=replace(SHORT.model, losses=SHORT.model.losses[:1]))  # the KL alone
STAGED = replace(
    SHORT,
    stages=(
        Stage(steps=2, trains="source", losses=("kl", "contrastive")),
        Stage(steps=1, losses=("flow", "kl")),
        Stage(steps=2, trains="flow", losses=("flow",)),
    ),
)
MUON = replace(SHORT, optimizer="muon", steps=2)

PAIRS = CONFIGS["t2i-tiny"]
low, high = PAIRS.model.backbone.stages
PAIRS = replace(
    PAIRS,
    model=replace(
        PAIRS.model,
        backbone=DiMRConfig(stages=(replace(low, depth=1), high)),
        source=replace(PAIRS.model.source, reductions=1, dropout=0.0),
        guidance=Indicator(null_rate=0.6),
    ),
    batch_size=4,
    steps=6,
    warmup=1,
    log_every=1,
    save_every=6,
)
"""The released architecture on pairs in a folder; two processes have batches of two."""
QUIET_PAIRS = replace(PAIRS, model=replace(PAIRS.model, losses=PAIRS.model.losses[:1]))
SAVED_PAIRS = replace(PAIRS, save_every=2)
DROPPING = replace(SAVED_PAIRS, model=replace(PAIRS.model, source=replace(PAIRS.model.source, dropout=0.1)))


def start(action: Callable[[], object]) -> int:
    """Fork, run ``action`` there, and return the process id."""
    process = os.fork()
    if process:
        return process
    try:
        action()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def end(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def succeed(*processes: int) -> None:
    codes = [end(process) for process in processes]
    if any(codes):
        sys.exit(f"processes ended with {codes}")


def die_at(number: int, by: signal.Signals) -> None:
    """End this process by a signal at its ``number``-th moment: around a rename, in a log line, after a step."""
    left = number

    def moment(before: Callable[[], object] = lambda: None) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            before()
            os.kill(os.getpid(), by)

    rename, write, advance = Path.replace, crossflow.training.train._Log.write, Run.advance

    def deadly_rename(self: Path, target: Path) -> Path:
        moment()
        renamed = rename(self, target)
        moment()
        return renamed

    def deadly_write(self, *row) -> str:
        moment(lambda: self.path.open("a").write('{"step": '))
        return write(self, *row)

    def deadly_advance(self, shares):
        found = advance(self, shares)
        moment()
        return found

    Path.replace = deadly_rename
    crossflow.training.train._Log.write = deadly_write
    Run.advance = deadly_advance


def kill_again_and_again(config: TrainConfig, out: Path, precision: str, seed: int) -> None:
    """Start, be ended and resume until the run ends by itself; write down how often that was."""
    draw = random.Random(seed)
    kills = 0

    def attempt() -> None:
        die_at(draw.randrange(1, 20), signal.SIGKILL)  # the first state is saved at about the 12th
        train(config, out, resume=True, precision=precision, device="cpu")

    while code := end(start(attempt)):
        if code != -signal.SIGKILL:
            sys.exit(f"a resumed run ended with {code}")
        kills += 1
        draw.random()
    (out / "kills").write_text(str(kills))


def ranks(count: int, action: Callable[[int], object]) -> list[int]:
    """Start ``count`` ranks, as torchrun would, that each call ``action`` with their number."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def rank(number: int) -> None:
        place = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"})
        action(number)

    return [start(lambda number=number: rank(number)) for number in range(count)]


KINDS = (("short", SHORT), ("grid", GRID), ("baseline", BASELINE), ("quiet", QUIET), ("staged", STAGED))


class Left(Exception):
    """A run that was left on purpose."""


def leave() -> None:
    raise Left


@contextmanager
def at_step(step: int, action: Callable[[], object]) -> Iterator[None]:
    """Do something before the step after ``step``; if that is to leave, the run ends there."""
    advance = Run.advance

    def acting(self, shares):
        if self.step == step:
            action()
        return advance(self, shares)

    Run.advance = acting
    try:
        with suppress(Left):
            yield
    finally:
        Run.advance = advance


@contextmanager
def own_negatives() -> Iterator[None]:
    """Each rank sees its own alone."""
    gather = losses.gather
    losses.gather = lambda x: x
    yield
    losses.gather = gather


def run(config: TrainConfig, out: Path, **options) -> None:
    train(config, out, precision="fp32", device="cpu", **options)


def on_one(folder: Path, data: Path) -> None:
    """What one process trains."""
    for name, config in KINDS:
        run(config, folder / f"{name}-1")
    run(replace(QUIET, accumulate=4), folder / "parts-1")
    run(MUON, folder / "muon-1")
    run(PAIRS, folder / "pairs-1", data=data)
    run(QUIET_PAIRS, folder / "quiet-pairs-1", data=data)
    with at_step(2, leave):
        run(SAVED_PAIRS, folder / "pairs-hop", data=data)


@contextmanager
def slow_to_save() -> Iterator[None]:
    """The main rank, which alone saves, takes a second for it."""
    save = crossflow.training.train.save_checkpoint

    def slowly(*arguments: object) -> None:
        time.sleep(1)
        save(*arguments)

    crossflow.training.train.save_checkpoint = slowly
    yield
    crossflow.training.train.save_checkpoint = save


def on_two(folder: Path, data: Path, rank: int) -> None:
    """What each of two ranks trains."""
    with slow_to_save():
        path = train(replace(SHORT, steps=1), folder / "slow-2", precision="fp32", device="cpu")
    if path.exists():
        (folder / f"slow-2-found-by-{rank}").touch()
    for name, config in KINDS:
        run(config, folder / f"{name}-2")
    with own_negatives():
        run(SHORT, folder / "ungathered-2")
    run(replace(QUIET, accumulate=2), folder / "parts-2")
    run(MUON, folder / "muon-sharded", shard=True)
    run(PAIRS, folder / "pairs-2", data=data)
    run(PAIRS, folder / "pairs-sharded", data=data, shard=True, checkpointing=True)
    run(replace(QUIET_PAIRS, accumulate=2), folder / "quiet-pairs-singles", data=data)
    with at_step(4, leave):
        run(SAVED_PAIRS, folder / "pairs-hop", data=data, shard=True, resume=True)
    run(DROPPING, folder / "dropping-2", data=data)


def lose_a_rank(out: Path, data: Path) -> None:
    """Kill one of two ranks in the fourth step, then the other, as torchrun does; and go on."""

    def die(rank: int) -> None:
        with at_step(3, lambda: os.kill(os.getpid(), signal.SIGKILL) if rank else None):
            run(DROPPING, out, data=data)

    other, lost = ranks(2, die)
    if end(lost) != -signal.SIGKILL:
        sys.exit("the rank was not lost")
    os.kill(other, signal.SIGKILL)
    end(other)
    succeed(*ranks(2, lambda rank: run(DROPPING, out, data=data, resume=True)))


def make_pairs(folder: Path) -> Path:
    """Ten pairs, so that steps of four lie across epochs; two of them have the same caption."""
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    items = [
        KeptPair(numbers(8, 4, 4), numbers(77, 384), torch.arange(77) < 5 + i, f"caption {max(i, 1)}")
        for i in range(10)
    ]
    write_shard(folder / shard_name(0), items, {"skipped": []})
    write_index(folder, 1, {"text": "minilm"}, "0")
    return folder


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    muon = replace(SMALL, optimizer="muon")
    train(replace(muon, steps=1), folder / "first", precision="bf16", device="cpu")  # what torch does once, once
    AcceleratorState._reset_state(reset_partial_state=True)
    for seed, (precision, config) in enumerate({"fp32": SMALL, "bf16": muon}.items()):
        undisturbed, killed = folder / f"{precision}-undisturbed", folder / f"{precision}-killed"
        succeed(start(lambda c=config, o=undisturbed, p=precision: train(c, o, precision=p, device="cpu")))
        kill_again_and_again(config, killed, precision, seed)
    data = make_pairs(folder / "data")
    succeed(start(lambda: on_one(folder, data)))
    succeed(*ranks(2, lambda rank: on_two(folder, data, rank)))
    succeed(start(lambda: run(SAVED_PAIRS, folder / "pairs-hop", data=data, resume=True)))
    lose_a_rank(folder / "dropping-lost", data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
