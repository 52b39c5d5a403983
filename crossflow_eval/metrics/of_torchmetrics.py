"""torchmetrics' image metrics as metrics of a run: ``torchmetrics:NAME``, by their name in ``torchmetrics.image``.

Two forms are known by the parameters of ``update``: of pairs, ``(preds, target)`` or ``(img1, img2)``, and of two sets,
``(imgs, real)``. Pairs are given one by one as float32 in [0, 1], sets as uint8. The arguments are the defaults but for
those that follow from this, and are in the protocol.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from crossflow.errors import CrossFlowError, unknown
from crossflow_eval.datasets.folder import read_image
from crossflow_eval.judges.local_weights import home
from crossflow_eval.judges.resize import PYTORCH_FID
from crossflow_eval.judges.weights import PUBLISHED
from crossflow_eval.metrics.absent import Absent
from crossflow_eval.metrics.distances import image_of
from crossflow_eval.types import Example, Metric, Output, Row, Value

PREFIX = "torchmetrics:"
PAIRS = (("preds", "target"), ("img1", "img2"))
SETS = (("imgs", "real"),)
Images = Callable[[], Iterable[np.ndarray]]
"""Gives real images, uint8 [h w 3]."""


def asked(given: str) -> list[str]:
    """The names in what ``--also`` was given, ``torchmetrics:NAME`` joined by commas. CrossFlowError for another one.

    Each exists and has one of the two forms.
    """
    names = list(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    for name in names:
        if not name.startswith(PREFIX):
            raise CrossFlowError(f"--also {name}: expected {PREFIX}NAME, such as {PREFIX}PeakSignalNoiseRatio.")
        _form(name)
    return names


def load(name: str, real: Images | None = None) -> Metric:
    """The metric of a run that is called ``torchmetrics:NAME``.

    ``real`` are the images that sets are compared with; without them they are the examples' targets. One that needs
    Inception's weights is absent where they are not here. Raises CrossFlowError for an unknown name, one of another
    form, and one that cannot be built.
    """
    kind, form = _form(name)
    arguments: dict[str, Any] = {}
    parameters = inspect.signature(kind).parameters
    arguments |= {"data_range": 1.0} if "data_range" in parameters else {}
    arguments |= {"normalize": True} if form == ("img1", "img2") and "normalize" in parameters else {}
    said = dict(arguments)
    if "feature" in parameters:
        weights = next(each for each in PUBLISHED if each.file == PYTORCH_FID)
        if not (home() / PYTORCH_FID).is_file():
            return Absent.of(weights)
        from torchmetrics.image.fid import NoTrainInceptionV3

        with _one_sentence(name):
            arguments["feature"] = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(home() / PYTORCH_FID))
        said["feature"] = f"2048, {PYTORCH_FID}"
    with _one_sentence(name):
        metric = kind(**arguments)
    return (OfPairs if form in PAIRS else OfSets)(name, metric, said, real)


def _form(name: str) -> tuple[Any, tuple[str, ...]]:
    """The class behind a name, and the parameters of its ``update``. Raises CrossFlowError."""
    from torchmetrics import image

    short = name.removeprefix(PREFIX)
    known = [each for each in dir(image) if inspect.isclass(getattr(image, each))]
    if short not in known:
        raise unknown("image metric of torchmetrics", short, known)
    kind = getattr(image, short)
    form = tuple(inspect.signature(kind.update).parameters)[1:]
    if form not in (*PAIRS, *SETS):
        raise CrossFlowError(
            f"{name} is updated by ({', '.join(form)}); metrics of pairs (preds, target) and of sets (imgs, real) are "
            "taken."
        )
    return kind, form


class _OfTorchmetrics:
    """What both forms share. The value is called as the metric, and has no interval."""

    def __init__(self, name: str, metric: Any, arguments: Mapping[str, Any], real: Images | None) -> None:
        self.name, self._metric, self._real, self._n = name, metric, real, 0
        up = metric.higher_is_better
        self.higher_is_better: Mapping[str, bool] = {} if up is None else {name: up}
        self.protocol: Mapping[str, Any] = {
            "torchmetrics": metadata.version("torchmetrics"),
            "class": type(metric).__name__,
            "arguments": dict(arguments),
            "interval": "none",
        }

    def _value(self) -> dict[str, Value]:
        with _one_sentence(self.name):
            found = self._metric.compute()
        parts = found if isinstance(found, tuple) else (found,)
        numbers: dict[str, float] = {}
        for name, part in zip((self.name, f"{self.name}_std"), parts, strict=False):
            if part.numel() != 1:
                raise CrossFlowError(f"{self.name} answers {list(part.shape)} numbers; one that answers one is taken.")
            numbers[name] = float(part)
        if lost := [name for name, number in numbers.items() if not math.isfinite(number)]:
            self.protocol = {**self.protocol, "warning": f"{lost[0]} is {numbers[lost[0]]} and left out"}
        return {name: Value(mean=each, n=self._n) for name, each in numbers.items() if math.isfinite(each)}


class OfPairs(_OfTorchmetrics):
    """A metric of outputs and their own originals, the examples' targets. Rows: its value of each pair alone."""

    def update(self, examples: Sequence[Example], outputs: Sequence[Output]) -> list[Row]:
        """Take the outputs. Raises CrossFlowError where an example has no image, or one of another size."""
        rows: list[Row] = []
        for example, output in zip(examples, outputs, strict=True):
            image, target = image_of(output), _target(example, self.name)
            if image.shape != target.shape:
                raise CrossFlowError(
                    f"{example.id}: {self.name} compares images of one size, got {list(image.shape)} and "
                    f"{list(target.shape)}; resize the output."
                )
            with _one_sentence(f"{self.name} at {example.id}"):
                value = self._metric(_tensor(image) / 255, _tensor(target) / 255)
            one = float(value) if value.numel() == 1 else math.nan
            rows.append({self.name: one if math.isfinite(one) else None})
            self._n += 1
        return rows

    def compute(self) -> dict[str, Value]:
        """The value of all pairs, by torchmetrics' own reduction."""
        return self._value()


class OfSets(_OfTorchmetrics):
    """A metric of all outputs and all real images."""

    def update(self, examples: Sequence[Example], outputs: Sequence[Output]) -> None:
        """Take the outputs, and their originals where these are the real images."""
        for example, output in zip(examples, outputs, strict=True):
            image = image_of(output)
            with _one_sentence(f"{self.name} at {example.id}"):
                self._metric.update(_tensor(image), real=False)
                if self._real is None:
                    self._metric.update(_tensor(_target(example, self.name)), real=True)
            self._n += 1

    def compute(self) -> dict[str, Value]:
        """The distance of the two sets."""
        for image in self._real() if self._real is not None else ():
            with _one_sentence(self.name):
                self._metric.update(_tensor(image), real=True)
        return self._value()


def _target(example: Example, name: str) -> np.ndarray:
    """The image that an output is judged against. Raises CrossFlowError where its example has none."""
    if not isinstance(example.target, Path):
        raise CrossFlowError(
            f"{name} needs an original of each output, and {example.id} has none here; `crossflow-eval sr --references "
            "FOLDER` compares with originals of the same names."
        )
    return read_image(example.target)


def _tensor(image: np.ndarray) -> Any:
    """An image as uint8 [1 3 h w]."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]


@contextmanager
def _one_sentence(name: str) -> Iterator[None]:
    """Whatever torchmetrics raises is one sentence; what it warns of stays with it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except CrossFlowError:
        raise
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise CrossFlowError(f"{name}: torchmetrics stopped ({type(error).__name__}: {why}).") from error
