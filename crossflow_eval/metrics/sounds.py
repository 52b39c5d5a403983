"""FD, Inception Score, KL and FAD of sounds as AudioLDM's evaluation has them (audioldm_eval at 8dc07ee), and CLAP.

An example's target is the file of the recording that its sound is compared with; those of the examples that are scored
are the reference of a Frechet distance, each once. Arithmetic is in float64, where the source's is partly in float32.
What audioldm_eval calls KL is of softmaxed logits, ``kl_panns``; beside it it prints that of sigmoids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, softmax, xlogy

from crossflow.errors import CrossFlowError
from crossflow.files.recordings import Recording, read_recording
from crossflow_eval.judges.clap import Clap
from crossflow_eval.judges.features import FeatureCache, OnFeatures, in_chunks
from crossflow_eval.judges.panns import Panns
from crossflow_eval.judges.vggish import Vggish
from crossflow_eval.metrics import distribution
from crossflow_eval.metrics.fid import distance_of, singular
from crossflow_eval.metrics.frechet import METHOD, Moments
from crossflow_eval.stats import BOOTSTRAP, JACKKNIFE, bootstrap_mean, student_mean
from crossflow_eval.types import Example, Output, Row, Value

EPSILON = 1e-6
"""Added to the outputs' probabilities before the logarithm of KL."""
PARTS = 10
"""Of the outputs, in which the Inception Score is taken."""
_REFERENCE = "the recordings of the examples scored, each once"


class PannsScores(OnFeatures):
    """``fd_panns``, ``is_panns`` with ``is_panns_std``, ``kl_panns`` and ``kl_panns_sigmoid``; rows have both KLs."""

    higher_is_better: Mapping[str, bool] = {
        "fd_panns": False,
        "is_panns": True,
        "kl_panns": False,
        "kl_panns_sigmoid": False,
    }

    def __init__(self, panns: Panns) -> None:
        super().__init__(panns)
        self._panns = panns
        self.protocol: Mapping[str, Any] = {
            "extractor": panns.name,
            "weights_sha256": panns.weights_sha256,
            **panns.fingerprint,
            "fd": f"hidden layer of {panns.hidden} numbers after its ReLU, {METHOD}",
            "reference": _REFERENCE,
            "is": f"{PARTS} parts, shuffled from seed {distribution.FIDELITY_SEED}; std with divisor n",
            "kl": f"KL(recording || output) of each pair, mean; outputs' probabilities + {EPSILON:g}",
            "interval": f"fd: {JACKKNIFE}; is: Student t over the parts; kl: {BOOTSTRAP}",
        }
        self._outputs: list[np.ndarray] = []
        self._recordings: dict[str, np.ndarray] = {}
        self._divergences: list[np.ndarray] = []

    def update_from(self, cache: FeatureCache, examples: Sequence[Example], outputs: Sequence[Any]) -> list[Row]:
        """As ``update``, with the features of outputs and recordings out of a run's ``cache``."""
        return self._take(examples, cache.extract(outputs), cache.extract([target_of(each) for each in examples]))

    def update(
        self, examples: Sequence[Example], outputs: Sequence[Output], features: np.ndarray | None = None
    ) -> list[Row]:
        """Score the outputs, recordings, against their examples'. Raises CrossFlowError where one cannot be read."""
        theirs = self.features_of([target_of(each) for each in examples])
        return self._take(examples, self.features_of([recording_of(each) for each in outputs], features), theirs)

    def _take(self, examples: Sequence[Example], ours: np.ndarray, theirs: np.ndarray) -> list[Row]:
        self._outputs.append(ours)
        self._recordings |= {str(example.target): each for example, each in zip(examples, theirs, strict=True)}
        q, p = (self._panns.split(each.astype(np.float64))[1] for each in (ours, theirs))
        found = np.stack([_divergence(softmax(p, 1), softmax(q, 1)), _divergence(expit(p), expit(q))], axis=1)
        self._divergences.append(found)
        return [dict(zip(("kl_panns", "kl_panns_sigmoid"), each, strict=True)) for each in found.tolist()]

    def compute(self) -> dict[str, Value]:
        """The four of all outputs. Raises CrossFlowError for fewer than ``PARTS``, and for a single recording."""
        n = sum(map(len, self._outputs))
        if n < PARTS or len(self._recordings) < 2:
            raise CrossFlowError(
                f"FD, IS and KL of sounds need {PARTS} outputs and two recordings or more, got {n} and "
                f"{len(self._recordings)}; raise --limit."
            )
        hidden, logits = self._panns.split(np.concatenate(self._outputs))
        theirs, _ = self._panns.split(np.stack(list(self._recordings.values())))
        self.protocol = {**self.protocol, **singular(self._panns.hidden, outputs=len(hidden), recordings=len(theirs))}
        reference = Moments.of_features(theirs)
        scores = distribution.inception_scores(logits, splits=PARTS)
        of_softmax, of_sigmoid = np.concatenate(self._divergences).T
        return {
            "fd_panns": distance_of(lambda kept: Moments.of_features(hidden[kept]), reference, n),
            "is_panns": student_mean(scores, n=n),
            "is_panns_std": Value(mean=float(scores.std()), n=n),
            "kl_panns": bootstrap_mean(of_softmax),
            "kl_panns_sigmoid": bootstrap_mean(of_sigmoid),
        }


