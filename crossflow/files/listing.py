"""The images, or depth maps, of a folder: the one reader of folders, so that every command finds the same.

- Subfolders are read too; links to folders are not followed.
- Pipes, sockets and devices are refused where their names are of what is read, and else passed over.
- Names that begin with a dot are passed over: macOS leaves ``._a.jpg`` beside ``a.jpg``.
- A file is known by its path below the folder, with forward slashes and in Unicode's composed form (NFC), so that a
  name typed in a captions file finds a file that macOS named.
- What is not read is kept, so that whoever asks can say so.
"""

import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from crossflow.errors import CrossFlowError, first_few
from crossflow.files.images import SUFFIXES
from crossflow.files.names import composed, is_text, shown

UNREAD = (".avif", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".tga", ".tif", ".tiff")
"""Suffixes of images that are not read."""

OWN = ("samples.jsonl", "outputs.jsonl")
"""What crossflow itself writes beside outputs, which surprises nobody there."""


@dataclass(frozen=True)
class Listing:
    """The files of a ``folder`` by their names below it, sorted: those ``read``, images ``unread``, and all ``others``.

    ``what`` says what is read, in the singular.
    """

    folder: Path
    what: str
    read: dict[str, Path]
    unread: dict[str, Path]
    others: dict[str, Path]

    def by_stem(self) -> dict[str, Path]:
        """The files that are read by their names without folder and suffix; CrossFlowError where two share one."""
        return self._unique(lambda name: PurePosixPath(name).stem)

    def by_path(self) -> dict[str, Path]:
        """The files that are read by their paths without suffix; CrossFlowError where two share one."""
        return self._unique(lambda name: PurePosixPath(name).with_suffix("").as_posix())

    def all_read(self) -> "Listing":
        """This listing; CrossFlowError where it has nothing that is read, or images of a kind that is not."""
        if self.unread:
            raise CrossFlowError(
                f"{len(self.unread)} images in {self.folder} are of a kind that is not read ({first_few(self.unread)});"
                " convert them to PNG, or move them away."
            )
        if not self.read:
            beside = f": it holds {first_few(self.others)}" if self.others else ""
            raise CrossFlowError(f"The folder {self.folder} holds no {self.what}{beside}; give another one.")
        return self

    def left(self, apart_from: Collection[str] = ()) -> str:
        """One sentence on the files that are not read, ``apart_from`` some names; empty where there are none."""
        found = [name for name in (*self.unread, *self.others) if name not in apart_from]
        names = [name for name in found if PurePosixPath(name).name not in OWN]
        if not names:
            return ""
        return f"{len(names)} files in {self.folder} hold no {self.what} and are not read: {first_few(names, 3)}."

    def _unique(self, key: Callable[[str], str]) -> dict[str, Path]:
        keys = Counter(map(key, self.read))
        if twice := [name for name in self.read if keys[key(name)] > 1]:
            raise CrossFlowError(
                f"{len(twice)} {self.what}s in {self.folder} share their name ({first_few(twice)}); keep one of each."
            )
        return {key(name): path for name, path in self.read.items()}


def list_folder(folder: Path, suffixes: Collection[str] = SUFFIXES, what: str = "image") -> Listing:
    """The files in ``folder``, those to be read by their ``suffixes``, in either case.

    CrossFlowError for no folder, one that cannot be read, and names to be read that are of no files, are not UTF-8 or
    differ in their Unicode form alone.
    """
    try:
        there = stat.S_ISDIR(folder.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        there = False
    except OSError as error:
        raise CrossFlowError(f"The folder cannot be read ({error.strerror}): {folder}.") from error
    if not there:
        raise CrossFlowError(f"There is no folder {folder}; give the folder that holds the {what}s.")
    modes = {path: _mode(path) for path in _visible(folder)}
    paths = [path for path, mode in modes.items() if not _is_endless(mode)]
    if bad := [shown(path.relative_to(folder)) for path in modes.keys() - paths if path.suffix.lower() in suffixes]:
        raise CrossFlowError(
            f"{len(bad)} {what}s in {folder} are pipes or devices, not files ({first_few(sorted(bad))}); move them"
            " away."
        )
    read = [path for path in paths if path.suffix.lower() in suffixes and not stat.S_ISDIR(modes[path])]
    if bad := [shown(path.relative_to(folder)) for path in read if not is_text(str(path.relative_to(folder)))]:
        raise CrossFlowError(
            f"{len(bad)} {what}s in {folder} have names that are not UTF-8 ({first_few(bad)}); rename them."
        )
    named = _named(folder, read)
    if len(named) < len(read):
        raise CrossFlowError(
            f"{len(read) - len(named)} {what}s in {folder} share their name with another but for its Unicode form; keep"
            " one of each."
        )
    others = _named(folder, set(paths) - set(read))
    unread = {name: path for name, path in others.items() if path.suffix.lower() in UNREAD}
    others = {name: path for name, path in others.items() if name not in unread}
    return Listing(folder, what, named, unread, others)


def _visible(folder: Path) -> Iterable[Path]:
    """Files, and links to folders, in and below ``folder``, but for names that begin with a dot."""
    for place, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        yield from (Path(place, name) for name in (*names, *links) if not name.startswith("."))


def _mode(path: Path) -> int:
    """What kind of file a path is, behind links; 0 where there is none."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _is_endless(mode: int) -> bool:
    """Whether a file is a pipe, a socket or a device: who reads one may wait, or read, for ever."""
    return bool(mode) and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _refuse(error: OSError) -> None:
    raise CrossFlowError(
        f"The folder {error.filename} cannot be read ({error.strerror}): allow it, or move it away."
    ) from error


def _named(folder: Path, paths: Iterable[Path]) -> dict[str, Path]:
    named = {composed(shown(path.relative_to(folder).as_posix())): path for path in paths}
    return dict(sorted(named.items()))
