"""METEOR's table of paraphrases, less what cannot match: most of its five million pairs are of phrases not said.

The table is lines of three: a probability, which METEOR does not read, and two phrases that mean the same. METEOR finds
one phrase in a caption and the other in its reference, so a pair of which either occurs nowhere changes nothing; but to
read them all costs each of METEOR's programs seconds. Its jar has a filter that keeps what shares words with
references; this one is narrower and faster.
"""

from __future__ import annotations

import gzip
from collections.abc import Container, Iterable
from pathlib import Path

LONGEST = 7
"""Words in the longest phrase of the table."""
_BLOCK = 1 << 25


def phrases_in(captions: Iterable[str]) -> set[bytes]:
    """Every run of at most LONGEST words of captions as METEOR normalises them, joined by blanks."""
    found: set[str] = set()
    for caption in set(captions):
        words = caption.lower().split()
        for start in range(len(words)):
            found.update(" ".join(words[start:end]) for end in range(start + 1, min(start + LONGEST, len(words)) + 1))
    return {phrase.encode() for phrase in found}


def keep_pairs(table: Path, phrases: Container[bytes], out: Path) -> None:
    """Write those pairs of the ``table``, gzip both, whose phrases are both among the ``phrases``, in their order."""
    tail = b""
    with gzip.open(table) as source, gzip.open(out, "wb", compresslevel=1) as kept:
        while block := source.read(_BLOCK):
            lines = (tail + block).split(b"\n")
            whole = (len(lines) - 1) // 3 * 3
            tail = b"\n".join(lines[whole:])
            pairs = zip(lines[0:whole:3], lines[1:whole:3], lines[2:whole:3], strict=True)
            kept.writelines(
                b"%s\n%s\n%s\n" % (probability, first, second)
                for probability, first, second in pairs
                if first in phrases and second in phrases
            )
