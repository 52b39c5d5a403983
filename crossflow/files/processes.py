"""This process's place among those that ``torchrun`` started, and the threads that it reads files with."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar

from crossflow.errors import CrossFlowError

_WORKERS: ContextVar[int | None] = ContextVar("workers", default=None)
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) outside of ``torchrun``.

    CrossFlowError where one of VARIABLES is no whole number, or a number is not below its count.
    """
    given = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    for name, value in given.items():
        if not (value.isascii() and value.isdecimal() and len(value) < 10):
            raise CrossFlowError(f"{name} is {value!a}, and must be a whole number; unset it outside of torchrun.")
    rank, world, local, nearby = (int(given.get(name, number)) for name, number in zip(VARIABLES, "0101", strict=True))
    if rank >= world or ("LOCAL_WORLD_SIZE" in given and local >= nearby):
        raise CrossFlowError(f"RANK {rank} is not below WORLD_SIZE {world}; unset both outside of torchrun.")
    return rank, world


@contextmanager
def workers(count: int | None) -> Iterator[None]:
    """Let ``file_threads`` be ``count``, by the cores where None. CrossFlowError for less than one."""
    if count is not None and count < 1:
        raise CrossFlowError(f"--workers must be at least 1, got {count}.")
    before = _WORKERS.set(count)
    try:
        yield
    finally:
        _WORKERS.reset(before)


def file_threads() -> ThreadPoolExecutor:
    """A pool of the threads that read, decode and hash files; which of them does what changes no result."""
    return ThreadPoolExecutor(_WORKERS.get())
