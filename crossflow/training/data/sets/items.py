"""The items of a data set in its own layout, and how layouts look for their files."""

import hashlib
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crossflow.errors import CrossFlowError, Notice, first_few


class Raw(NamedTuple):
    """One item as the data set has it: a uint8 RGB image [h w 3], and what belongs to it.

    ``depth`` is planar depth in metres, float32 [h w], NaN where nothing was measured; ``captions`` are as people wrote
    them.
    """

    image: np.ndarray
    depth: np.ndarray | None = None
    captions: tuple[str, ...] = ()


class TooSmall(CrossFlowError):
    """An image is smaller than what is to be cut of it; the paper leaves such images out."""


@dataclass(frozen=True)
class Items:
    """A data set as a random-access collection; ``read`` may be called from any thread.

    ``names`` say which file an item is. ``read`` raises CrossFlowError for an item that is missing or damaged.
    ``fingerprint`` is a sha256 that identifies the list of items, not what is in their files. ``known`` are the names
    of those that have a part of ``Raw``, where the layout knows before it reads them; ``remedy`` says what to do about
    the others.
    """

    names: Sequence[str]
    read: Callable[[int], Raw]
    fingerprint: str
    known: Mapping[str, Collection[str]] = field(default_factory=dict[str, Collection[str]])
    remedy: Mapping[str, str] = field(default_factory=dict[str, str])

    def __len__(self) -> int:
        return len(self.names)

    def having(self, part: str) -> "Items":
        """The items that have ``part`` of ``Raw``, as far as that is known; a Notice counts the others.

        CrossFlowError where none has it.
        """
        if part not in self.known:
            return self
        places = [place for place, name in enumerate(self.names) if name in self.known[part]]
        if len(places) == len(self):
            return self
        lacking = [name for name in self.names if name not in self.known[part]]
        what = part.removesuffix("s")
        if not places:
            raise CrossFlowError(
                f"None of the {len(self)} images has a {what} ({first_few(lacking, 3)}): {self.remedy[part]}."
            )
        warnings.warn(
            Notice(f"{len(lacking)} of {len(self)} images have no {what} and are left out: {first_few(lacking, 3)}."),
            stacklevel=2,
        )
        names, whole = [self.names[place] for place in places], self.read
        fingerprint = hashlib.sha256(f"{self.fingerprint} {part} {names}".encode(errors="surrogatepass")).hexdigest()
        return replace(self, names=names, read=lambda index: whole(places[index]), fingerprint=fingerprint)


def items_of(
    layout: str,
    names: Sequence[str],
    read: Callable[[int], Raw],
    known: Mapping[str, Collection[str]] | None = None,
    remedy: Mapping[str, str] | None = None,
) -> Items:
    """The items of a layout by their names; CrossFlowError where there are none."""
    if not names:
        raise CrossFlowError(f"The data set {layout} has no items here: give the folder that holds it.")
    digest = hashlib.sha256(layout.encode())
    for name in names:
        digest.update(f"\0{name}".encode(errors="surrogatepass"))
    return Items(names, read, digest.hexdigest(), known or {}, remedy or {})


def joined(parts: Sequence[Items]) -> Items:
    """Several data sets as one, one after the other; a single one is itself."""
    if len(parts) == 1:
        return parts[0]
    places = [(part, index) for part in parts for index in range(len(part))]

    def read(index: int) -> Raw:
        part, inside = places[index]
        return part.read(inside)

    fingerprint = hashlib.sha256(" ".join(part.fingerprint for part in parts).encode()).hexdigest()
    return Items([name for part in parts for name in part.names], read, fingerprint)


def wrong_layout(layout: str, root: Path, looked_for: str, origin: str) -> CrossFlowError:
    """What to say where a folder is not laid out as the data set: what was looked for, and where it comes from."""
    return CrossFlowError(f"{root} is not laid out as {layout}: there is no {looked_for}; {origin}.")


def first_there(root: Path, places: Iterable[str]) -> Path | None:
    """The first of ``places`` below ``root`` that is there."""
    return next((path for place in places if (path := root / place).exists()), None)


def most_are_there(layout: str, root: Path, files: Sequence[Path], origin: str) -> None:
    """CrossFlowError where more than a tenth of the files of a list are missing: the layout is another one.

    Fewer are named when they are read, and left out.
    """
    missing = [str(path.relative_to(root)) for path in files if not path.exists()]
    if len(missing) > 0.1 * len(files):
        raise CrossFlowError(
            f"{root} is not laid out as {layout}: {len(missing):,} of the {len(files):,} files that its list names are "
            f"not there ({first_few(missing, 3)}); {origin}."
        )
