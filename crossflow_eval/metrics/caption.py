"""BLEU, METEOR, ROUGE-L, CIDEr-D and SPICE of captions: coco-caption's numbers (pycocoevalcap 1.2), with intervals.

All are on the scale 0 to 1, CIDEr-D on 0 to 10; papers print them times 100, and call CIDEr-D CIDEr.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from crossflow.errors import CrossFlowError, first_few
from crossflow_eval.judges.java import check_spice, find_java, meteor, spice, tokenize
from crossflow_eval.metrics.meteor import meteor_score, meteor_statistics
from crossflow_eval.metrics.ngrams import SIGMA, Corpus, bleu, bleu_statistics, cider_d, count_ngrams
from crossflow_eval.metrics.rouge import BETA, rouge_l
from crossflow_eval.stats import BOOTSTRAP, RESAMPLES
from crossflow_eval.types import Example, Output, Row, Value

BLEU = ("bleu_1", "bleu_2", "bleu_3", "bleu_4")
TOKENS = {
    "ptb": "PTBTokenizer of CoreNLP 3.4.1, lower case, less coco-caption's punctuation",
    "words": "runs of letters, digits and underscores, lower case",
}
"""The ways to cut captions into words, as protocols say them."""
_BLOCK = 1 << 22
"""How many draws of the bootstrap are held in memory at once."""


@dataclass(frozen=True)
class Scores:
    """Scores of one kind: ``statistics`` [n d] of each image, whose sums are those of a set, and ``score`` of either.

    ``score`` maps statistics [... d] to float64 [... len(names)]. A corpus score such as BLEU is no mean over images.
    """

    names: Sequence[str]
    statistics: np.ndarray
    score: Callable[[np.ndarray], np.ndarray]

    @staticmethod
    def mean(name: str, scores: np.ndarray) -> Scores:
        """Scores [n] whose corpus score is their mean."""
        return Scores(
            (name,), np.stack([scores, np.ones(len(scores))], axis=1), lambda sums: sums[..., :1] / sums[..., 1:]
        )

    def values(self, resampled: np.ndarray) -> dict[str, Value]:
        """The corpus scores, their intervals from ``resampled`` sums [r d]; none where all images are alike."""
        means = self.score(self.statistics.sum(axis=0)).tolist()
        bounds = np.percentile(self.score(resampled), (2.5, 97.5), axis=0).T.tolist()
        if (np.ptp(self.statistics, axis=0) == 0).all():
            bounds = [(None, None)] * len(means)
        return {
            name: Value(mean=mean, ci_low=low, ci_high=high, n=len(self.statistics))
            for name, mean, (low, high) in zip(self.names, means, bounds, strict=True)
        }


class CaptionScores:
    """How well captions fit their references, each an example's ``target``: a sequence of one or more captions.

    Values and columns: ``bleu_1`` to ``bleu_4``, ``rouge_l``, ``cider_d``; ``meteor``, which takes longer than the rest
    together; and ``spice`` where ``spice_models`` names the folder of its jars, and then ``spider`` too if it is asked
    for. Captions are compared with each other (CIDEr-D's document frequencies), so rows are known last: ask for
    :meth:`rows` after :meth:`compute`.

    ``tokens`` is one of ``TOKENS``: "ptb" is what published numbers are made with; with "words", and without METEOR and
    SPICE, nothing needs Java. Raises CrossFlowError where Java is needed and not there, or SPICE's models are not.
    """

    def __init__(
        self,
        *,
        tokens: Literal["ptb", "words"] = "ptb",
        with_meteor: bool = True,
        spice_models: Path | None = None,
        with_spider: bool = False,
    ) -> None:
        if tokens == "ptb" or with_meteor or spice_models is not None:
            find_java()
        if spice_models is not None:
            check_spice(spice_models)
        self._tokenize = tokenize if tokens == "ptb" else _words
        self._with_meteor, self._spice_models, self._with_spider = with_meteor, spice_models, with_spider
        single = {
            "rouge_l": f"beta {BETA}, best precision and best recall over references",
            "cider_d": f"sigma {SIGMA}, document frequencies from the references scored",
        }
        if with_meteor:
            single["meteor"] = "METEOR 1.5, English, task rank, -norm, corpus counts"
        if spice_models is not None:
            single["spice"] = "SPICE 1.0 with CoreNLP 3.6.0, F of all tuples, mean"
        if spice_models is not None and with_spider:
            single["spider"] = "the mean of cider_d and spice"
        self.higher_is_better: Mapping[str, bool] = dict.fromkeys((*BLEU, *single), True)
        self.protocol: Mapping[str, Any] = {
            "tokens": TOKENS[tokens],
            "bleu": "corpus counts, closest reference length",
            **single,
            "interval": f"{BOOTSTRAP}, of corpus counts for BLEU and METEOR; document frequencies held fixed",
        }
        self._captions: list[str] = []
        self._references: list[Sequence[str]] = []
        self._rows: list[Row] = []

    def update(self, examples: Sequence[Example], outputs: Sequence[Output]) -> None:
        """Take the next captions. CrossFlowError for an example without references, or an output that is no text."""
        bare = [example.id for example in examples if not example.target]
        if bare:
            raise CrossFlowError(f"{len(bare)} examples have no reference captions: {first_few(bare)}.")
        if other := [type(output).__name__ for output in outputs if not isinstance(output, str)]:
            raise CrossFlowError(f"Caption scores need captions, got {other[0]}.")
        self._captions += map(str, outputs)
        self._references += [example.target for example in examples]

    def compute(self) -> dict[str, Value]:
        """The corpus scores with their bootstrap intervals. Raises CrossFlowError where a Java program dies."""
        kinds = self._score()
        if len(self._captions) == 1:
            why = "CIDEr-D weighs words by how rare they are among the images, and of a single one each weight is 0"
            self.protocol = {**self.protocol, "warning": why}
        widths = [kind.statistics.shape[1] for kind in kinds]
        resampled = _resampled_sums(np.concatenate([kind.statistics for kind in kinds], axis=1))
        values: dict[str, Value] = {}
        self._rows = [{"caption": caption} for caption in self._captions]
        for kind, sums in zip(kinds, np.split(resampled, np.cumsum(widths)[:-1], axis=1), strict=True):
            values |= kind.values(sums)
            for row, scores in zip(self._rows, kind.score(kind.statistics).tolist(), strict=True):
                row.update(zip(kind.names, scores, strict=True))
        return values

    def rows(self) -> list[Row]:
        """One row a caption, in the order taken: the caption and its scores. Empty before :meth:`compute`."""
        return self._rows

    def _score(self) -> list[Scores]:
        """Tokenise and score everything taken so far; METEOR starts first and runs beside the rest."""
        with meteor() if self._with_meteor else nullcontext() as align:
            flat = [reference for several in self._references for reference in several]
            captions, tokenized = self._tokenize(self._captions, flat)
            rest = iter(tokenized)
            references = [[next(rest) for _ in several] for several in self._references]
            aligned = align(captions, references) if align else None
            corpus = Corpus.of(captions, references)
            counts = count_ngrams(corpus)
            scores = [
                Scores(BLEU, bleu_statistics(corpus, counts), bleu),
                Scores.mean("rouge_l", rouge_l(captions, references)),
                Scores.mean("cider_d", consensus := cider_d(corpus, counts)),
            ]
            if self._spice_models is not None:
                scores.append(Scores.mean("spice", graphs := spice(captions, references, self._spice_models)))
                if self._with_spider:
                    scores.append(Scores.mean("spider", (consensus + graphs) / 2))
            if aligned:
                scores.append(Scores(("meteor",), meteor_statistics(aligned.result()), meteor_score))
        return scores


def _words(*texts: Sequence[str]) -> list[list[str]]:
    """What ``tokenize`` is for, without Java: the words of each caption joined by blanks."""
    return [[" ".join(re.findall(r"\w+", caption.lower())) for caption in captions] for captions in texts]


def _resampled_sums(statistics: np.ndarray) -> np.ndarray:
    """The sums over images of every resample of ``BOOTSTRAP``, float64 [RESAMPLES d], of statistics [n d]."""
    generator = np.random.default_rng(0)
    n = len(statistics)
    step = max(1, _BLOCK // n)
    sums = np.empty((RESAMPLES, statistics.shape[1]))
    for start in range(0, RESAMPLES, step):
        block = sums[start : start + step]
        drawn = generator.integers(n, size=(len(block), n)) + n * np.arange(len(block))[:, None]
        times = np.bincount(drawn.ravel(), minlength=n * len(block)).reshape(len(block), n)
        block[:] = times @ statistics
    return sums
