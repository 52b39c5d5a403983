"""The jobs of a plan: commands that anyone can run, each after those that it depends on, with their state in files."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from crossflow.errors import CrossFlowError, one_line
from crossflow.files.locks import only_writer
from crossflow.files.plain_json import read_json
from crossflow.files.writing import write_whole, written
from crossflow_eval.ablate.measure import measured, measured_path, references
from crossflow_eval.ablate.plan import READER, WALK, Measurement, Plan, Training
from crossflow_eval.models.crossflow import stages_of

PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "crossflow": (sys.executable, "-c", "from crossflow.cli import app; app()"),
    "crossflow-eval": (sys.executable, "-c", "from crossflow_eval.cli import app; app()"),
    "torchrun": (sys.executable, "-m", "torch.distributed.run"),
}
"""The programs that jobs call, by this very interpreter."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command, the names of the jobs that it comes after, and the folder that it alone writes.

    ``done`` says whether it has been run to its end; it raises CrossFlowError where what is there is another's.
    ``steps`` are those that it trains, of its ``recipe``; 0 is anything else. ``anew``: it cannot go on from what it
    has left, so its folder is emptied before it begins again.
    """

    name: str
    title: str
    command: tuple[str, ...]
    after: tuple[str, ...]
    folder: Path
    done: Callable[[], bool]
    steps: int = 0
    recipe: str = ""
    anew: bool = False

    @property
    def line(self) -> str:
        """The command as one types it."""
        return shlex.join(self.command)


def jobs_of(plan: Plan) -> list[Job]:
    """Every job of a plan, each after those that it comes after."""
    found: dict[str, Job] = {}
    for training in plan.trainings:
        found[f"train-{training.digest}"] = _train(plan, training)
    for measurement in plan.measurements:
        if measurement.reader:
            for training in measurement.trainings:
                found[f"read-{training.digest}"] = _read(plan, training)
    for suite, limit in dict.fromkeys((table.task.test, table.task.limit) for table in plan.tables):
        name = f"references-{suite}" + ("" if limit is None else f"-{limit}")
        found[name] = Job(
            name=name,
            title=f"references of {suite}",
            command=_own(plan, name),
            after=(),
            folder=plan.out / "references" / suite,
            done=lambda suite=suite, limit=limit: references(plan, suite, limit) is not None,
        )
    for measurement in plan.measurements:
        found[f"measure-{measurement.digest}"] = _measure(plan, measurement)
    for table in plan.tables:
        for part in table.parts if table.ablation.walk else ():
            if part.seed == 0:
                for training in part.measurement.trainings:
                    found[f"walk-{training.digest}"] = _walk(plan, training, table.ablation.walk or ("", ""))
    return list(found.values())


def job_named(plan: Plan, name: str) -> Measurement | tuple[str, int | None]:
    """What the job called ``name`` measures: a row with one seed, or the references of a suite."""
    for measurement in plan.measurements:
        if name == f"measure-{measurement.digest}":
            return measurement
    for table in plan.tables:
        suite, limit = table.task.test, table.task.limit
        if name == f"references-{suite}" + ("" if limit is None else f"-{limit}"):
            return suite, limit
    raise CrossFlowError(
        f"There is no job {name!r} that measures in this plan: --print-commands shows them; the options have to be "
        "those of the whole."
    )


def _own(plan: Plan, name: str) -> tuple[str, ...]:
    """The command that runs one job of a plan."""
    given = {"--out": plan.out, "--data": plan.data, "--test-data": plan.test_data}
    where = [str(word) for option, value in given.items() if value is not None for word in (option, value)]
    return (*plan.words, *where, "--only", name)


def _train(plan: Plan, training: Training) -> Job:
    folder = plan.out / training.digest
    many = ["torchrun", "--standalone", "--nproc-per-node", str(plan.gpus), "--no-python"] if plan.gpus > 1 else []
    command = [*many, "crossflow", "train", training.recipe, "--out", str(folder), "--seed", str(training.seed)]
    command += [*([] if stages_of(training.recipe) else ["--steps", str(training.steps)]), "--resume"]
    command += [] if training.data is None else ["--data", training.data]
    init = training.init(plan.out)
    command += [] if init is None else ["--init", str(init)]
    return Job(
        name=f"train-{training.digest}",
        title=f"training of {training.title}",
        command=tuple(command),
        after=() if training.begins is None else (f"train-{training.begins.digest}",),
        folder=folder,
        done=lambda: training.done(plan.out),
        steps=training.steps,
        recipe=training.recipe,
    )


def _read(plan: Plan, training: Training) -> Job:
    """The decoder that reads captions from the source latents of a text-to-image model."""
    folder = plan.out / training.digest
    checkpoint, seed = training.checkpoint(plan.out), ("--seed", str(training.seed))
    return Job(
        name=f"read-{training.digest}",
        title=f"decoder of {training.title}",
        command=("crossflow", "train-reader", str(checkpoint), "--out", str(folder / READER), *seed),
        after=(f"train-{training.digest}",),
        folder=folder,
        done=(folder / READER).exists,
    )


def _walk(plan: Plan, training: Training, ends: tuple[str, str]) -> Job:
    """Images between two prompts."""
    folder = plan.out / training.digest / WALK
    given = ("--ckpt", str(training.checkpoint(plan.out)), "--frames", "10", "--out", str(folder))
    return Job(
        name=f"walk-{training.digest}",
        title=f"walk between two prompts of {training.title}",
        command=("crossflow", "interpolate", *ends, *given),
        after=(f"train-{training.digest}",),
        folder=folder,
        done=(folder / "grid.png").exists,
        anew=True,
    )


def _measure(plan: Plan, measurement: Measurement) -> Job:
    name = f"measure-{measurement.digest}"
    kind = "read" if measurement.reader else "train"
    of = ", ".join(dict.fromkeys(training.title for training in measurement.trainings))
    at = "" if measurement.at == 1 else f", at {measurement.at:g} of its steps"
    return Job(
        name=name,
        title=f"measurement of {of}{at}",
        command=_own(plan, name),
        after=tuple(f"{kind}-{training.digest}" for training in measurement.trainings),
        folder=measured_path(plan.out, measurement).parent,
        done=lambda: measured(plan.out, measurement) is not None,
    )


def left(jobs: Sequence[Job], out: Path) -> list[Job]:
    """The jobs that are not done yet. What once stopped one that is done by now is forgotten."""
    todo: list[Job] = []
    for job in jobs:
        if job.done():
            (out / "failed" / f"{job.name}.txt").unlink(missing_ok=True)
        else:
            todo.append(job)
    return todo


def run_job(
    job: Job, out: Path, environment: Mapping[str, str], on_start: Callable[[subprocess.Popen[bytes]], None]
) -> str:
    """Run a job to its end in a process of its own; what it says goes into ``OUT/logs``.

    Returns what went wrong, in words, or "" where it is done. Whoever else runs it is waited for. ``on_start`` is given
    the process, so that it can be ended.
    """
    failed, log = out / "failed" / f"{job.name}.txt", out / "logs" / f"{job.name}.log"
    with written(job.folder):
        for folder in (job.folder, log.parent):
            folder.mkdir(parents=True, exist_ok=True)
    _wait_for_others(job)
    start = log.stat().st_size if log.exists() else 0
    command = (*PROGRAMS.get(job.command[0], job.command[:1]), *job.command[1:])
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    own = {**os.environ, "PATH": path, **environment}
    code, alone = 0, False
    while not (job.done() or alone):
        if job.steps:
            share_pairs(out, job.folder)
        for half_made in job.folder.iterdir() if job.anew else ():
            half_made.unlink()
        with log.open("ab") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said, stdin=subprocess.DEVNULL, env=own)
            on_start(process)
            code = process.wait()
        alone = not _wait_for_others(job)  # else one that a killed command left behind had begun before ours
    if job.done():
        failed.unlink(missing_ok=True)
        return ""
    reason = f"ended by {signal.Signals(-code).name}" if code < 0 else _last_words(log, start)
    reason = reason or f"ended with exit code {code} before it was done, without a word"
    write_whole(failed, f"{reason}\n".encode())
    return reason


def why_failed(out: Path, name: str) -> str:
    """What stopped the job called ``name``; "" where nothing did."""
    with suppress(OSError):
        return one_line((out / "failed" / f"{name}.txt").read_text(encoding="utf-8", errors="replace").strip())
    return ""


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process, and wait until it is gone: it saves nothing on the way, for its state is in its files."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_others(job: Job) -> bool:
    """Wait for a process that a killed run of the same command may have left behind; returns whether there was one."""
    try:
        with only_writer(job.folder, "running"):
            return False
    except CrossFlowError:
        with only_writer(job.folder, "running", wait=True):
            return True


def _last_words(log: Path, start: int) -> str:
    """The error in what a job has written into ``log`` from the byte ``start`` on; else its last line."""
    lines = log.read_bytes()[start:].decode(errors="replace").strip().split("\n")
    errors = [line for line in lines if line.startswith("Error: ")]
    return (errors or lines)[-1].removeprefix("Error: ").rstrip(".")


def share_pairs(out: Path, folder: Path) -> None:
    """Take over the training pairs that a training beside this one has made; their name is that of their content."""
    with suppress(OSError):  # a file system without links: they are made again
        for made in sorted(out.glob("*/cache/pairs-*.safetensors")):
            mine = folder / "cache" / made.name
            mine.parent.mkdir(parents=True, exist_ok=True)
            if not mine.exists():
                os.link(made, mine)


def _last_step(folder: Path) -> int:
    """The last step in a training's log; 0 without one."""
    path = folder / "log.jsonl"
    with suppress(CrossFlowError, OSError, ValueError, IndexError, KeyError, TypeError):
        return int(read_json(path.read_bytes().splitlines()[-1], str(path))["step"])
    return 0


def cpu_seconds(folder: Path) -> float | None:
    """The CPU time of a training from its records in ``timing.jsonl``; None where they do not join up."""
    path, total, reached = folder / "timing.jsonl", 0.0, 0
    try:
        for line in path.read_bytes().splitlines():
            record = read_json(line, str(path))
            if record["from"] > reached:
                return None
            total, reached = total + record["cpu_seconds"], record["to"]
    except (CrossFlowError, OSError, KeyError, TypeError):
        return None
    return total if reached and reached == _last_step(folder) else None


def levels(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs in generations: each comes after jobs of earlier ones alone."""
    place: dict[str, int] = {}
    for job in jobs:
        place[job.name] = 1 + max((place[name] for name in job.after if name in place), default=-1)
    return [[job for job in jobs if place[job.name] == level] for level in range(1 + max(place.values(), default=-1))]


def failures(jobs: Sequence[Job], out: Path) -> dict[str, str]:
    """Why jobs that are not done have failed, or that they were not run, by their names."""
    found: dict[str, str] = {}
    for job in jobs:
        if not job.done():
            before = next((found[each] for each in job.after if each in found), "")
            found[job.name] = why_failed(out, job.name) or before or "it was not run"
    return found
