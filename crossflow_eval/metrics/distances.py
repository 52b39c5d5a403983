"""Metrics of all outputs at once: what :mod:`.distribution` and :mod:`.neighbourhoods` say of their features.

A ``Statistic`` is one published number; ``FeatureMetric`` computes it from the features of an extractor. Which features
a number is published on is said beside it. References come as what makes them, so that only those needed are made.
Plain Frechet distances (FID, sFID, FD-DINOv2) are :class:`crossflow_eval.metrics.fid.FID`, which holds moments alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow_eval.judges.features import FeatureExtractor, OnFeatures
from crossflow_eval.metrics import distribution
from crossflow_eval.metrics.frechet import METHOD, Moments, rank_warning
from crossflow_eval.metrics.neighbourhoods import neighbourhoods
from crossflow_eval.stats import BOOTSTRAP, bootstrap_mean, student_mean
from crossflow_eval.types import Example, Output, Value

Features = Callable[[], np.ndarray]
"""Makes the features, float32 [m d], of a reference."""


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """A number, or several, of the features [n d] of all outputs.

    ``least``: how many outputs it needs. ``constants``: its part of the fingerprint. ``reference``: the features
    that outputs are compared with. ``fitted``: of n outputs, how many the smallest covariance is fitted to, where one
    is.
    """

    values: Callable[[np.ndarray], dict[str, Value]]
    higher_is_better: Mapping[str, bool]
    constants: Mapping[str, Any]
    least: int
    reference: Features | None = None
    fitted: Callable[[int], int] | None = None


class FeatureMetric(OnFeatures):
    """A ``Statistic`` of the outputs' features on ``extractor``; an output alone has none, so there are no rows.

    The extractor's own ``fingerprint``, where it has one, is part of the protocol; where a covariance is singular,
    ``compute`` adds a ``warning``.
    """

    def __init__(self, extractor: FeatureExtractor, statistic: Statistic) -> None:
        super().__init__(extractor)
        self.statistic = statistic
        self._features: list[np.ndarray] = []
        self.least = statistic.least
        self.higher_is_better = statistic.higher_is_better
        self.protocol: Mapping[str, Any] = {
            "extractor": extractor.name,
            "weights_sha256": extractor.weights_sha256,
            "dim": extractor.dim,
            **getattr(extractor, "fingerprint", {}),
            **statistic.constants,
        }

    def update(
        self, examples: Sequence[Example], outputs: Sequence[Output], features: np.ndarray | None = None
    ) -> None:
        """Take the outputs' features."""
        images = [image_of(output) for output in outputs]
        self._features.append(self.features_of(images, features))

    def compute(self) -> dict[str, Value]:
        """The statistic of all outputs. Raises CrossFlowError for too few of them, and for too few references."""
        n, least = sum(map(len, self._features)), self.least
        if n < least:
            raise CrossFlowError(
                f"{', '.join(self.higher_is_better)}: {least} outputs are needed, got {n}; measure more of them."
            )
        if self.statistic.fitted is not None:
            warning = rank_warning("outputs", self.statistic.fitted(n), self.extractor.dim)
            self.protocol = {**self.protocol, **({"warning": warning} if warning else {})}
        return self.statistic.values(np.concatenate(self._features))


def inception_score() -> Statistic:
    """torch-fidelity's Inception Score over ten shuffled parts, on Inception's 1008 logits without bias."""

    def values(logits: np.ndarray) -> dict[str, Value]:
        scores = distribution.inception_scores(logits)
        return {
            "inception_score": student_mean(scores, n=len(logits)),
            "inception_score_std": Value(mean=scores.std(), n=len(logits)),
        }

    order = f"10 parts, shuffled from seed {distribution.FIDELITY_SEED}"
    return Statistic(
        values=values,
        higher_is_better={"inception_score": True},
        constants={"parts": order, "std": "divisor n", "interval": "Student t over the parts"},
        least=10,
    )


def inception_score_adm() -> Statistic:
    """ADM's Inception Score, over each 5,000 outputs in their order, on Inception's 1008 logits without bias."""
    return Statistic(
        values=lambda logits: {
            "inception_score_adm": student_mean(distribution.inception_scores_adm(logits), n=len(logits))
        },
        higher_is_better={"inception_score_adm": True},
        constants={"parts": "of 5000, in order, the last what is left", "interval": "Student t over the parts"},
        least=1,
    )


