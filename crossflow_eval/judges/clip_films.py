"""Films as OpenAI's CLIP sees them: the mean of their frames' embeddings, each of unit length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crossflow_eval.judges.clip import Clip
from crossflow_eval.judges.features import CHUNK


class ClipFilms:
    """A ``FeatureExtractor`` of films, uint8 [frames h w 3], behind one of CLIP's ``PREPROCESSING``.

    The product of such a mean with a text of unit length is the mean of the frames' cosines. ``fingerprint`` is what
    can change a number beside the weights.
    """

    def __init__(self, clip: Clip, preprocessing: str = "openai") -> None:
        self._frames = clip.images(preprocessing)
        self.name, self.weights_sha256 = f"{self._frames.name}-films", clip.weights_sha256
        self.dim = clip.dim
        self.fingerprint: Mapping[str, Any] = {**self._frames.fingerprint, "frames": "all, each of the same weight"}

    def __call__(self, films: Sequence[np.ndarray]) -> np.ndarray:
        """Float32 [n dim] of n films. One given several times is computed once."""
        distinct = {id(film): film for film in films}
        seen = {key: self._mean(film) for key, film in distinct.items()}
        return np.stack([seen[id(film)] for film in films])

    def _mean(self, film: np.ndarray) -> np.ndarray:
        parts = [self._frames(list(film[start : start + CHUNK])) for start in range(0, len(film), CHUNK)]
        embeddings = np.concatenate(parts).astype(np.float64)
        return (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).mean(axis=0).astype(np.float32)
