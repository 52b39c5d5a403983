"""Batches for training steps: their interface, their random numbers, prefetching and a cache.

All random numbers of a step come from one generator seeded by (seed, step), for the whole batch of all processes and
micro-batches; each process then takes its share. So the batches do not depend on the number of processes or
micro-batches.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.files.tensors import read_tensors, write_tensors
from crossflow.flow.batch import Batch
from crossflow.flow.losses import Draws
from crossflow.recipes.recipe import TrainConfig

T = TypeVar("T")


@runtime_checkable
class Pairs(Protocol):
    """Training pairs: the items of a step are picked for all processes at once, and each process loads its own."""

    def pick(self, step: int, count: int, generator: torch.Generator) -> Int[Tensor, "b k"]:
        """Pick the items of a whole step; the indices are for ``load``."""
        ...

    def load(self, picks: Int[Tensor, "b k"], draws: Draws, start: int, stop: int) -> Batch:
        """The items from ``start`` to ``stop`` of a step's ``picks``, with the targets of the flow."""
        ...


class Share(NamedTuple):
    """One micro-batch of one process: items from the ``start``-th of the step on, and their draws."""

    start: int
    batch: Batch
    draws: Draws


def shares(
    pairs: Pairs, config: TrainConfig, seed: int, first: int = 0, process: int = 0, processes: int = 1
) -> Iterator[Share]:
    """One process's shares of the steps from ``first`` to the end, ``config.accumulate`` per step."""
    size = config.batch_size // (config.accumulate * processes)
    for step in range(first, config.steps):
        generator = torch.Generator().manual_seed(seed_of(seed, step))
        picks = pairs.pick(step, config.batch_size, generator)
        draws = config.model.draw(config.batch_size, generator)
        for part in range(config.accumulate):
            start = (part * processes + process) * size
            yield Share(start, pairs.load(picks, draws, start, start + size), draws.rows(start, start + size))


class Epochs:
    """The items of every step of a training in epochs, each a permutation seeded by ``seed`` and its number.

    A batch may span two epochs.
    """

    def __init__(self, items: int, seed: int) -> None:
        self.items, self.seed = items, seed
        self._order = lru_cache(2)(self._permutation)

    def rows(self, step: int, count: int) -> Int[Tensor, " b"]:
        """The indices of the items of a step of ``count``, which depend on seed and step alone."""
        places = torch.arange(step * count, (step + 1) * count)
        epochs, within = places // self.items, places % self.items
        return torch.cat([self._order(epoch)[within[epochs == epoch]] for epoch in epochs.unique().tolist()])

    def _permutation(self, epoch: int) -> Int[Tensor, " n"]:
        generator = torch.Generator().manual_seed(seed_of(self.seed, "epoch", epoch))
        return torch.randperm(self.items, generator=generator)


def read_ahead(values: Iterator[T]) -> Iterator[T]:
    """The same values, each computed in a thread while the previous one is used."""
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(next, values, None)
        while (value := ahead.result()) is not None:
            ahead = reader.submit(next, values, None)
            yield value


def seed_of(*parts: int | str) -> int:
    """A 63-bit hash of ``parts``, as a seed or an id."""
    text = ",".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8], "big") >> 1


def kept(folder: Path, settings: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors for ``settings`` from the cache ``folder``; computed by ``make`` and stored if they are not there.

    The file name is a digest of ``settings``, which must determine the content. CrossFlowError for a damaged file.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    path = folder / f"pairs-{digest}.safetensors"
    if path.exists():
        try:
            return read_tensors(path)[1]
        except CrossFlowError as error:
            raise CrossFlowError(f"The cache {path} cannot be read: remove it, and it is made again.") from error
    tensors = {name: part.cpu().contiguous() for name, part in make().items()}  # as read: sums depend on it
    write_tensors(path, tensors, settings, writer=os.getpid())
    return tensors
