"""METEOR's table of paraphrases, less what cannot match: most of its five million pairs are of phrases not said.

The table is lines of three: a probability, which METEOR does not read, and two phrases that mean the same. METEOR finds
one phrase in a caption and the other in its reference, so a pair of which either occurs nowhere changes nothing; but to
read them all costs each of METEOR's programs seconds. Its jar has a filter that keeps pairs of which one phrase is
said; this one is narrower, and faster, for the table is unpacked and split only once.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import chain
from pathlib import Path

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow.files.arrays import plain_arrays
from crossflow.files.folders import cache_folder
from crossflow.files.hashes import file_sha256
from crossflow.files.writing import replacing
from crossflow_eval.environment import code_sha256

_FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""An odd number without a pattern."""
_BLOCK = 1 << 25


@dataclass(frozen=True)
class Paraphrases:
    """A table of paraphrases, indexed: its ``n`` pairs, of ``p`` distinct phrases that are numbered.

    The number of a phrase is a hash of its words, so two phrases may share one; then a pair more is kept, which cannot
    match and changes nothing.

    Attributes:
        numbers: The phrases' numbers, rising, uint64 [p].
        text: The phrases in that order, in UTF-8, uint8.
        ends: Where each phrase ends in ``text``, int64 [p].
        pairs: The two places of each pair among the phrases, in the table's order, int32 [n 2].
        longest: Words in the longest phrase, int64 [].
    """

    numbers: np.ndarray
    text: np.ndarray
    ends: np.ndarray
    pairs: np.ndarray
    longest: np.ndarray

    @staticmethod
    def of(table: Path) -> Paraphrases:
        """The index of a table, gzip, which is kept in ``CROSSFLOW_CACHE`` by the sha256 of the table and of this code.

        What is kept there and is damaged is made again; where nothing can be kept, it is made each time. Raises
        CrossFlowError for a table that cannot be read.
        """
        kept = cache_folder() / f"paraphrases-{file_sha256(table)}-{str(code_sha256(Paraphrases))[:12]}.npz"
        with suppress(CrossFlowError):
            return Paraphrases(**plain_arrays(kept, "index of paraphrases"))
        made = Paraphrases.read(table)
        with suppress(CrossFlowError), replacing(kept, writer=os.getpid()) as temporary, temporary.open("wb") as file:
            np.savez(file, **asdict(made))  # pyright: ignore[reportArgumentType]
        return made

    @staticmethod
    def read(table: Path) -> Paraphrases:
        """The index of a table, gzip. Takes a quarter of a minute and up to 2 GB for METEOR's."""
        place: dict[bytes, int] = {}
        pairs = [np.empty((0, 2), np.int32)]
        tail = b""
        with gzip.open(table) as source:
            while block := source.read(_BLOCK):
                lines = (tail + block).split(b"\n")
                whole = (len(lines) - 1) // 3 * 3
                tail = b"\n".join(lines[whole:])
                columns = [[place.setdefault(each, len(place)) for each in lines[k:whole:3]] for k in (1, 2)]
                pairs.append(np.array(columns, np.int32).T)
        distinct = list(place)
        words, ends = _words([phrase.decode() for phrase in distinct])
        numbers = _numbers(words, np.append(0, ends)[:-1], ends)[-1]
        order = np.argsort(numbers)
        rank = np.empty(len(order), np.int32)
        rank[order] = np.arange(len(order))
        ordered = [distinct[each] for each in order.tolist()]
        return Paraphrases(
            numbers=numbers[order],
            text=np.frombuffer(b"".join(ordered), np.uint8),
            ends=np.cumsum([len(phrase) for phrase in ordered], dtype=np.int64),
            pairs=rank[np.concatenate(pairs)],
            longest=np.asarray(np.diff(ends, prepend=0).max(initial=0)),
        )

    def write(self, captions: Iterable[str], out: Path) -> None:
        """Write those pairs whose phrases are both said in captions, as METEOR normalises them: a table, gzip.

        The pairs keep their order. What is said is every run of words of a caption in lower case.
        """
        words, ends = _words([caption.lower() for caption in set(captions)])
        lengths = np.diff(ends, prepend=0)
        starts = np.arange(len(words))
        runs = _numbers(words, starts, np.minimum(np.repeat(ends, lengths), starts + self.longest))
        said = np.sort(runs, axis=None) if runs.size else np.zeros(1, np.uint64)
        is_said = said[np.searchsorted(said, self.numbers).clip(max=len(said) - 1)] == self.numbers
        places = np.flatnonzero(is_said)
        text = self.text.tobytes()
        bounds = zip(np.append(0, self.ends)[places].tolist(), self.ends[places].tolist(), strict=True)
        phrases = {place: text[start:end] for place, (start, end) in zip(places.tolist(), bounds, strict=True)}
        with gzip.open(out, "wb", compresslevel=1) as kept:
            kept.writelines(
                b"1\n%s\n%s\n" % (phrases[first], phrases[second])
                for first, second in self.pairs[is_said[self.pairs].all(axis=1)].tolist()
            )


class _Hashes(dict[str, int]):
    """The hash of each word that is asked for, in 64 bits."""

    def __missing__(self, word: str) -> int:
        number = self[word] = int.from_bytes(blake2b(word.encode(), digest_size=8).digest())
        return number


def _words(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of the words of all texts, uint64 [words], and where each text ends among them, int64 [texts]."""
    words = np.fromiter(map(_Hashes().__getitem__, chain.from_iterable(map(str.split, texts))), np.uint64)
    return words, np.cumsum([len(text.split()) for text in texts], dtype=np.int64)


def _numbers(words: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The numbers of the runs of words from ``starts`` [m] on, uint64 [longest + 1, m]: row k of at most k words each.

    No run goes on beyond its end, of ``ends`` [m].
    """
    longest = int((ends - starts).max(initial=0))
    numbers = np.zeros((longest + 1, len(starts)), np.uint64)
    for length in range(longest):
        numbers[length + 1] = numbers[length]
        longer = starts + length < ends
        numbers[length + 1, longer] = numbers[length, longer] * _FACTOR + words[starts[longer] + length]
    return numbers
