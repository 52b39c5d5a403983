"""CLIP scores, each under the protocol that it was published with; no two are comparable.

``hessel`` is CLIPScore as its paper and its code define it (J. Hessel et al., 2021), with RefCLIPScore for captions.
``crossflow`` is what CrossFlow's evaluation code computes and its paper reports. ``cosine100`` is the cosine times 100
on ViT-L/14 behind OpenAI's own preparation of images and texts. ``torchmetrics`` is what torchmetrics 1.9 makes of that
with its default model on transformers 5: another resize and crop, another tokenizer, and long captions without end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from crossflow.errors import CrossFlowError
from crossflow_eval.datasets.folder import read_image
from crossflow_eval.judges.clip import TOKENS, Clip, load_clip
from crossflow_eval.judges.features import OnFeatures, in_chunks
from crossflow_eval.judges.local_weights import find_weights
from crossflow_eval.judges.weights import PUBLISHED
from crossflow_eval.metrics.distances import image_of
from crossflow_eval.stats import BOOTSTRAP, bootstrap_mean
from crossflow_eval.types import Example, Output, Row, Value

NEGATIVE = {"pair": "0 in each pair", "mean": "0 in the mean", "none": "as they are"}
"""What a protocol does with cosines below 0, in words."""


@dataclass(frozen=True, kw_only=True)
class ClipProtocol:
    """A published CLIP score: ``weight`` times the cosine of image and ``prefix`` + text, on the weights ``file``.

    Negative cosines count as 0: each for itself (``floor`` "pair") or only where the mean is negative ("mean"), or they
    stay ("none").
    """

    name: str
    file: str
    weight: float
    prefix: str = ""
    preprocessing: str = "openai"
    floor: Literal["pair", "mean", "none"] = "pair"
    tokens: str = "openai"

    def load(self, *, device: str = "cpu") -> Clip:
        """The published model, from the folder of evaluator weights. Raises CrossFlowError where it is not there."""
        weights = next(each for each in PUBLISHED if each.file == self.file)
        return load_clip(find_weights(weights), weights.sha256, device=device)

    def fingerprint(self, clip: Clip) -> dict[str, Any]:
        """Everything that can change a score under this protocol on the model ``clip``."""
        return {
            "protocol": self.name,
            "model": clip.name,
            "weights_sha256": clip.weights_sha256,
            **clip.images(self.preprocessing).fingerprint,
            "weight": self.weight,
            "prefix": self.prefix,
            "negative_cosines": NEGATIVE[self.floor],
            **TOKENS[self.tokens],
            "interval": BOOTSTRAP,
        }


HESSEL = ClipProtocol(name="hessel", file="ViT-B-32.pt", weight=2.5, prefix="A photo depicts ")
CROSSFLOW = ClipProtocol(name="crossflow", file="ViT-B-32.pt", weight=1.0, preprocessing="crossflow")
COSINE100 = ClipProtocol(name="cosine100", file="ViT-L-14.pt", weight=100.0, floor="mean")
TORCHMETRICS = replace(COSINE100, name="torchmetrics", preprocessing="torchmetrics", tokens="torchmetrics")


class CLIPScore(OnFeatures):
    """How well images fit their prompts, under one protocol. Rows and value: ``clip_score/<protocol>``.

    The mean over examples of their outputs' mean. CrossFlow's code scores images before they become 8-bit files; here
    every image is one.
    """

    def __init__(self, clip: Clip, protocol: ClipProtocol) -> None:
        super().__init__(clip.images(protocol.preprocessing))
        self._clip, self._score = clip, protocol
        self._name = f"clip_score/{protocol.name}"
        self.protocol: Mapping[str, Any] = protocol.fingerprint(clip)
        self.higher_is_better: Mapping[str, bool] = {self._name: True}
        self._scores: dict[str, list[float]] = defaultdict(list)

    def update(
        self, examples: Sequence[Example], outputs: Sequence[Output], features: np.ndarray | None = None
    ) -> list[Row]:
        """Score the outputs, images, against their prompts, the examples' sources."""
        images = self.features_of([image_of(output) for output in outputs], features)
        texts = _embed(
            self._clip, [self._score.prefix + str(example.source) for example in examples], self._score.tokens
        )
        cosines = _cosines(images, texts)
        scores = self._score.weight * (np.maximum(cosines, 0.0) if self._score.floor == "pair" else cosines)
        return _remember(self._scores, examples, self._name, scores)

    def compute(self) -> dict[str, Value]:
        """The mean with its bootstrap interval."""
        value = _mean(self._scores)
        if self._score.floor == "none":
            return {self._name: value}
        bounds = {"mean": value.mean, "ci_low": value.ci_low, "ci_high": value.ci_high}
        floored = {name: None if bound is None else max(bound, 0.0) for name, bound in bounds.items()}
        return {self._name: value.model_copy(update=floored)}


