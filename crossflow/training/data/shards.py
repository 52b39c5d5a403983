"""Training pairs on disk: a folder of safetensors shards and ``index.json``, read item by item in any order.

A shard holds the stacked fields of up to some thousand items, the captions as UTF-8, and a sha256 of every item. Each
item is checked against its sha256 when it is read, so that altered data are never trained on. The sha256 of a shard, in
its header and in the index, is that of these digests. Items are read on demand.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, UInt8
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.files.hashes import file_sha256
from crossflow.files.names import is_name
from crossflow.files.tensors import read_header, write_tensors
from crossflow.files.writing import written

FORMAT = "crossflow-shards"
VERSION = "1"
INDEX = "index.json"
OPEN = 8
"""Shards kept open (memory-mapped) at once."""


class KeptPair(NamedTuple):
    """One training pair as stored on disk.

    ``moments`` are mean and log-variance of the image's latent, unscaled (8 x 32 x 32 at 256 pixels); ``tokens`` are
    token embeddings, those of T5 times 10. ``image`` is for recipes whose image tower reads pixels, ``image_features``
    for those that read features of a frozen tower.
    """

    moments: Float[Tensor, "m h w"]
    tokens: Float[Tensor, "n d"]
    mask: Bool[Tensor, " n"]
    caption: str
    image: UInt8[Tensor, "s s 3"] | None = None
    image_features: Float[Tensor, " f"] | None = None


TENSORS = tuple(name for name in KeptPair._fields if name != "caption")


@runtime_checkable
class PairSource(Protocol):
    """A random-access collection of pairs. Items may be read from any thread."""

    def __len__(self) -> int:
        """The number of items."""
        ...

    def item(self, index: int) -> KeptPair:
        """Item ``index``; CrossFlowError if it is damaged or missing."""
        ...

    @property
    def fingerprint(self) -> str:
        """A sha256 that identifies the data, for resuming."""
        ...


class ShardEntry(BaseModel, frozen=True, extra="forbid"):
    """One shard in the index."""

    file: str
    count: int
    sha256: str


class ShardIndex(BaseModel, frozen=True, extra="forbid"):
    """The content of ``index.json``. ``skipped`` lists unreadable images that were left out on request."""

    format: str
    version: str
    recipe: dict[str, Any]
    shards: list[ShardEntry]
    skipped: list[str]


def shard_name(number: int) -> str:
    """The file name of a shard."""
    return f"shard-{number:05d}.safetensors"


def write_shard(path: Path, items: Sequence[KeptPair], header: Mapping[str, Any]) -> None:
    """Write one shard atomically. Equal items and headers give equal bytes.

    ``header``, plain JSON values, is stored with the number of items and their sha256. All items must have the same
    shapes and dtypes.
    """
    digests = b"".join(_digest(item) for item in items)
    captions = [item.caption.encode() for item in items]
    tensors = {name: _stacked(name, items) for name in TENSORS if items and getattr(items[0], name) is not None}
    tensors |= {
        "captions": _bytes(b"".join(captions)),
        "caption_ends": torch.tensor(list(accumulate(map(len, captions))), dtype=torch.int64),
        "digests": _bytes(digests).reshape(-1, 32),
    }
    own = {"format": FORMAT, "version": VERSION, "count": len(items), "sha256": hashlib.sha256(digests).hexdigest()}
    write_tensors(path, tensors, {**header, **own})


def write_index(folder: Path, count: int, recipe: Mapping[str, Any], part: str) -> None:
    """Write ``index.json`` for the first ``count`` shards, all of which must exist.

    ``part`` is a suffix of the temporary file that differs between processes, since any of them may finish last.
    """
    headers = [read_header(folder / shard_name(number)) for number in range(count)]
    index = ShardIndex(
        format=FORMAT,
        version=VERSION,
        recipe=dict(recipe),
        shards=[
            ShardEntry(file=shard_name(number), count=header["count"], sha256=header["sha256"])
            for number, header in enumerate(headers)
        ],
        skipped=[name for header in headers for name in header["skipped"]],
    )
    with written(folder / INDEX):
        temporary = folder / f"{INDEX}.{part}"
        temporary.write_text(json.dumps(index.model_dump(), indent=1, sort_keys=True) + "\n")
        temporary.replace(folder / INDEX)


class Shards:
    """The pairs in a folder made by ``crossflow cache``. ``recipe`` records how they were made.

    Opening reads only the index. CrossFlowError for a folder without one; for a shard that is missing, truncated or not
    the one in the index, when it is first needed; and for a damaged item, when it is read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = read_index(folder / INDEX)
        self.fingerprint = file_sha256(folder / INDEX)
        self.recipe = self.index.recipe
        self._ends = list(accumulate(entry.count for entry in self.index.shards))
        self._shard = lru_cache(OPEN)(self._open)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def item(self, index: int) -> KeptPair:
        """Item ``index``, as a copy in memory."""
        if not 0 <= index < len(self):
            raise IndexError(f"There is no item {index}: the shards in {self.folder} hold {len(self)}.")
        number = bisect_right(self._ends, index)
        return self._shard(number).item(index - self._ends[number] + self.index.shards[number].count)

    def _open(self, number: int) -> "Shard":
        entry = self.index.shards[number]
        shard = Shard(self.folder / entry.file)
        if (shard.count, shard.header["sha256"]) != (entry.count, entry.sha256):
            raise CrossFlowError(f"{shard.path} is not the shard its index names: remove both, and make them again.")
        return shard


