"""ROUGE-L of tokenised captions, with the longest common subsequence found bit-parallel in Python's integers.

The numbers are those of coco-caption (pycocoevalcap 1.2). A caption's tokens are what lies between its single blanks.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import truediv

import numpy as np

BETA = 1.2
"""How much more recall weighs than precision."""


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """ROUGE-L of each image, float64 [n] in [0, 1]; one candidate and one or more references an image.

    F = (1 + beta^2) P R / (R + beta^2 P)  with P = max LCS / |candidate| and R = max LCS / |reference|, each maximum
    over the references on its own (C. Lin, 2004, as coco-caption has it). No token at all counts as one empty token.
    """
    return np.array([_score(*pair) for pair in zip(candidates, references, strict=True)])


def _score(candidate: str, references: Sequence[str]) -> float:
    """The score of one image.

    ``row`` holds the current row of the usual table of common subsequences: the zeros among its low bits, one bit a
    token of the candidate, are where the row steps up (M. Crochemore et al., 2001).
    """
    words = candidate.split(" ")
    places: dict[str, int] = {}
    for place, word in enumerate(words):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(words)) - 1
    common, lengths = [], []
    for reference in references:
        others = reference.split(" ")
        row = full
        for mask in filter(None, map(places.get, others)):
            met = row & mask
            row = row + met | row - met
        common.append(len(words) - (row & full).bit_count())
        lengths.append(len(others))
    if not any(common):
        return 0.0
    precision, recall = max(common) / len(words), max(map(truediv, common, lengths))
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
