"""The sha256 of files and folders."""

import hashlib
from pathlib import Path

from crossflow.errors import CrossFlowError


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal; CrossFlowError if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CrossFlowError(f"{path} cannot be read ({error.strerror}): give the path of a file.") from error


def content_sha256(path: str | Path) -> str:
    """The sha256 of a file, or of the names and hashes of all files in a folder; CrossFlowError if it is neither."""
    path = Path(path)
    if not path.is_dir():
        return file_sha256(path)
    files = sorted(each for each in path.rglob("*") if each.is_file())
    lines = [f"{each.relative_to(path).as_posix()} {file_sha256(each)}\n" for each in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
