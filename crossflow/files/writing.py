"""Atomic writes, and file-system errors as CrossFlowError."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crossflow.errors import CrossFlowError


@contextmanager
def replacing(path: Path, writer: str | int | None = None) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``, created if needed; the file written there replaces ``path``.

    ``writer`` tells apart the temporary files of processes that may write ``path`` at the same time. On an error
    ``path`` stays as it was. File-system errors, such as a full disk, are raised as CrossFlowError.
    """
    temporary = path.with_name(f"{path.name}.tmp" if writer is None else f".{path.name}.{writer}.tmp")
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


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Turn a file-system error into a CrossFlowError that names ``path``."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise CrossFlowError(
            f"{path} cannot be written ({reason}): make room or choose another folder; what is finished is kept."
        ) from error
