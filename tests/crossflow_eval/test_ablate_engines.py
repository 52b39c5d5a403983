"""The engines: jobs in the order of their dependencies, what a failure stops, and what a killed command leaves."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from crossflow.errors import CrossFlowError
from crossflow_eval.ablate import local, slurm
from crossflow_eval.ablate.jobs import Job, end, failures, left, levels, run_job, why_failed


def job(out: Path, name: str, command: tuple[str, ...] | None = None, after: tuple[str, ...] = ()) -> Job:
    """A job that makes the file ``OUT/NAME/made``."""
    folder = out / name
    return Job(
        name=name,
        title=name,
        command=command or ("touch", str(folder / "made")),
        after=after,
        folder=folder,
        done=(folder / "made").exists,
    )


def python(*lines: str) -> tuple[str, ...]:
    return (sys.executable, "-c", "\n".join(lines))


def ignore(process: subprocess.Popen[bytes]) -> None:
    pass


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def until(happened) -> None:
    limit = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_jobs_run_once_those_before_them_are_done(tmp_path):
    """The last reads what the others made; and a second call runs nothing."""
    read = ("cp", str(tmp_path / "b" / "made"), str(tmp_path / "c" / "made"))
    jobs = [job(tmp_path, "a"), job(tmp_path, "b", after=("a",)), job(tmp_path, "c", read, ("a", "b"))]
    assert local.run_all(jobs, tmp_path, 2) == {}
    assert not left(jobs, tmp_path)
    never = [replace(each, command=("false",)) for each in jobs]
    assert local.run_all(never, tmp_path, 2) == {}


def test_a_failure_stops_what_comes_after_it_and_nothing_else(tmp_path, caplog):
    jobs = [
        job(tmp_path, "bad", python("import sys", "sys.exit('Error: The disk is full.')")),
        job(tmp_path, "after", after=("bad",)),
        job(tmp_path, "later", after=("after",)),
        job(tmp_path, "other"),
    ]
    with caplog.at_level(logging.WARNING):
        failed = local.run_all(jobs, tmp_path, 1)
    assert failed == dict.fromkeys(("bad", "after", "later"), "The disk is full")
    assert caplog.messages == ["The bad failed: The disk is full."]
    assert [each.done() for each in jobs] == [False, False, False, True]
    assert failures(jobs, tmp_path) == failed
    mended = [job(tmp_path, "bad"), *jobs[1:]]
    assert local.run_all(mended, tmp_path, 1) == failures(mended, tmp_path) == {}
    assert not list((tmp_path / "failed").iterdir())


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("true",), "ended with exit code 0 before it was done, without a word"),
        (("false",), "ended with exit code 1 before it was done, without a word"),
        (python("import os", "os.kill(os.getpid(), 9)"), "ended by SIGKILL"),
        (python("print('Error: First.')", "print('then')", "raise SystemExit(2)"), "First"),
        (python("print('A traceback', 'ValueError: no', sep=chr(10))", "raise SystemExit(1)"), "ValueError: no"),
    ],
)
def test_every_way_to_fail_has_its_reason(tmp_path, command, reason):
    bad = job(tmp_path, "bad", command)
    assert run_job(bad, tmp_path, {}, ignore) == reason == why_failed(tmp_path, "bad")


def test_reasons_are_those_of_the_last_run_alone(tmp_path):
    assert run_job(job(tmp_path, "a", python("raise SystemExit('Error: Old.')")), tmp_path, {}, ignore) == "Old"
    assert "Old" not in run_job(job(tmp_path, "a", ("false",)), tmp_path, {}, ignore)
    (tmp_path / "a" / "made").touch()
    assert left([job(tmp_path, "a")], tmp_path) == []
    assert why_failed(tmp_path, "a") == ""


def test_no_more_jobs_run_at_a_time_than_asked_for(tmp_path):
    """Each writes how many stand beside it."""
    beside, most = tmp_path / "beside", 2
    beside.mkdir()
    text = (
        "import pathlib, sys, time",
        "me, made, beside = map(pathlib.Path, sys.argv[1:])",
        "me.touch()",
        "time.sleep(0.15)",
        "made.write_text(str(len(list(beside.iterdir()))))",
        "me.unlink()",
    )
    jobs = [
        job(tmp_path, name, (*python(*text), str(beside / name), str(tmp_path / name / "made"), str(beside)))
        for name in "abcde"
    ]
    assert local.run_all(jobs, tmp_path, most) == {}
    assert max(int((tmp_path / name / "made").read_text()) for name in "abcde") <= most


def test_a_gpu_each_where_there_are_some_and_else_a_core(monkeypatch):
    assert local.places(3, 1) == [local.ONE_THREAD] * 3
    assert len(local.places(None, 1)) == os.cpu_count()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    assert local.places(None, 1) == [{"CUDA_VISIBLE_DEVICES": number} for number in "456"]
    assert local.places(None, 2) == [{"CUDA_VISIBLE_DEVICES": "4,5"}]
    assert local.places(2, 2) == [{"CUDA_VISIBLE_DEVICES": "4,5"}] * 2
    with pytest.raises(CrossFlowError, match="--gpus 4 is more than the 3 that this machine has"):
        local.places(None, 4)


ORPHAN = (
    "import pathlib, sys, time",
    "from crossflow.files.locks import only_writer",
    "folder = pathlib.Path(sys.argv[1])",
    "time.sleep(float(sys.argv[2]))",
    "with only_writer(folder, 'training'):",
    "    (folder / 'held').touch()",
    "    time.sleep(0.5)",
    "    (folder / 'made').touch()",
)
"""A job that holds its folder while it works, as trainings and runs do."""


def test_one_that_a_killed_command_left_behind_is_waited_for(tmp_path):
    work = job(tmp_path, "a", ("false",))
    work.folder.mkdir()
    with subprocess.Popen((*python(*ORPHAN), str(work.folder), "0")) as orphan:
        until((work.folder / "held").exists)
        assert run_job(work, tmp_path, {}, ignore) == ""
        assert orphan.wait() == 0
    assert not (tmp_path / "failed").exists()


def test_one_that_was_left_behind_before_it_held_its_folder_is_waited_for_too(tmp_path):
    """It wins the folder while our own job begins, which then gives up."""
    ours = (
        "import pathlib, sys, time",
        "from crossflow.files.locks import only_writer",
        "folder = pathlib.Path(sys.argv[1])",
        "while not (folder / 'held').exists():",
        "    time.sleep(0.01)",
        "with only_writer(folder, 'training'):",
        "    pass",
    )
    work = job(tmp_path, "a", (*python(*ours), str(tmp_path / "a")))
    work.folder.mkdir()
    with subprocess.Popen((*python(*ORPHAN), str(work.folder), "0.3")) as orphan:
        assert run_job(work, tmp_path, {}, ignore) == ""
        assert orphan.wait() == 0
    assert not (tmp_path / "failed").exists()


def test_what_is_interrupted_is_ended_and_waited_for(tmp_path, monkeypatch):
    """As on Ctrl-C: the processes are gone when ``run_all`` is left, and no other is begun."""
    sleeper = (*python("import pathlib, sys, time", "pathlib.Path(sys.argv[1]).touch()", "time.sleep(60)"),)
    jobs = [
        job(tmp_path, "a", (*sleeper, str(tmp_path / "begun"))),
        job(tmp_path, "b", (*sleeper, str(tmp_path / "never"))),
    ]
    processes: list[subprocess.Popen[bytes]] = []
    started = run_job

    def recording(of, out, environment, on_start):
        return started(of, out, environment, lambda process: (processes.append(process), on_start(process)))

    def interrupted(*given, **options):
        until((tmp_path / "begun").exists)
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "run_job", recording)
    monkeypatch.setattr(local, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        local.run_all(jobs, tmp_path, 1)
    assert [process.returncode for process in processes] == [-signal.SIGTERM]
    assert not (tmp_path / "never").exists()


def test_levels_are_generations():
    jobs = [job(Path(), "a"), job(Path(), "b", after=("a",)), job(Path(), "c"), job(Path(), "d", after=("b", "gone"))]
    assert [[each.name for each in level] for level in levels(jobs)] == [["a", "c"], ["b"], ["d"]]
    assert levels([]) == []


def test_a_cluster_runs_the_same_jobs_level_by_level(tmp_path):
    """By submitit's executor of this machine: each level after the last, and the reasons of failures are kept."""
    jobs = [
        job(tmp_path, "a"),
        job(tmp_path, "b", ("cp", str(tmp_path / "a" / "made"), str(tmp_path / "b" / "made")), ("a",)),
        job(tmp_path, "bad", python("raise SystemExit('Error: The disk is full.')"), ("a",)),
    ]
    failed = slurm.run_all(jobs, tmp_path, cluster="local", options={"timeout_min": 2})
    assert failed == {"bad": "The disk is full"} == failures(jobs, tmp_path)
    assert [each.done() for each in jobs] == [True, True, False]


