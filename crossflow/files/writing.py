"""Files that are there whole or not at all, and errors of the file system as a sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crossflow.errors import CrossFlowError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of ``path``, made if need be; what was written there becomes ``path``.

    An error leaves ``path`` as it was. One of the file system, such as a full disk, is raised as CrossFlowError.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    with written(path):
        if path.exists() and not path.is_file():
            raise CrossFlowError(f"{path} is there and is no file: choose another name.")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Turn an error of the file system into a CrossFlowError that names ``path``."""
    try:
        yield
    except OSError as error:
        raise CrossFlowError(f"{path} cannot be written ({error}): make room or choose another folder.") from error
