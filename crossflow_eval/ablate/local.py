"""The engine of this machine: as many jobs at a time as it has GPUs, or cores, each of one thread."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path
from queue import SimpleQueue

from crossflow.errors import CrossFlowError
from crossflow.files.progress import Stage, silent
from crossflow_eval.ablate.jobs import Job, end, left, run_job

logger = logging.getLogger(__name__)
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def places(at_a_time: int | None, gpus: int) -> list[Mapping[str, str]]:
    """The environments that jobs run in at a time: one for every ``gpus`` GPUs, if there are any, else one a core."""
    found = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", _gpus()).split(",") if name]
    if not found:
        return [ONE_THREAD] * (at_a_time or os.cpu_count() or 1)
    groups = [found[start : start + gpus] for start in range(0, len(found) - gpus + 1, gpus)]
    if not groups:
        raise CrossFlowError(f"--gpus {gpus} is more than the {len(found)} that this machine has.")
    return [{"CUDA_VISIBLE_DEVICES": ",".join(groups[k % len(groups)])} for k in range(at_a_time or len(groups))]


def _gpus() -> str:
    """The numbers of this machine's GPUs, joined by commas."""
    try:
        said = subprocess.run(("nvidia-smi", "--list-gpus"), capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return ""
    return ",".join(str(number) for number in range(len(said.stdout.strip().splitlines())))


def run_all(
    jobs: Sequence[Job], out: Path, at_a_time: int | None = None, gpus: int = 1, stage: Stage = silent
) -> dict[str, str]:
    """Run what is not done yet, each job once those are done that it comes after; returns why the others failed.

    A job that fails stops those that come after it and none else. On Ctrl-C all are ended, and waited for. Raises
    CrossFlowError where what lies in ``out`` is another's.
    """
    if at_a_time is not None and at_a_time < 1:
        raise CrossFlowError(f"--jobs must be at least 1, got {at_a_time}.")
    todo = {job.name: job for job in left(jobs, out)}
    order = TopologicalSorter({name: [each for each in job.after if each in todo] for name, job in todo.items()})
    order.prepare()
    free: SimpleQueue[Mapping[str, str]] = SimpleQueue()
    for place in (environments := places(at_a_time, gpus)):
        free.put(place)
    running: dict[str, subprocess.Popen[bytes]] = {}
    failed: dict[str, str] = {}
    stop = threading.Event()

    def started(job: Job, process: subprocess.Popen[bytes]) -> None:
        running[job.name] = process
        if stop.is_set():
            end(process)

    def start(job: Job) -> str:
        place = free.get()
        try:
            if stop.is_set():
                return "stopped"
            logger.info("%s; log in %s", job.title, out / "logs" / f"{job.name}.log")
            return run_job(job, out, place, partial(started, job))
        finally:
            running.pop(job.name, None)
            free.put(place)

    settled = len(jobs) - len(todo)

    def settle(name: str) -> None:
        nonlocal settled
        settled += 1
        order.done(name)
        at(settled, len(jobs))

    with stage("ablation", "jobs") as at, ThreadPoolExecutor(max_workers=len(environments)) as pool:
        at(settled, len(jobs))
        waiting: dict[Future[str], str] = {}
        try:
            while order.is_active():
                for name in order.get_ready():
                    if before := next((each for each in todo[name].after if each in failed), None):
                        failed[name] = failed[before]
                        settle(name)
                    else:
                        waiting[pool.submit(start, todo[name])] = name
                if waiting:
                    for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                        name = waiting.pop(done)
                        if reason := done.result():
                            logger.warning("The %s failed: %s.", todo[name].title, reason)
                            failed[name] = reason
                        settle(name)
        finally:
            stop.set()
            for process in list(running.values()):
                end(process)
    return failed
