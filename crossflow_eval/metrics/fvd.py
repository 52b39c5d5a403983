"""FVD (T. Unterthiner et al., 2018) as StyleGAN-V computes it: the Frechet distance of I3D's logits of 16 frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow_eval.judges.features import FeatureCache, OnFeatures
from crossflow_eval.judges.i3d import I3d
from crossflow_eval.metrics.clipsim import film_of
from crossflow_eval.metrics.fid import distance_of, singular
from crossflow_eval.metrics.frechet import METHOD, Moments
from crossflow_eval.stats import JACKKNIFE
from crossflow_eval.types import Example, Output, Value


class FVD(OnFeatures):
    """``fvd/stylegan-v``: of all outputs against the films of the examples scored, each once, which ``real`` reads.

    StyleGAN-V divides covariances by n, other tools by n - 1.
    """

    higher_is_better: Mapping[str, bool] = {"fvd/stylegan-v": False}

    def __init__(self, i3d: I3d, real: Callable[[Example], np.ndarray], read: str) -> None:
        super().__init__(i3d)
        self._real = real
        self.protocol: Mapping[str, Any] = {
            "extractor": i3d.name,
            "weights_sha256": i3d.weights_sha256,
            "dim": i3d.dim,
            **i3d.fingerprint,
            "reference": f"the films of the examples scored, each once; {read}",
            "method": METHOD.replace("n - 1", "n"),
            "interval": JACKKNIFE,
        }
        self._outputs: list[np.ndarray] = []
        self._films: list[np.ndarray] = []
        self._seen: set[str] = set()

    def update_from(self, cache: FeatureCache, examples: Sequence[Example], outputs: Sequence[Any]) -> None:
        """As ``update``, with the features of outputs and films out of a run's ``cache``."""
        self._outputs.append(cache.extract(outputs))
        self._films.append(cache.extract([self._real(each) for each in self._new(examples)]))

    def update(
        self, examples: Sequence[Example], outputs: Sequence[Output], features: np.ndarray | None = None
    ) -> None:
        """Take the outputs, films, and their examples'; an output alone has no distance, so there are no rows."""
        self._outputs.append(self.features_of([film_of(output) for output in outputs], features))
        self._films.append(self.features_of([self._real(each) for each in self._new(examples)]))

    def _new(self, examples: Sequence[Example]) -> list[Example]:
        new = list({str(each.target): each for each in examples if str(each.target) not in self._seen}.values())
        self._seen |= {str(each.target) for each in new}
        return new

    def compute(self) -> dict[str, Value]:
        """The distance, with its interval. Raises CrossFlowError for fewer than two outputs or films."""
        ours, theirs = np.concatenate(self._outputs), np.concatenate(self._films)
        if min(len(ours), len(theirs)) < 2:
            raise CrossFlowError(
                f"FVD needs two outputs and two films or more, got {len(ours)} and {len(theirs)}; raise --limit."
            )
        self.protocol = {**self.protocol, **singular(self.extractor.dim, outputs=len(ours), films=len(theirs))}
        return {"fvd/stylegan-v": distance_of(lambda kept: _moments(ours[kept]), _moments(theirs), len(ours))}


def _moments(features: np.ndarray) -> Moments:
    """Mean and covariance with the divisor n."""
    found = Moments.of_features(features)
    return Moments(found.mean, found.root * sqrt(1 - 1 / len(features)))
