"""What a training step reads.

All random numbers of a step come from one generator seeded by (seed, step), for the batch of all processes and all
accumulated parts; each then takes its share. So any number of processes or parts trains on the same batches.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.files.tensors import read_tensors, write_tensors
from crossflow.flow.batch import Batch
from crossflow.flow.losses import Draws, draw
from crossflow.recipes.recipe import TrainConfig

T = TypeVar("T")


@runtime_checkable
class Pairs(Protocol):
    """What training reads: the items of a step are picked for all processes at once, and each loads its own."""

    def pick(self, step: int, count: int, generator: torch.Generator) -> Int[Tensor, "b k"]:
        """Pick the items of a whole step, as numbers that only ``load`` understands."""
        ...

    def load(self, picks: Int[Tensor, "b k"], draws: Draws, start: int, stop: int) -> Batch:
        """The items from ``start`` to ``stop`` of a step's ``picks``, each with what the flow is to carry it to."""
        ...


class Share(NamedTuple):
    """What one process computes at once of a step: items and their draws, the first of them the step's ``start``-th."""

    start: int
    batch: Batch
    draws: Draws


def shares(
    pairs: Pairs, config: TrainConfig, seed: int, first: int = 0, process: int = 0, processes: int = 1
) -> Iterator[Share]:
    """One process' shares of the steps from ``first`` to the end, ``config.accumulate`` of them a step."""
    size, model = config.batch_size // (config.accumulate * processes), config.model
    for step in range(first, config.steps):
        generator = torch.Generator().manual_seed(seed_of(seed, step))
        picks = pairs.pick(step, config.batch_size, generator)
        null_rate, drawn = model.guidance.null_rate, model.target.drawn
        draws = draw(config.batch_size, model.shape, null_rate, generator, drawn, model.times)
        for part in range(config.accumulate):
            start = (part * processes + process) * size
            yield Share(start, pairs.load(picks, draws, start, start + size), draws.rows(start, start + size))


def read_ahead(values: Iterator[T]) -> Iterator[T]:
    """The same values, each made in the background while the one before it is used."""
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(next, values, None)
        while (value := ahead.result()) is not None:
            ahead = reader.submit(next, values, None)
            yield value


def seed_of(*parts: int | str) -> int:
    """A number of 63 bits, for instance to seed a generator with, that differs wherever the parts do."""
    text = ",".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8], "big") >> 1


def kept(folder: Path, settings: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of ``settings`` in the cache ``folder``, or made by ``make`` and put there.

    The file's name is a digest of the settings, which are all that decides its content, so that a cache is never taken
    for another. CrossFlowError where a file is not whole.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    path = folder / f"pairs-{digest}.safetensors"
    if path.exists():
        try:
            return read_tensors(path)[1]
        except CrossFlowError as error:
            raise CrossFlowError(f"The cache {path} cannot be read: remove it, and it is made again.") from error
    tensors = make()
    write_tensors(path, tensors, settings)
    return tensors
