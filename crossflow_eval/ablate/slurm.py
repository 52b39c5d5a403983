"""The engine of a Slurm cluster, through ``submitit``: an array for each level of the dependencies.

A job that is pre-empted or runs out of its time is queued again and goes on from its files. A job that fails leaves the
reason in ``OUT/failed`` and ends well, so that the others of the next level are run.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from crossflow.errors import CrossFlowError
from crossflow.files.writing import write_whole
from crossflow_eval.ablate.jobs import Job, end, left, levels, run_job, why_failed

logger = logging.getLogger(__name__)
MINUTES = 8 * 60
"""How long a job may take before it is queued again."""


class Work:
    """What a task of the cluster does with its job; ``out`` is the folder of the ablation."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self, job: Job) -> str:
        """Run a job, unless what it comes after has failed; returns the reason, "" where it is done."""
        for name in job.after:
            if reason := why_failed(self.out, name):
                write_whole(self.out / "failed" / f"{job.name}.txt", f"{reason}\n".encode())
                return reason
        with ThreadPoolExecutor(max_workers=1) as pool:  # a signal handler can end no process that its thread waits for
            return pool.submit(run_job, job, self.out, {}, self._started).result()

    def checkpoint(self, job: Job) -> Any:
        """End the process, and queue the job again: what submitit calls before the cluster takes the node away."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            end(self.process)
        return DelayedSubmission(Work(self.out), job)

    def _started(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process


def run_all(
    jobs: Sequence[Job], out: Path, *, cluster: str = "slurm", options: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Submit what is not done yet, level by level, and wait for it; returns why jobs failed.

    ``cluster`` is submitit's: "slurm", or "local" for a try without one; ``options`` are parameters of its executor,
    such as ``slurm_partition``. Raises CrossFlowError where submitit is not installed or the cluster takes no jobs.
    """
    try:
        import submitit
    except ImportError as error:
        raise CrossFlowError("--engine slurm needs submitit: install it, or crossflow[slurm].") from error
    submitted: dict[str, Any] = {}
    before: list[Any] = []
    for level in levels(left(jobs, out)):
        try:
            executor = submitit.AutoExecutor(folder=out / "slurm", cluster=cluster)
            executor.update_parameters(name="crossflow", **_with_time(options or {}))
            if executor.cluster == "slurm" and before:
                arrays = ":".join(dict.fromkeys(each.job_id.split("_")[0] for each in before))
                after = {"dependency": f"afterok:{arrays}", "kill_on_invalid_dep": "yes"}
                executor.update_parameters(slurm_additional_parameters=after)
            else:  # one machine alone: a level begins when the one before has ended
                for each in before:
                    each.wait()
            before = executor.map_array(Work(out), level)
        except (RuntimeError, ValueError, OSError) as error:
            raise CrossFlowError(f"The cluster took no jobs ({error}); --print-commands is another way.") from error
        for job, each in zip(level, before, strict=True):
            logger.info("%s: job %s", job.title, each.job_id)
            submitted[job.name] = each
    failed: dict[str, str] = {}
    for name, each in submitted.items():
        each.wait()
        error = each.exception()
        if reason := why_failed(out, name) or (str(error).strip().split("\n")[-1] if error else each.result()):
            failed[name] = reason
    return failed


def _with_time(options: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters, with ``MINUTES`` a job where no time is given: submitit's own default is a few minutes."""
    given = {"timeout_min", "slurm_time"} & options.keys()
    return {**options} if given else {"timeout_min": MINUTES, **options}
