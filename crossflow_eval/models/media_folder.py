"""Sounds and films made elsewhere, as the outputs of a model: files of a folder, looked up by an example's names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from crossflow.errors import CrossFlowError, first_few
from crossflow.files.hashes import file_sha256
from crossflow.files.listing import list_folder
from crossflow.files.processes import file_threads
from crossflow.files.recordings import SUFFIXES, read_recording
from crossflow.files.videos import READERS, read_film
from crossflow_eval.datasets.folder import ImageFolder
from crossflow_eval.models.folder import FolderModel

Names = Callable[[str], Sequence[str]]
"""What the file of an example may be called besides its id, without suffix."""


class MediaFolder(FolderModel):
    """Files that ``read`` takes, called ``<id>`` or ``<id>-<k>``, or the first output by one of the other ``names``.

    Every file is read once before any work. Raises CrossFlowError for those that cannot be, and as ``list_folder``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        what: str,
        suffixes: Collection[str],
        read: Callable[[Path], Any],
        names: Names = lambda example_id: (),
    ) -> None:
        self.folder, self.what, self._read, self._names = folder, what, read, names
        files = list_folder(folder, suffixes, what).all_read().by_stem()
        self.images = all_readable(files, lambda key: read(files[key]), folder, what)
        self.identity: Mapping[str, Any] = {f"{what}s_sha256": self.images.sha256, f"{what}s": len(files)}

    def read(self, example_id: str, index: int) -> Any:
        """Return the ``index``-th output of an example.

        Raises CrossFlowError where there is none, or its file is no longer what was found.
        """
        key = self._key(example_id, index)
        if key is None:
            raise CrossFlowError(f"The folder {self.folder} holds no {self.what} for {example_id}.")
        output = self._read(self.images.files[key])
        self.images.check_unchanged(key)
        return output

    def _key(self, example_id: str, index: int) -> str | None:
        usual = super()._key(example_id, index)
        if usual is not None or index:
            return usual
        found = [name for name in dict.fromkeys(self._names(example_id)) if name in self.images.files]
        if len(found) > 1:
            raise CrossFlowError(
                f"{first_few(found)} in {self.folder} are {self.what}s of the same example; keep one of them."
            )
        return found[0] if found else None


def all_readable(files: Mapping[str, Path], read: Callable[[str], Any], folder: Path, what: str) -> ImageFolder:
    """The ``files`` of a folder by key, each of which ``read`` takes. CrossFlowError where it does not."""

    def fault(key: str) -> str:
        try:
            read(key)
        except CrossFlowError as error:
            return str(error)
        return ""

    with file_threads() as pool:
        faults = [each for each in pool.map(fault, files) if each]
        digests = list(pool.map(file_sha256, files.values()))
    if faults:
        raise CrossFlowError(f"{len(faults)} of {len(files)} {what}s in {folder} cannot be read: {faults[0]}")
    contents = dict(zip(files, digests, strict=True))
    digest = hashlib.sha256("".join(f"{key}\0{content}\n" for key, content in contents.items()).encode())
    return ImageFolder(files=files, formats={}, contents=contents, sha256=digest.hexdigest())


films = partial(MediaFolder, what="film", suffixes=tuple(READERS), read=read_film)
"""WebP, GIF, MP4 and AVI files."""
recordings = partial(MediaFolder, what="sound", suffixes=SUFFIXES, read=read_recording)
"""WAV files."""
