"""One process at a time in a folder: a lock that the operating system releases however its holder ends."""

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from crossflow.errors import CrossFlowError
from crossflow.files.writing import make_folder, written

NAME = ".lock"
"""The lock file in the folder; it stays there, empty, after the lock is released."""


@contextmanager
def only_writer(folder: Path, doing: str, wait: bool = False, rank: int = 0) -> Iterator[None]:
    """Lock ``folder``, which exists, against other processes; child processes do not inherit the lock.

    If another process holds it, raise CrossFlowError at once; ``doing`` ("training", ...) is what the message says that
    process does there. With ``wait``, wait for it instead. The processes of one launch share the folder, so each holds
    a lock of its own ``rank``, and each of a second launch is turned away. On a file system without locks nothing is
    locked.
    """
    lock = FileLock(folder / _lock_file(rank), timeout=-1 if wait else 0, fallback_to_soft=False)
    with suppress(OSError, NotImplementedError):
        try:
            lock.acquire()
        except Timeout as error:
            raise CrossFlowError(f"Another process is {doing} in {folder}; wait for it or stop it.") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def writing_in(folder: Path, doing: str, wait: bool = False, rank: int = 0) -> Iterator[None]:
    """Make ``folder`` where it is not there, and lock it as ``only_writer`` does.

    CrossFlowError, before any work, also where nothing can be written in it. Where nothing was written when the block
    ends, as what was asked for is refused, all is as it was: no new folder stays, and no new lock file.
    """
    with written(folder):
        new = [each for each in (folder.absolute(), *folder.absolute().parents) if not os.path.lexists(each)]
        make_folder(folder)
        before = os.listdir(folder)
    with only_writer(folder, doing, wait, rank):
        try:
            yield
        finally:
            _leave(folder, before, rank, new)


def _leave(folder: Path, before: Collection[str], rank: int, new: Iterable[Path]) -> None:
    """Where nothing was added but locks: remove the own one, if it is new, and ``new`` folders that are empty."""
    with suppress(OSError):
        if not all(name.startswith(NAME) for name in set(os.listdir(folder)).difference(before)):
            return
        if _lock_file(rank) not in before:
            (folder / _lock_file(rank)).unlink(missing_ok=True)
        for each in new:
            each.rmdir()


def _lock_file(rank: int) -> str:
    return f"{NAME}-{rank}" if rank else NAME


def check_writable(folder: Path, doing: str) -> None:
    """Raise what ``writing_in`` would raise, before what takes long is loaded; ``folder`` is not made."""
    with written(folder), suppress(FileNotFoundError):
        folder.lstat()
    there = next(each for each in (folder, *folder.absolute().parents) if os.path.lexists(each))
    with writing_in(there, doing) if there == folder else written(folder):
        make_folder(there)
