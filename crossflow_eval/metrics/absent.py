"""What stands in a metric's place where it cannot be measured: it gives no value, and says why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crossflow_eval.judges.weights import EvaluatorWeights
from crossflow_eval.types import Example, Output, Value


class Absent:
    """No values; the protocol holds under ``absent`` why, and reports print it as a warning."""

    higher_is_better: Mapping[str, bool] = {}

    def __init__(self, why: str) -> None:
        self.protocol: Mapping[str, Any] = {"absent": why, "warning": f"not measured: {why}"}

    @staticmethod
    def of(weights: EvaluatorWeights) -> Absent:
        """In the place of a metric whose ``weights`` are not here."""
        return Absent(
            f"{weights.metric} needs {weights.need}; `crossflow-eval weights fetch {weights.file}` fetches it"
        )

    def update(self, examples: Sequence[Example], outputs: Sequence[Output]) -> None:
        """Outputs are not looked at."""

    def compute(self) -> dict[str, Value]:
        """Nothing."""
        return {}
