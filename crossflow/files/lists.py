"""Published lists of the files of a data set, checked before they are used: another list is another data set."""

import hashlib
from pathlib import Path

from crossflow.errors import CrossFlowError


def read_list(path: Path, sha256: str, remedy: str) -> list[list[str]]:
    """The words of every line of a file list. CrossFlowError, with a ``remedy``, where it is not the published one."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CrossFlowError(f"Cannot read the file list {path}: {error.strerror}; {remedy}.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise CrossFlowError(
            f"The file list {path} has the sha256 {found[:12]}… and not {sha256[:12]}…: it is not the published list; "
            "restore it, or scores would be of other images."
        )
    return [line.split() for line in content.decode().splitlines() if line]
