"""Trains in forked processes, some of them killed, some of them several ranks; ``test_train.py`` reads what is left.

Called as ``python training_processes.py FOLDER``. One import of torch serves all the runs.
"""

import os
import random
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from accelerate.state import AcceleratorState

import crossflow.train
from crossflow import losses
from crossflow.configs import CONFIGS, SceneData, TrainConfig
from crossflow.encoder import EncoderConfig
from crossflow.model import Sampling
from crossflow.run_state import Run
from crossflow.train import train

TINY = CONFIGS["scenes-tiny"]
SMALL = replace(
    TINY,
    model=replace(TINY.model, sampling=Sampling(solver="euler", steps=1)),
    data=SceneData(count=64),
    optimizer="adamw",
    batch_size=8,
    steps=12,
    warmup=1,
    log_every=2,
    save_every=2,
    sample_every=6,
)
SHORT = replace(SMALL, steps=5, log_every=1)
GRID = replace(SHORT, model=replace(SHORT.model, encoder=EncoderConfig(width=32, depth=1, heads=1, readout="grid")))
BASELINE = replace(SHORT, model=replace(SHORT.model, encoder=None, contrastive_weight=0.0))
QUIET = replace(SHORT, model=replace(SHORT.model, contrastive_weight=0.0))


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


def die_at(number: int) -> None:
    """Kill this process without warning at its ``number``-th moment: around a rename, in a log line, after a step."""
    left = number

    def moment(before: Callable[[], object] = lambda: None) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            before()
            os.kill(os.getpid(), signal.SIGKILL)

    rename, write, advance = Path.replace, crossflow.train._Log.write, Run.advance

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
    crossflow.train._Log.write = deadly_write
    Run.advance = deadly_advance


def kill_again_and_again(config: TrainConfig, out: Path, precision: str, seed: int) -> None:
    """Start, be killed and resume until the run ends by itself; write down how often that was."""
    draw = random.Random(seed)
    kills = 0

    def attempt() -> None:
        die_at(draw.randrange(1, 20))  # the first state is saved at about the 12th
        train(config, out, resume=True, precision=precision, device="cpu")

    while code := end(start(attempt)):
        if code != -signal.SIGKILL:
            sys.exit(f"a resumed run ended with {code}")
        kills += 1
        draw.random()
    (out / "kills").write_text(str(kills))


def ranks(count: int, config: TrainConfig, out: Path, gather: bool = True) -> None:
    """The same training on ``count`` ranks, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def attempt(rank: int) -> None:
        if count > 1:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"})
        if not gather:
            losses.gather = lambda x: x
        train(config, out, precision="fp32", device="cpu")

    succeed(*[start(lambda rank=rank: attempt(rank)) for rank in range(count)])


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    muon = replace(SMALL, optimizer="muon")
    train(replace(muon, steps=1), folder / "first", precision="bf16", device="cpu")  # what torch does once, once
    AcceleratorState._reset_state(reset_partial_state=True)
    for seed, (precision, config) in enumerate({"fp32": SMALL, "bf16": muon}.items()):
        undisturbed, killed = folder / f"{precision}-undisturbed", folder / f"{precision}-killed"
        succeed(start(lambda c=config, o=undisturbed, p=precision: train(c, o, precision=p, device="cpu")))
        kill_again_and_again(config, killed, precision, seed)
    for name, config in (("short", SHORT), ("grid", GRID), ("baseline", BASELINE), ("quiet", QUIET)):
        ranks(1, config, folder / f"{name}-1")
        ranks(2, config, folder / f"{name}-2")
    ranks(2, SHORT, folder / "ungathered-2", gather=False)
    ranks(1, replace(QUIET, accumulate=4), folder / "parts-1")
    ranks(2, replace(QUIET, accumulate=2), folder / "parts-2")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