def kid(reference: Features, name: str, *, size: int = 1000) -> Statistic:
    """torch-fidelity's KID, on Inception's 2048 features: ``kid``, and ``kid_std`` of its subsets.

    Published ones are of subsets of 1,000; ``size`` is smaller for smaller sets.
    """

    def values(features: np.ndarray) -> dict[str, Value]:
        distances = distribution.kid(features, _enough(reference(), size), size=size)
        n = len(features)
        return {"kid": Value(mean=distances.mean(), n=n), "kid_std": Value(mean=distances.std(), n=n)}

    return Statistic(
        values=values,
        higher_is_better={"kid": False},
        constants={
            "reference": name,
            "kernel": "(x.y / d + 1)^3, unbiased",
            "subsets": f"100 of {size}, seed {distribution.FIDELITY_SEED}, outputs first",
            "std": "divisor n",
            "interval": "none",
        },
        least=size,
        reference=reference,
    )


def precision_recall(reference: Features, name: str) -> Statistic:
    """Improved precision and recall as ADM has them, k = 3 and closed balls, on Inception's 2048 features.

    Distances are float64 and protocols say so: ADM's evaluator squares and adds in float16, whose rounding moves them.
    """

    def values(features: np.ndarray) -> dict[str, Value]:
        found = neighbourhoods(features, _enough(reference(), 4), k=3, closed=True)
        return {"precision": bootstrap_mean(found.hits > 0), "recall": Value(mean=found.recall, n=len(features))}

    return Statistic(
        values=values,
        higher_is_better={"precision": True, "recall": True},
        constants={
            "reference": name,
            "k": 3,
            "balls": "closed",
            **_BALLS,
            "distances": "Euclidean, float64 (float16 in ADM's evaluator)",
        },
        least=4,
    )


def prdc(reference: Features, name: str) -> Statistic:
    """Precision, recall, density and coverage, k = 5 and open balls; dgm-eval publishes them on DINOv2's features."""

    def values(features: np.ndarray) -> dict[str, Value]:
        found = neighbourhoods(features, _enough(reference(), 6), k=5, closed=False)
        return {
            "prdc/precision": bootstrap_mean(found.hits > 0),
            "prdc/recall": Value(mean=found.recall, n=len(features)),
            "prdc/density": bootstrap_mean(found.hits / found.k),
            "prdc/coverage": Value(mean=found.coverage, n=len(features)),
        }

    return Statistic(
        values=values,
        higher_is_better={f"prdc/{each}": True for each in ("precision", "recall", "density", "coverage")},
        constants={"reference": name, "k": 5, "balls": "open", **_BALLS},
        least=6,
    )


_BALLS = {
    "distances": "Euclidean, float64",
    "interval": f"precision, density: {BOOTSTRAP}, the reference held fixed; recall, coverage: none",
}


def cmmd(reference: Features, name: str) -> Statistic:
    """CMMD, on CLIP's ViT-L/14 at 336 px behind the preprocessing "cmmd"."""
    return Statistic(
        values=lambda features: {
            "cmmd": Value(mean=distribution.cmmd(features, _enough(reference(), 1)), n=len(features))
        },
        higher_is_better={"cmmd": False},
        constants={"reference": name, "kernel": "Gaussian, sigma 10, biased, times 1000", "interval": "none"},
        least=1,
    )


def fid_infinity(reference: Callable[[], Moments], name: str) -> Statistic:
    """FID extrapolated to infinitely many outputs, on Inception's 2048 features; the reference keeps its bias."""
    return Statistic(
        values=lambda features: {
            "fid_infinity": Value(mean=distribution.frechet_infinity(features, reference()), n=len(features))
        },
        higher_is_better={"fid_infinity": False},
        constants={"reference": name, "method": METHOD, "subsets": "15, seed 0", "interval": "none"},
        least=3,
        fitted=lambda n: int(distribution.infinity_sizes(n)[0]),
    )


def _enough(reference: np.ndarray, least: int) -> np.ndarray:
    """The reference. Raises CrossFlowError where it has fewer than ``least`` features."""
    if len(reference) < least:
        raise CrossFlowError(f"The reference has {len(reference)} images; this metric needs {least}.")
    return reference


def image_of(output: Output) -> np.ndarray:
    """An output as an image, uint8 [h w 3]. Raises CrossFlowError for any other kind."""
    if not isinstance(output, np.ndarray) or output.dtype != np.uint8 or output.ndim != 3 or output.shape[2] != 3:
        got = f"{output.dtype} {list(output.shape)}" if isinstance(output, np.ndarray) else type(output).__name__
        raise CrossFlowError(f"This metric needs images, uint8 [h w 3], got {got}.")
    return output