def test_a_job_of_the_cluster_is_not_held_up_by_a_failure_that_was_mended(tmp_path):
    """The failed job was done by hand in between, so its old reason stops nothing."""
    work = slurm.Work(tmp_path)
    assert work(job(tmp_path, "a", ("false",))) != ""
    after, last = job(tmp_path, "b", after=("a",)), job(tmp_path, "c", after=("b",))
    assert work(after) == work(last) == why_failed(tmp_path, "a")
    assert not after.done()
    (tmp_path / "a" / "made").touch()
    for each in left([job(tmp_path, "a"), after, last], tmp_path):
        assert work(each) == ""


def test_at_preemption_the_process_is_ended_and_awaited_and_the_job_goes_on(tmp_path):
    """As submitit does: ``checkpoint`` is called by a signal, in the thread that waits for the process."""
    submitit = pytest.importorskip("submitit.helpers")
    folder = tmp_path / "a"
    text = (
        "import pathlib, sys, time",
        "folder = pathlib.Path(sys.argv[1])",
        "if (folder / 'begun').exists():",
        "    (folder / 'made').touch()",
        "else:",
        "    (folder / 'begun').touch()",
        "    time.sleep(60)",
    )
    work, of = slurm.Work(tmp_path), job(tmp_path, "a", (*python(*text), str(folder)))
    queued: list[object] = []

    def preempted(*given) -> None:
        queued.append(work.checkpoint(of))
        assert work.process is not None
        assert work.process.returncode == -signal.SIGTERM

    before = signal.signal(signal.SIGUSR2, preempted)
    try:
        threading.Thread(
            target=lambda: (until((folder / "begun").exists), os.kill(os.getpid(), signal.SIGUSR2))
        ).start()
        started = time.monotonic()
        assert work(of) == "ended by SIGTERM"
        assert time.monotonic() - started < 15
    finally:
        signal.signal(signal.SIGUSR2, before)
    (again,) = queued
    assert isinstance(again, submitit.DelayedSubmission)
    assert again.function(*again.args) == ""
    assert of.done()


def test_a_process_that_ignores_being_ended_is_killed(monkeypatch):
    deaf = subprocess.Popen(
        python("import signal, time", "signal.signal(15, signal.SIG_IGN)", "print(1, flush=True)", "time.sleep(60)"),
        stdout=subprocess.PIPE,
    )
    assert deaf.stdout is not None
    deaf.stdout.readline()
    wait = deaf.wait
    monkeypatch.setattr(deaf, "wait", lambda timeout=None: wait(None if timeout is None else 0.2))
    end(deaf)
    deaf.stdout.close()
    assert deaf.returncode == -signal.SIGKILL


def test_without_submitit_or_a_cluster_there_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(
        CrossFlowError, match=r"^The cluster took no jobs \(.*srun.*\); --print-commands is another way"
    ):
        slurm.run_all([job(tmp_path, "a")], tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(CrossFlowError, match=r"^--engine slurm needs submitit: install it, or crossflow\[slurm\]\.$"):
        slurm.run_all([job(tmp_path, "a")], tmp_path)
