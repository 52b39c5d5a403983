"""CLIPSIM of films (C. Wu et al., GODIVA, 2021): how well their frames fit the prompt, by one named CLIP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow_eval.judges.clip import Clip
from crossflow_eval.judges.clip_films import ClipFilms
from crossflow_eval.judges.features import OnFeatures, in_chunks
from crossflow_eval.metrics.clip_score import COSINE100, ClipProtocol
from crossflow_eval.stats import bootstrap_mean
from crossflow_eval.types import Example, Output, Row, Value

VIT_B_32 = ClipProtocol(name="vit-b-32", file="ViT-B-32.pt", weight=1.0, floor="none")
"""The variant of GODIVA and of nearly all after it."""
VIT_L_14 = replace(VIT_B_32, name="vit-l-14", file=COSINE100.file)


class ClipSim(OnFeatures):
    """``clipsim/<variant>``: the mean over frames, then over films, of the cosine of frame and prompt, as it is.

    Rows have that of each film. An example's source is the prompt.
    """

    def __init__(self, clip: Clip, protocol: ClipProtocol) -> None:
        films = ClipFilms(clip, protocol.preprocessing)
        super().__init__(films)
        self._clip, self._score = clip, protocol
        self._name = f"clipsim/{protocol.name}"
        self.protocol: Mapping[str, Any] = {**protocol.fingerprint(clip), **films.fingerprint}
        self.higher_is_better: Mapping[str, bool] = {self._name: True}
        self._scores: list[float] = []

    def update(
        self, examples: Sequence[Example], outputs: Sequence[Output], features: np.ndarray | None = None
    ) -> list[Row]:
        """Score the outputs, films."""
        films = self.features_of([film_of(output) for output in outputs], features).astype(np.float64)
        prompts = [self._score.prefix + str(example.source) for example in examples]
        embed = partial(self._clip.embed_texts, tokens=self._score.tokens)
        texts = in_chunks(embed, prompts, self._clip.dim, self._clip.name).astype(np.float64)
        texts /= np.linalg.norm(texts, axis=1, keepdims=True)
        scores = (self._score.weight * (films * texts).sum(axis=1)).tolist()
        self._scores += scores
        return [{self._name: score} for score in scores]

    def compute(self) -> dict[str, Value]:
        """The mean with its bootstrap interval."""
        return {self._name: bootstrap_mean(self._scores)}


def film_of(output: Output) -> np.ndarray:
    """An output as a film, uint8 [frames h w 3]. Raises CrossFlowError for any other kind."""
    if not isinstance(output, np.ndarray) or output.dtype != np.uint8 or output.ndim != 4 or output.shape[3] != 3:
        got = f"{output.dtype} {list(output.shape)}" if isinstance(output, np.ndarray) else type(output).__name__
        raise CrossFlowError(f"This metric needs films, uint8 [frames h w 3], got {got}.")
    return output
