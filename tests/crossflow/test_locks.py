"""One process at a time in a folder: told at once, waiting if asked to, and free again however the holder ended."""

import errno
import multiprocessing
import os
import signal
import time

import pytest

from crossflow.errors import CrossFlowError
from crossflow.files import locks
from crossflow.files.locks import check_writable, only_writer, writing_in
from crossflow.files.writing import written

fork = multiprocessing.get_context("fork")


def hold(folder, seconds: float, held) -> None:
    with only_writer(folder, "training"):
        held.set()
        time.sleep(seconds)


def holder(folder, seconds: float):
    held = fork.Event()
    process = fork.Process(target=hold, args=(folder, seconds, held))
    process.start()
    assert held.wait(30)
    return process


def test_the_second_is_told_at_once_and_a_killed_holder_holds_nothing(tmp_path):
    process = holder(tmp_path, 60)
    start = time.monotonic()
    told = pytest.raises(CrossFlowError, match=r"^Another process is drawing in .*; wait for it or stop it\.$")
    with told, only_writer(tmp_path, "drawing"):
        pass
    assert time.monotonic() - start < 1
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with only_writer(tmp_path, "drawing"):
        assert [path.name for path in tmp_path.iterdir()] == [locks.NAME]


def test_who_waits_goes_on_when_the_holder_is_done(tmp_path):
    process = holder(tmp_path, 0.3)
    with only_writer(tmp_path, "drawing", wait=True):
        process.join(5)
        assert not process.is_alive()


def test_one_process_cannot_hold_a_folder_twice(tmp_path):
    told = pytest.raises(CrossFlowError, match="Another process")
    with only_writer(tmp_path, "drawing"), told, only_writer(tmp_path, "drawing"):
        pass
    with only_writer(tmp_path, "drawing"):
        pass


def test_each_process_of_a_launch_holds_its_own_and_each_of_a_second_is_told(tmp_path):
    told = pytest.raises(CrossFlowError, match="Another process")
    with only_writer(tmp_path, "training"), writing_in(tmp_path, "training", rank=1):
        for rank in (0, 1):
            with told, writing_in(tmp_path, "training", rank=rank):
                pass
    with writing_in(tmp_path, "training", rank=1):
        pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_works_without(tmp_path, monkeypatch, code):
    """The real library on a system call that fails as it does there."""
    fcntl = pytest.importorskip("fcntl")

    def failing(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", failing)
    with only_writer(tmp_path, "drawing"), only_writer(tmp_path, "drawing"):
        pass


def test_an_error_inside_passes_and_gives_the_lock_back(tmp_path):
    with pytest.raises(OSError, match="mine"), only_writer(tmp_path, "drawing"):
        raise OSError("mine")
    with only_writer(tmp_path, "drawing"):
        pass


def test_what_cannot_be_written_is_said_before_the_work_and_nothing_is_made(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "out", tmp_path / ("x" * 300)):
        for check in (check_writable, lambda folder, doing: writing_in(folder, doing).__enter__()):
            with pytest.raises(CrossFlowError, match="cannot be written"):
                check(folder, "drawing")
    check_writable(tmp_path / "new" / "out", "drawing")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with writing_in(tmp_path / "new", "drawing"), pytest.raises(CrossFlowError, match="Another process"):
        check_writable(tmp_path / "new", "drawing")


def refused_in(folder, rank=0):
    with pytest.raises(CrossFlowError, match="no such model"), writing_in(folder, "drawing", rank=rank):
        raise CrossFlowError("There is no such model: give another.")


def test_where_nothing_was_written_all_is_as_it_was(tmp_path):
    refused_in(tmp_path / "new" / "out")
    refused_in(tmp_path / "new", rank=1)
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").touch()
    refused_in(tmp_path)
    check_writable(tmp_path, "drawing")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_was_written_stays_with_its_lock_and_a_lock_that_was_there_too(tmp_path):
    with pytest.raises(CrossFlowError), writing_in(tmp_path / "out", "drawing"):
        (tmp_path / "out" / "image").touch()
        raise CrossFlowError("The disk is full: make room.")
    refused_in(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {locks.NAME, "image"}


def test_an_array_of_which_a_part_was_written_is_a_disk_that_is_full(tmp_path):
    said = r"a.npy cannot be written \(1024 requested and 18 written\): make room"
    with pytest.raises(CrossFlowError, match=said), written(tmp_path / "a.npy"):
        raise OSError("1024 requested and 18 written")
