"""The trainings of an ablation: each in a process and a folder of its own, going on from the state it has left."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path

from crossflow.errors import CrossFlowError
from crossflow.files.writing import written
from crossflow_eval.ablate.plan import Part, Plan
from crossflow_eval.models import finished_training
from crossflow_eval.runs.store import Store

TRAIN = (sys.executable, "-c", "from crossflow.cli import app; app()", "train")
"""The command ``crossflow train``, by this very interpreter."""
logger = logging.getLogger(__name__)


def train_all(plan: Plan, jobs: int) -> None:
    """Train every part, ``jobs`` at a time; after a failure no other is begun, and it is raised."""
    stop = threading.Event()

    def train(part: Part) -> None:
        if stop.is_set():
            return
        try:
            _train(part, plan)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        try:
            for done in as_completed([pool.submit(train, part) for part in plan.parts]):
                done.result()
        finally:
            stop.set()


def _train(part: Part, plan: Plan) -> None:
    """Train one part to its end in a process of its own, going on from the state it may have left."""
    if finished_training(part.checkpoint, part.recipe, part.seed, plan.steps) is not None:
        return
    with written(part.folder):
        part.folder.mkdir(parents=True, exist_ok=True)
    _share_pairs(part.folder)
    command = [*TRAIN, part.recipe, "--out", str(part.folder), "--seed", str(part.seed)]
    command += [] if plan.steps is None else ["--steps", str(plan.steps)]
    command += ["--resume"] if (part.folder / "state.safetensors").exists() else []
    log = part.folder / "train.log"
    with _held(part.folder) as lock, log.open("ab") as said:
        logger.info("training %s; progress in %s", part.title, log)
        before, start = _steps_done(part.folder), time.monotonic()
        one_thread = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        child = subprocess.Popen(command, stdout=said, stderr=said, env=one_thread, pass_fds=(lock,))
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    record = {"from": before, "to": _steps_done(part.folder), "seconds": time.monotonic() - start}
    Store(part.folder).append("timing.jsonl", record | {"cpu_seconds": usage.ru_utime + usage.ru_stime})
    if finished_training(part.checkpoint, part.recipe, part.seed, plan.steps) is None:
        last = log.read_text(errors="replace").strip().rpartition("\n")[2].removeprefix("Error: ").rstrip(".")
        raise CrossFlowError(
            f"The training of {part.title} ended with exit code {child.returncode} ({last}); see {log}."
        )


@contextmanager
def _held(folder: Path) -> Iterator[int]:
    """Keep others out of a training's folder; a child that was passed the lock keeps it if this process is killed."""
    lock = os.open(folder / ".lock", os.O_WRONLY | os.O_CREAT)
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise CrossFlowError(f"Another process is training in {folder}; wait for it or stop it.") from error
        yield lock
    finally:
        os.close(lock)


def _share_pairs(folder: Path) -> None:
    """Take over the training pairs that a training beside this one has made; their name is that of their content."""
    with suppress(OSError):  # a file system without links: they are made again
        for made in folder.parent.glob("*/cache/pairs-*.safetensors"):
            mine = folder / "cache" / made.name
            mine.parent.mkdir(exist_ok=True)
            if not mine.exists():
                os.link(made, mine)


def _steps_done(folder: Path) -> int:
    """The last step in a training's log; 0 without one."""
    with suppress(OSError, ValueError, IndexError, KeyError):
        return int(json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["step"])
    return 0


def cpu_seconds(folder: Path) -> float | None:
    """The CPU time of a training over all its processes; None where the records do not join up."""
    total, reached = 0.0, 0
    with suppress(FileNotFoundError):
        for line in (folder / "timing.jsonl").read_text().splitlines():
            record = json.loads(line)
            if record["from"] > reached:
                return None
            total, reached = total + record["cpu_seconds"], record["to"]
    return total if reached and reached == _steps_done(folder) else None
