"""Atomic writes, nothing written over, and file-system errors as CrossFlowError."""

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from crossflow.errors import CrossFlowError


@contextmanager
def replacing(path: Path, writer: str | int | None = None) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``, created if needed; the file written there replaces ``path``.

    ``writer`` tells apart the temporary files of processes that may write ``path`` at the same time. On an error
    ``path`` stays as it was. File-system errors, such as a full disk, are raised as CrossFlowError.
    """
    temporary = path.with_name(f".{path.name}.tmp" if writer is None else f".{path.name}.{writer}.tmp")
    with written(path):
        if path.exists() and not path.is_file():
            raise CrossFlowError(f"{path} is there and is no file: choose another name.")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes, writer: str | int | None = None, durable: bool = False) -> None:
    """Write ``content`` to ``path`` atomically (see ``replacing``); ``durable`` also waits for the disk."""
    with replacing(path, writer) as temporary, temporary.open("wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def refuse_existing(paths: Iterable[Path]) -> None:
    """Raise CrossFlowError if one of the ``paths`` that a command is about to write is there: it may be an input."""
    for path in paths:
        with written(path):
            there = path.exists() or path.is_symlink()
        if there:
            raise CrossFlowError(f"{path} is there already, and is not replaced: choose another name, or remove it.")


def make_folder(folder: Path) -> None:
    """Make ``folder`` where it is not there; CrossFlowError where nothing can be written in it."""
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")


REMEDIES = {
    errno.ENAMETOOLONG: "choose a shorter name, of at most 240 bytes",
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room, or choose another folder"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "choose another place, for a file is where a folder is needed"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "allow it, or choose another folder"),
}
"""What to do about an error of the file system."""


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Turn a file-system error into a CrossFlowError that names ``path``."""
    try:
        yield
    except OSError as error:
        number = error.errno or errno.ENOSPC  # numpy, which has written a part of an array, has none
        remedy = REMEDIES.get(number, "choose another place")
        raise CrossFlowError(
            f"{path} cannot be written ({error.strerror or error}): {remedy}; what is finished is kept."
        ) from error
