"""The embedded world's metrics. All that knows the world (reader, networks, references) comes in by the constructor."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow_eval.judges.features import FeatureExtractor, OnFeatures, in_chunks
from crossflow_eval.metrics.distances import image_of
from crossflow_eval.metrics.distribution import FIDELITY_SEED, inception_scores
from crossflow_eval.metrics.geneval import TASKS, Detection, judge
from crossflow_eval.stats import (
    BOOTSTRAP,
    UNIT,
    WITHIN_BOUNDS,
    bootstrap_mean,
    single_strata,
    stratified_mean,
    student_mean,
)
from crossflow_eval.types import Example, Output, Row, Value


@runtime_checkable
class Found(Protocol):
    """What a reader says of one object. Its box is in pixels, right and bottom exclusive."""

    @property
    def shape(self) -> str:
        """The class."""
        ...

    @property
    def color(self) -> str:
        """The color, by name."""
        ...

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        ...


class SceneGenEval:
    """GenEval's decision rules on an exact reader: is what the prompt asks for in the image?

    ``read`` finds the objects of an image, uint8 [h w 3]; an example's target is its GenEval specification. Values:
    ``geneval/<task>``, the share of right outputs, and ``geneval``, the unweighted mean of the six tasks, which is
    absent unless all six have outputs. Intervals resample examples.
    """

    higher_is_better: Mapping[str, bool] = {"geneval": True, **{f"geneval/{task}": True for task in TASKS}}

    def __init__(self, read: Callable[[np.ndarray], Sequence[Found]], *, reader: str = "exact") -> None:
        self._read = read
        self.protocol: Mapping[str, Any] = {
            "rules": "GenEval",
            "reader": reader,
            "max_overlap": 1.0,
            "interval": WITHIN_BOUNDS,
        }
        self._verdicts: dict[str, dict[str, list[bool]]] = {task: defaultdict(list) for task in TASKS}

    def update(self, examples: Sequence[Example], outputs: Sequence[Output]) -> list[Row]:
        """Judge the outputs. Rows: task, correct, reason, detections (label, color, box)."""
        return [self._judge(example, image_of(output)) for example, output in zip(examples, outputs, strict=True)]

    def _judge(self, example: Example, image: np.ndarray) -> Row:
        specification = example.target
        task = specification["tag"] if isinstance(specification, Mapping) else None
        if task not in TASKS:
            raise CrossFlowError(f"The example {example.id} carries no GenEval specification; this metric needs one.")
        found = detections(self._read(image))
        verdict = judge(found, specification, max_overlap=1.0)
        self._verdicts[task][example.id].append(verdict.correct)
        return {"task": task, "correct": verdict.correct, "reason": verdict.reason, "detections": shown(found)}

    def compute(self) -> dict[str, Value]:
        """The mean of the tasks where all six have outputs, and each task that has."""
        scores = {
            task: [float(np.mean(outputs)) for outputs in by_example.values()]
            for task, by_example in self._verdicts.items()
            if by_example
        }
        if warning := single_strata({task: len(of_task) for task, of_task in scores.items()}):
            self.protocol = {**self.protocol, "warning": warning}
        values = {"geneval": stratified_mean(scores, bounds=UNIT)} if len(scores) == len(TASKS) else {}
        return values | {
            f"geneval/{task}": stratified_mean({task: of_task}, bounds=UNIT) for task, of_task in scores.items()
        }


class SceneCLIPScore(OnFeatures):
    """The mean over outputs of max(cos(image, prompt), 0), weight 1: CrossFlow's CLIP score, on the given encoders.

    ``embed_images`` is a ``FeatureExtractor``; ``embed_texts`` maps n prompts to float32
    [n dim]. Rows: clip_score.
    """

    higher_is_better: Mapping[str, bool] = {"clip_score": True}

    def __init__(self, embed_images: FeatureExtractor, embed_texts: Callable[[Sequence[str]], np.ndarray]) -> None:
        super().__init__(embed_images)
        self.embed_texts = embed_texts
        self.protocol: Mapping[str, Any] = {
            "encoder": embed_images.name,
            "weights_sha256": embed_images.weights_sha256,
            "formula": "mean of max(cos, 0), weight 1",
            "interval": BOOTSTRAP,
        }
        self._scores: dict[str, list[float]] = defaultdict(list)

    def update(
        self, examples: Sequence[Example], outputs: Sequence[Output], features: np.ndarray | None = None
    ) -> list[Row]:
        """Score the outputs against their prompts."""
        images = self.features_of([image_of(output) for output in outputs], features).astype(np.float64)
        prompts = [str(example.source) for example in examples]
        texts = in_chunks(self.embed_texts, prompts, images.shape[1], "the text encoder").astype(np.float64)
        length = np.linalg.norm(images, axis=1) * np.linalg.norm(texts, axis=1)
        cosine = (images * texts).sum(axis=1) / np.where(length > 0, length, 1.0)
        scores = np.maximum(cosine, 0.0).tolist()
        for example, score in zip(examples, scores, strict=True):
            self._scores[example.id].append(score)
        return [{"clip_score": score} for score in scores]

    def compute(self) -> dict[str, Value]:
        """The mean over examples of their outputs' mean."""
        return {"clip_score": bootstrap_mean([float(np.mean(scores)) for scores in self._scores.values()])}