class FrechetAudioDistance:
    """``fad_vggish``: the Frechet distance between VGGish's embeddings of all outputs and of all recordings.

    A sound has an embedding each 0.96 s, so that long ones count more. Other tools' FAD averages channels, keeps the
    mean, takes PCA or the whole data set as reference, and is another number.
    """

    higher_is_better: Mapping[str, bool] = {"fad_vggish": False}

    def __init__(self, vggish: Vggish) -> None:
        self._vggish = vggish
        self.protocol: Mapping[str, Any] = {
            "extractor": vggish.name,
            "weights_sha256": vggish.weights_sha256,
            "dim": vggish.dim,
            **vggish.fingerprint,
            "method": METHOD,
            "reference": _REFERENCE,
            "interval": JACKKNIFE,
        }
        self._outputs: list[np.ndarray] = []
        self._recordings: dict[str, np.ndarray] = {}

    def update(self, examples: Sequence[Example], outputs: Sequence[Output]) -> None:
        """Take the outputs, recordings, and their examples'; an output alone has no distance, so there are no rows."""
        self._outputs += [self._vggish(recording_of(output)) for output in outputs]
        for example in examples:
            if str(example.target) not in self._recordings:
                self._recordings[str(example.target)] = self._vggish(target_of(example))

    def compute(self) -> dict[str, Value]:
        """The distance, with its interval."""
        ours, theirs = self._outputs, np.concatenate(list(self._recordings.values()))
        self.protocol = {
            **self.protocol,
            **singular(self._vggish.dim, outputs=sum(map(len, ours)), recordings=len(theirs)),
        }
        distance = distance_of(
            lambda kept: Moments.of_features(np.concatenate([ours[place] for place in kept])),
            Moments.of_features(theirs),
            len(ours),
        )
        return {"fad_vggish": distance}


class ClapScore(OnFeatures):
    """``clap_score``: the cosine of a sound and its prompt, the example's source, in CLAP's space; mean and rows."""

    higher_is_better: Mapping[str, bool] = {"clap_score": True}

    def __init__(self, clap: Clap) -> None:
        super().__init__(clap)
        self._clap = clap
        self.protocol: Mapping[str, Any] = {
            "model": clap.name,
            "weights_sha256": clap.weights_sha256,
            **clap.fingerprint,
            "score": "cosine, as it is",
            "interval": BOOTSTRAP,
        }
        self._scores: list[float] = []

    def update(
        self, examples: Sequence[Example], outputs: Sequence[Output], features: np.ndarray | None = None
    ) -> list[Row]:
        """Score the outputs, recordings."""
        sounds = self.features_of([recording_of(each) for each in outputs], features).astype(np.float64)
        prompts = [str(example.source) for example in examples]
        texts = in_chunks(self._clap.embed_texts, prompts, self._clap.dim, self._clap.name).astype(np.float64)
        lengths = np.linalg.norm(sounds, axis=1) * np.linalg.norm(texts, axis=1)
        scores = ((sounds * texts).sum(axis=1) / lengths).tolist()
        self._scores += scores
        return [{"clap_score": score} for score in scores]

    def compute(self) -> dict[str, Value]:
        """The mean with its bootstrap interval."""
        return {"clap_score": bootstrap_mean(self._scores)}


def recording_of(output: Output) -> Recording:
    """An output as a recording. Raises CrossFlowError for any other kind."""
    if not isinstance(output, Recording):
        raise CrossFlowError(f"This metric needs sounds, got {type(output).__name__}.")
    return output


def target_of(example: Example) -> Recording:
    """The recording that an example's target names. Raises CrossFlowError where it cannot be read."""
    return read_recording(Path(example.target))


def _divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The sum of p log(p / (q + EPSILON)) of each row, float64 [n]."""
    return (xlogy(p, p) - p * np.log(q + EPSILON)).sum(axis=1)
