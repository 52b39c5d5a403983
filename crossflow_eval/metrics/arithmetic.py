"""Latent arithmetic, the paper's Table 8: does the sum show what was added, lose what was subtracted, keep the rest?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow_eval.metrics.distances import image_of
from crossflow_eval.metrics.geneval import judge
from crossflow_eval.metrics.scenes import Found, detections, shown
from crossflow_eval.stats import BOOTSTRAP, UNIT, WITHIN_BOUNDS, bootstrap_mean, single_strata, stratified_mean
from crossflow_eval.types import Example, Output, Row, Value

KINDS = ("add", "subtract", "combination")
CONTROLS = ("control_none", "control_wrong")
NAMES = {kind: f"arithmetic/{kind}" for kind in (*KINDS, *CONTROLS)}


class SceneArithmetic:
    """The share of sums whose image is right, of those whose base prompt alone draws its objects.

    An output is two images side by side, uint8 [h 2w 3]: of the base and of the sum. An example's target has the
    ``kind`` and two GenEval specifications, ``base`` and ``edited``; the latter includes what was added and every
    object of the base that has to survive, and excludes what was subtracted. ``read`` finds the objects of an image.

    Values: ``arithmetic/<kind>``, where such outputs are; ``arithmetic``, the unweighted mean of ``KINDS``, where all
    three are; and ``base_drawn``, the share of all outputs whose base drew its objects. Rows: kind, base_drawn, whether
    the sum is ``correct``, the reason where not, detections in the sum's image.
    """

    higher_is_better: Mapping[str, bool] = {
        "arithmetic": True,
        **{name: kind in KINDS for kind, name in NAMES.items()},
        "base_drawn": True,
    }

    def __init__(self, read: Callable[[np.ndarray], Sequence[Found]], *, reader: str = "exact") -> None:
        self._read = read
        self.protocol: Mapping[str, Any] = {
            "rules": "GenEval, on the sum's image; other objects of the base must be there too",
            "counted": "sums whose base prompt alone draws its objects",
            "reader": reader,
            "interval": f"{WITHIN_BOUNDS}; base_drawn: {BOOTSTRAP}",
        }
        self._right: dict[str, list[float]] = defaultdict(list)
        self._drawn: list[float] = []

    def update(self, examples: Sequence[Example], outputs: Sequence[Output]) -> list[Row]:
        """Judge the outputs. Raises CrossFlowError for one that is not twice as wide as high."""
        return [self._judge(example, image_of(output)) for example, output in zip(examples, outputs, strict=True)]

    def _judge(self, example: Example, pair: np.ndarray) -> Row:
        side, width = pair.shape[:2]
        if width != 2 * side:
            raise CrossFlowError(
                f"{example.id} is {width} x {side} pixels; give two square images, of the base and of the sum, "
                "side by side."
            )
        before, after = (detections(self._read(image)) for image in (pair[:, :side], pair[:, side:]))
        base, edited = judge(before, example.target["base"]), judge(after, example.target["edited"])
        kind = example.target["kind"]
        self._drawn.append(float(base.correct))
        if base.correct:
            self._right[kind].append(float(edited.correct))
        return {
            "kind": kind,
            "base_drawn": base.correct,
            "correct": base.correct and edited.correct,
            "reason": edited.reason if base.correct else f"the base alone: {base.reason}",
            "detections": shown(after),
        }

    def compute(self) -> dict[str, Value]:
        """The shares, and the mean of the three kinds."""
        kinds = {kind: self._right[kind] for kind in KINDS if self._right[kind]}
        if warning := single_strata({kind: len(right) for kind, right in kinds.items()}):
            self.protocol = {**self.protocol, "warning": warning}
        values = {"arithmetic": stratified_mean(kinds, bounds=UNIT)} if len(kinds) == len(KINDS) else {}
        for kind, name in NAMES.items():
            if self._right[kind]:
                values[name] = stratified_mean({kind: self._right[kind]}, bounds=UNIT)
        return values | {"base_drawn": bootstrap_mean(self._drawn)}