class CaptionCLIPScore:
    """How well captions fit their images: CLIPScore and RefCLIPScore under ``HESSEL``, per caption.

    RefCLIPScore is the harmonic mean of CLIPScore and of the largest cosine between the caption and one of its
    references, 0 where that is negative. An example's source is the path of its image, its target the references.
    Rows and values: ``clip_score/hessel``, ``ref_clip_score``.
    """

    higher_is_better: Mapping[str, bool] = {"clip_score/hessel": True, "ref_clip_score": True}

    def __init__(self, clip: Clip) -> None:
        self._clip, self._images = clip, clip.images(HESSEL.preprocessing)
        self.protocol: Mapping[str, Any] = HESSEL.fingerprint(clip) | {"references": "the largest cosine, prefix too"}
        self._scores: dict[str, list[float]] = defaultdict(list)
        self._referenced: dict[str, list[float]] = defaultdict(list)

    def update(self, examples: Sequence[Example], outputs: Sequence[Output]) -> list[Row]:
        """Score the outputs, captions. Raises CrossFlowError for an example without references."""
        captions = _embed(self._clip, [HESSEL.prefix + str(output) for output in outputs])
        stored = [_as_stored(Path(str(example.source))) for example in examples]
        images = in_chunks(self._images, stored, self._images.dim, self._images.name)
        scores = HESSEL.weight * np.maximum(_cosines(images, captions), 0.0)
        nearest = np.maximum(self._nearest_reference(examples, captions), 0.0)
        total = scores + nearest
        referenced = 2 * scores * nearest / np.where(total > 0, total, 1.0)
        rows = _remember(self._scores, examples, "clip_score/hessel", scores)
        more = _remember(self._referenced, examples, "ref_clip_score", referenced)
        return [row | other for row, other in zip(rows, more, strict=True)]

    def _nearest_reference(self, examples: Sequence[Example], captions: np.ndarray) -> np.ndarray:
        """The largest cosine of each caption with its references, float64 [n]."""
        references = [[HESSEL.prefix + str(text) for text in example.target or ()] for example in examples]
        if bare := [example.id for example, texts in zip(examples, references, strict=True) if not texts]:
            raise CrossFlowError(
                f"RefCLIPScore needs reference captions; {len(bare)} examples have none, such as {bare[0]}."
            )
        counts = [len(texts) for texts in references]
        embedded = _embed(self._clip, [text for texts in references for text in texts])
        cosines = _cosines(np.repeat(captions, counts, axis=0), embedded)
        return np.maximum.reduceat(cosines, np.cumsum([0, *counts[:-1]]))

    def compute(self) -> dict[str, Value]:
        """Both means over examples, with their bootstrap intervals."""
        return {"clip_score/hessel": _mean(self._scores), "ref_clip_score": _mean(self._referenced)}


def _as_stored(path: Path) -> np.ndarray | Image.Image:
    """The image, RGB, or as it is stored where the order of resizing and making it RGB changes its pixels."""
    image = read_image(path)
    with Image.open(path) as stored:
        return stored.copy() if stored.mode in ("1", "P", "PA") else image


def _embed(clip: Clip, texts: Sequence[str], tokens: str = HESSEL.tokens) -> np.ndarray:
    """The embeddings, float32 [n dim], of n texts, each computed once however often it comes."""
    places = {text: index for index, text in enumerate(dict.fromkeys(texts))}
    return in_chunks(partial(clip.embed_texts, tokens=tokens), list(places), clip.dim, clip.name)[
        [places[text] for text in texts]
    ]


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The cosine of each pair of rows, float64 [n]."""
    first, second = first.astype(np.float64), second.astype(np.float64)
    return (first * second).sum(axis=1) / (np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1))


def _remember(kept: dict[str, list[float]], examples: Sequence[Example], name: str, scores: np.ndarray) -> list[Row]:
    for example, score in zip(examples, scores.tolist(), strict=True):
        kept[example.id].append(score)
    return [{name: score} for score in scores.tolist()]


def _mean(scores: Mapping[str, Sequence[float]]) -> Value:
    return bootstrap_mean([float(np.mean(of_example)) for of_example in scores.values()])
