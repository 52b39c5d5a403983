"""Tar files read at random: an index of all members, by where they lie, so that an item is one read of one file.

The members of tar files inside a tar file are members, too: ImageNet's training set is a tar of a thousand tars. An
index is made once, by walking the headers, and kept among the caches, by path, size and time of the archive.
"""

import hashlib
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from crossflow.errors import CrossFlowError
from crossflow.files.folders import cache_folder
from crossflow.files.tensors import read_tensors, write_tensors


@dataclass(frozen=True)
class Members:
    """The files in one tar file: their ``names``, and where each begins (``starts``) and how long it is, in bytes.

    The name of a member of an inner tar is that of the tar without its suffix, a slash, and its own.
    """

    path: Path
    names: list[str]
    starts: np.ndarray
    sizes: np.ndarray

    def read(self, index: int) -> bytes:
        """The content of a member; CrossFlowError for an archive that was cut off."""
        try:
            with self.path.open("rb") as file:
                file.seek(int(self.starts[index]))
                content = file.read(int(self.sizes[index]))
        except OSError as error:
            raise CrossFlowError(f"Cannot read {self.path}: {error.strerror}; get it again.") from error
        if len(content) < self.sizes[index]:
            raise CrossFlowError(f"{self.path} is cut off within {self.names[index]}: get it again.")
        return content


def members(path: Path) -> Members:
    """The members of a tar file, from their index if there is one. CrossFlowError for a file that is no plain tar."""
    try:
        found = path.stat()
    except OSError as error:
        raise CrossFlowError(f"Cannot read {path}: {error.strerror}; get it again.") from error
    identity = f"{path.resolve()}\0{found.st_size}\0{found.st_mtime_ns}"
    index = cache_folder() / "tars" / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.safetensors"
    if index.exists():
        return _indexed(path, index)
    names, starts, sizes = _walked(path)
    if not names:
        raise CrossFlowError(f"{path} holds no files: get it again.")
    text = np.frombuffer("\0".join(names).encode(errors="surrogateescape"), np.uint8)
    index.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"names": torch.tensor(text), "starts": torch.tensor(starts), "sizes": torch.tensor(sizes)}
    write_tensors(index, tensors, {"archive": str(path)}, writer=os.getpid())  # all of one launch may be at it
    return Members(path, names, np.array(starts), np.array(sizes))


def _indexed(path: Path, index: Path) -> Members:
    """The members of a tar file by its index; CrossFlowError for an index that is damaged."""
    try:
        held = read_tensors(index)[1]
        names = held["names"].numpy().tobytes().decode(errors="surrogateescape").split("\0")
        return Members(path, names, held["starts"].numpy(), held["sizes"].numpy())
    except (CrossFlowError, KeyError) as error:
        raise CrossFlowError(f"The index {index} of {path} cannot be read: remove it, and it is made again.") from error


def _walked(path: Path) -> tuple[list[str], list[int], list[int]]:
    """Names, starts and sizes of all members, by name, so that the order is that of no archiver."""
    rows: list[tuple[str, int, int]] = []
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as outer:
            for member in outer:
                if not member.isfile():
                    continue
                if not member.name.endswith(".tar"):
                    rows.append((member.name, member.offset_data, member.size))
                    continue
                file.seek(member.offset_data)
                with tarfile.open(fileobj=file, mode="r:") as inner:
                    stem = member.name.removesuffix(".tar")
                    rows += [(f"{stem}/{each.name}", each.offset_data, each.size) for each in inner if each.isfile()]
    except (OSError, tarfile.TarError, EOFError) as error:
        raise CrossFlowError(
            f"{path} is no plain tar file, or is damaged ({error}): get it again, unpacked."
        ) from error
    rows.sort()
    return [name for name, *_ in rows], [start for _, start, _ in rows], [size for *_, size in rows]