class Shard:
    """One open shard; CrossFlowError if it is missing, truncated or not a shard."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = read_header(path)
        if (self.header.get("format"), self.header.get("version")) != (FORMAT, VERSION):
            raise CrossFlowError(f"{path} is no shard of training pairs in version {VERSION}: make it again.")
        count = self.header.get("count")
        if not isinstance(count, int) or count < 0 or not isinstance(self.header.get("sha256"), str):
            raise CrossFlowError(f"{path} is no shard of training pairs: its header is damaged; make it again.")
        self.count = count
        self._file = safe_open(path, framework="pt")
        self._names = self._file.keys()

    def item(self, row: int) -> KeptPair:
        """The item in ``row``; CrossFlowError if it does not match its digest."""
        try:
            item = KeptPair(**{name: self._row(name, row) for name in TENSORS}, caption=self._caption(row))
            digest = self._row("digests", row).numpy().tobytes()
            whole = any(digest == _digest(item, spelled) for spelled in (ascii, repr))
        except (SafetensorError, UnicodeDecodeError, IndexError, TypeError, AttributeError) as error:
            raise self._altered(row) from error
        if not whole:
            raise self._altered(row)
        return item

    def _row(self, name: str, row: int) -> Any:
        """One row of a tensor; None if the shard does not have it."""
        return self._file.get_slice(name)[row].clone() if name in self._names else None

    def _caption(self, row: int) -> str:
        ends = self._file.get_slice("caption_ends")
        start = int(ends[row - 1]) if row else 0
        return self._file.get_slice("captions")[start : int(ends[row])].numpy().tobytes().decode()

    def _altered(self, row: int) -> CrossFlowError:
        return CrossFlowError(
            f"Item {row} of {self.path} was altered after it was written: remove the file, and make it again."
        )


def _digest(item: KeptPair, spelled: Callable[[str], str] = ascii) -> bytes:
    """The sha256 of an item: each field with its name, dtype and shape.

    The caption is ``spelled`` in ASCII; in shards of earlier versions by ``repr``, which depends on Python's Unicode.
    """
    digest = hashlib.sha256(spelled(item.caption).encode())
    for name in TENSORS:
        tensor = getattr(item, name)
        if tensor is not None:
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy())
    return digest.digest()


def _stacked(name: str, items: Sequence[KeptPair]) -> Tensor:
    return torch.stack([getattr(item, name) for item in items])


def _bytes(content: bytes) -> Tensor:
    return torch.tensor(list(content), dtype=torch.uint8)


def read_index(path: Path) -> ShardIndex:
    """The index of a folder of shards; CrossFlowError for a file that is none."""
    try:
        index = ShardIndex.model_validate_json(path.read_bytes())
    except OSError as error:
        raise CrossFlowError(
            f"{path.parent} holds no finished shards ({INDEX}: {error.strerror}): run crossflow cache to its end."
        ) from error
    except ValidationError as error:
        raise CrossFlowError(f"{path} is damaged: remove it, and run crossflow cache again to its end.") from error
    if (index.format, index.version) != (FORMAT, VERSION):
        raise CrossFlowError(f"{path} is of version {index.version}, and this program reads version {VERSION}.")
    if any(entry.count < 0 or not is_name(entry.file) for entry in index.shards):
        raise CrossFlowError(f"{path} names files outside its folder, or counts below 0: make the shards again.")
    return index
