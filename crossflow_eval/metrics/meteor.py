"""METEOR 1.5 from the counts that its aligner gives; the alignment itself is :func:`crossflow_eval.judges.java.meteor`.

Parameters are those of the task "rank" for English, the program's defaults (M. Denkowski and A. Lavie, 2014).
"""

from __future__ import annotations

import numpy as np

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
"""The weight of recall, the penalty's exponent and its weight, the weight of content words."""
STAGES = (1.0, 0.6, 0.8, 0.6)
"""The weights of exact, stem, synonym and paraphrase matches."""
_LENGTHS, _FUNCTION_WORDS, _MATCHES, _CHUNKS, _MATCHED = slice(0, 2), slice(2, 4), slice(4, 20), 20, slice(21, 23)
"""Columns of the aligner's counts. A pair is (candidate, reference); a stage's four matches are content, function."""


def meteor_statistics(counts: np.ndarray) -> np.ndarray:
    """What METEOR is computed from, float64 [n 23], out of the aligner's counts. Sums of rows are those of sets.

    A candidate that matches its reference in one piece, whole, counts no chunk.
    """
    whole = (counts[:, _MATCHED] == counts[:, _LENGTHS]).all(axis=1) & (counts[:, _CHUNKS] == 1)
    statistics = counts.copy()
    statistics[whole, _CHUNKS] = 0
    return statistics


def meteor_score(statistics: np.ndarray) -> np.ndarray:
    """METEOR, float64 [... 1] in [0, 1], from statistics or sums of them [... 23]; 0 where nothing matches.

    (1 - gamma (chunks / matches)^beta) / ((1 - alpha) / P + alpha / R), with precision P and recall R over words that
    weigh delta (content) or 1 - delta (function), a match also by its stage.
    """
    functions = statistics[..., _FUNCTION_WORDS]
    lengths = DELTA * (statistics[..., _LENGTHS] - functions) + (1 - DELTA) * functions
    matches = statistics[..., _MATCHES].reshape(*functions.shape[:-1], len(STAGES), 2, 2)
    weighted = np.zeros_like(lengths)
    for kind, weight in enumerate((DELTA, 1 - DELTA)):
        for stage, certainty in enumerate(STAGES):
            weighted += matches[..., stage, kind, :] * certainty * weight
    matched = statistics[..., _MATCHED].sum(axis=-1) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.moveaxis(weighted / lengths, -1, 0)
        mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        score = mean * (1 - GAMMA * (statistics[..., _CHUNKS] / matched) ** BETA)
    return np.where(np.isnan(score), 0.0, np.maximum(score, 0.0))[..., None]
