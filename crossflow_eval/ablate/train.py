"""The trainings of an ablation: each in a process and a folder of its own, going on from the state it has left."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

from crossflow.errors import CrossFlowError
from crossflow.files.locks import only_writer
from crossflow.files.writing import written
from crossflow_eval.ablate.plan import Part, Plan
from crossflow_eval.models.crossflow import finished_training

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
    with only_writer(part.folder, "training"):
        log = part.folder / "train.log"
        written_before = log.stat().st_size if log.exists() else 0
    # From here on the training itself holds the lock, so that none other begins there if this process is killed.
    command = [*TRAIN, part.recipe, "--out", str(part.folder), "--seed", str(part.seed)]
    command += [] if plan.steps is None else ["--steps", str(plan.steps)]
    command += ["--resume"] if (part.folder / "state.safetensors").exists() else []
    logger.info("training %s; progress in %s", part.title, log)
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with log.open("ab") as said:
        done = subprocess.run(command, stdout=said, stderr=said, env=one_thread, check=False)
    if finished_training(part.checkpoint, part.recipe, part.seed, plan.steps) is None:
        raise CrossFlowError(
            f"The training of {part.title} ended with exit code {done.returncode} "
            f"({_last_words(log, written_before)}); see {log}."
        )


def _last_words(log: Path, start: int) -> str:
    """The error in what a training has written into ``log`` from the byte ``start`` on; else its last line."""
    lines = log.read_bytes()[start:].decode(errors="replace").strip().split("\n")
    errors = [line for line in lines if line.startswith("Error: ")]
    return (errors or lines)[-1].removeprefix("Error: ").rstrip(".")


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
    """The CPU time of a training from its records in ``timing.jsonl``; None where they do not join up."""
    total, reached = 0.0, 0
    with suppress(FileNotFoundError):
        for line in (folder / "timing.jsonl").read_text().splitlines():
            record = json.loads(line)
            if record["from"] > reached:
                return None
            total, reached = total + record["cpu_seconds"], record["to"]
    return total if reached and reached == _steps_done(folder) else None