class SceneInceptionScore(OnFeatures):
    """The Inception Score's formula on another classifier: exp E KL(p(y|x) || p(y)) over ten shuffled parts.

    ``classify`` maps features of ``extractor`` to probabilities [n classes], which ``classes`` says in words. The value
    is called ``inception_score_looks``, for it compares with no Inception Score; it is left out, with a ``warning`` in
    the protocol, where there are fewer outputs than parts.
    """

    higher_is_better: Mapping[str, bool] = {"inception_score_looks": True}
    PARTS = 10

    def __init__(
        self, extractor: FeatureExtractor, classify: Callable[[np.ndarray], np.ndarray], *, classes: str
    ) -> None:
        super().__init__(extractor)
        self.classify = classify
        self._probabilities: list[np.ndarray] = []
        self.protocol: Mapping[str, Any] = {
            "classifier": f"{extractor.name}, not Inception",
            "classes": classes,
            "weights_sha256": extractor.weights_sha256,
            "formula": "exp E KL(p(y|x) || p(y))",
            "parts": f"{self.PARTS} parts, shuffled from seed {FIDELITY_SEED}",
            "interval": "Student t over the parts",
        }

    def update(
        self, examples: Sequence[Example], outputs: Sequence[Output], features: np.ndarray | None = None
    ) -> None:
        """Take the outputs' classes; an output alone has no score, so there are no rows."""
        found = self.features_of([image_of(output) for output in outputs], features)
        self._probabilities.append(self.classify(found))

    def compute(self) -> dict[str, Value]:
        """The mean over the parts."""
        probabilities = np.concatenate(self._probabilities)
        n = len(probabilities)
        if n < self.PARTS:
            self.protocol = {**self.protocol, "warning": f"no score: {self.PARTS} outputs are needed, got {n}"}
            return {}
        with np.errstate(divide="ignore"):
            scores = inception_scores(np.log(probabilities), splits=self.PARTS)
        return {"inception_score_looks": student_mean(scores, n=n)}


@dataclass(frozen=True, kw_only=True)
class SceneContent:
    """What a caption says, or what is true: how often each (color, shape), and whether it is night.

    A color that is left out is "", a light that is left out None.
    """

    objects: Counter[tuple[str, str]]
    night: bool | None


class SceneCaptions:
    """Does a caption name what the scene holds, no more and no less?

    ``read`` says what a caption tells and ``look`` what is true of an example, one object or more. Values: ``objects``,
    the share of captions that name exactly the scene's objects, each with its color; ``object_f1``, the mean over
    captions of 2 (named and there) / (named + there); ``light``, the share that says day or night and is right. Rows:
    these three, whether objects and light are ``correct``, and the reason where not.
    """

    higher_is_better: Mapping[str, bool] = {"objects": True, "object_f1": True, "light": True}

    def __init__(
        self, read: Callable[[str], SceneContent], look: Callable[[Example], SceneContent], *, grammar: str
    ) -> None:
        self._read, self._look = read, look
        self.protocol: Mapping[str, Any] = {"grammar": grammar, "interval": BOOTSTRAP}
        self._rows: list[Row] = []

    def update(self, examples: Sequence[Example], outputs: Sequence[Output]) -> list[Row]:
        """Judge the captions. Raises CrossFlowError for an output that is no text."""
        if other := [type(output).__name__ for output in outputs if not isinstance(output, str)]:
            raise CrossFlowError(f"Captions are to be judged, got {other[0]}; give text.")
        rows = [
            _compare(self._read(str(output)), self._look(example))
            for example, output in zip(examples, outputs, strict=True)
        ]
        self._rows += rows
        return rows

    def compute(self) -> dict[str, Value]:
        """The mean of each value over the captions."""
        return {name: bootstrap_mean([float(row[name]) for row in self._rows]) for name in self.higher_is_better}


def _compare(said: SceneContent, true: SceneContent) -> Row:
    """The row of a caption that says ``said`` where ``true`` is."""
    missing, extra = true.objects - said.objects, said.objects - true.objects
    reasons = [f"not named: {_listed(missing)}"] if missing else []
    reasons += [f"not there: {_listed(extra)}"] if extra else []
    if said.night != true.night:
        names = {True: "night", False: "day", None: "neither day nor night"}
        reasons.append(f"said {names[said.night]}, it is {names[true.night]}")
    shared = (said.objects & true.objects).total()
    return {
        "correct": not reasons,
        "reason": "; ".join(reasons),
        "objects": float(said.objects == true.objects),
        "object_f1": 2 * shared / (said.objects.total() + true.objects.total()),
        "light": float(said.night == true.night),
    }


def _listed(objects: Counter[tuple[str, str]]) -> str:
    return ", ".join(" ".join(filter(None, look)) for look in sorted(objects.elements()))


def detections(found: Sequence[Found]) -> list[Detection]:
    """What a reader found, as GenEval's rules take it: every object is certain."""
    return [Detection(label=each.shape, score=1.0, box=_box(each.box), color=each.color) for each in found]


def shown(found: Sequence[Detection]) -> list[dict[str, Any]]:
    """Detections as plain JSON."""
    return [{"label": each.label, "color": each.color, "box": list(each.box)} for each in found]


def _box(box: Sequence[float | int]) -> tuple[float, float, float, float]:
    left, top, right, bottom = (float(edge) for edge in box)
    return left, top, right, bottom
