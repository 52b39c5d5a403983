"""One process at a time in a folder: a lock that the operating system takes back however its holder ends."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from crossflow.errors import CrossFlowError

NAME = ".lock"
"""The lock's file in the folder; it stays there, empty, when the lock is given back."""


@contextmanager
def only_writer(folder: Path, doing: str, wait: bool = False) -> Iterator[None]:
    """Hold ``folder``, which exists, against other processes; children do not inherit the lock.

    CrossFlowError at once where another process holds it, saying that it is ``doing`` (such as "training") there;
    with ``wait`` this one waits instead. Where the file system knows no locks nothing is held.
    """
    lock = FileLock(folder / NAME, timeout=-1 if wait else 0, fallback_to_soft=False)
    with suppress(OSError, NotImplementedError):
        try:
            lock.acquire()
        except Timeout as error:
            raise CrossFlowError(f"Another process is {doing} in {folder}; wait for it or stop it.") from error
    try:
        yield
    finally:
        lock.release()
