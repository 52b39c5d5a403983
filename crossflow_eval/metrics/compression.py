"""Text compression, the paper's Table 10: how close the tokens decoded from a latent are to the language model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crossflow_eval.stats import BOOTSTRAP, bootstrap_mean
from crossflow_eval.types import Example, Output, Row, Value

COSINES = ("cosine", "cosine_mean", "cosine_baseline")
"""Of the planes of an output after the first: decoded from a sample, from the posterior's mean, and the mean token."""


class TokenCosine:
    """Cosine similarity of tokens to the language model's own: the mean over the tokens of a text, then over texts.

    An output is of the kind ``tokens``. An example's target has ``token_values`` and ``latent_values``: how many
    numbers a text has before and after. Values: ``cosine``, decoded from a sample of the latent; ``cosine_mean``, from
    the mean of the posterior, which is the same for a deterministic encoder; ``cosine_baseline``, of the mean token at
    each position, which knows no text; and ``compression_ratio``. Rows: the three cosines, and how many ``tokens`` a
    text has.
    """

    higher_is_better: Mapping[str, bool] = dict.fromkeys((*COSINES, "compression_ratio"), True)

    def __init__(self) -> None:
        self.protocol: Mapping[str, Any] = {
            "cosine": "of each token, start and end included, padding excluded; mean over a text, then over texts",
            "baseline": "the mean token at each position over prompts of train",
            "ratio": "numbers of all tokens, padding included, to those of the latent",
            "interval": BOOTSTRAP,
        }
        self._rows: list[Row] = []
        self._ratios: set[float] = set()

    def update(self, examples: Sequence[Example], outputs: Sequence[Output]) -> list[Row]:
        """Compare the tokens of each text."""
        rows = [_compared(np.asarray(output, dtype=np.float64)) for output in outputs]
        self._rows += rows
        self._ratios |= {each.target["token_values"] / each.target["latent_values"] for each in examples}
        return rows

    def compute(self) -> dict[str, Value]:
        """The mean of each cosine over the texts, and the ratio."""
        (ratio,) = self._ratios
        values = {name: bootstrap_mean([row[name] for row in self._rows]) for name in COSINES}
        return values | {"compression_ratio": Value(mean=ratio, n=len(self._rows))}


def _compared(planes: np.ndarray) -> Row:
    own, *others = planes / np.maximum(np.linalg.norm(planes, axis=-1, keepdims=True), 1e-12)
    cosines = ((own * other).sum(axis=-1).mean() for other in others)
    return {**dict(zip(COSINES, map(float, cosines), strict=True)), "tokens": len(own)}
