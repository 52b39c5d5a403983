"""The embedded text-to-image suites: prompts of ``crossflow.scenes`` in GenEval's six task forms, judged exactly.

Nothing is downloaded: the reader is exact and the two judges (feature CNN, dual encoder) are shipped. Their numbers
belong to this world; they stand beside its chance level and its ceiling, never beside published ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crossflow_eval.types import Example, Metric, SetupError, Suite

VERSION = "1"
PROMPTS = 1000


def test() -> Suite:
    """1,000 test prompts; shapes and colours in pairs that training has seen."""
    return _suite("scenes-t2i", "test")


def test_heldout() -> Suite:
    """1,000 prompts that each name at least one pair of shape and colour held out from training."""
    return _suite("scenes-t2i-heldout", "test_heldout")


def val() -> Suite:
    """1,000 validation prompts: for choosing guidance, steps and checkpoints, never for reporting."""
    return _suite("scenes-t2i-val", "val")


def _suite(name: str, split: str) -> Suite:
    def examples(root: Path | None) -> Sequence[Example]:
        if root is not None:
            raise SetupError(
                f"The suite {name} is embedded and reads no captions; --captions belongs to --suite folder."
            )
        from crossflow.scenes import VERSION as WORLD
        from crossflow.scenes import example

        drawn = [example(split, index) for index in range(PROMPTS)]
        tags = {"world": str(WORLD), "split": split}
        return [
            Example(id=each.id, source=each.prompt, target=each.specification, tags=tags | {"task": each.task})
            for each in drawn
        ]

    return Suite(
        name=name,
        version=VERSION,
        task="t2i",
        output="png",
        examples=examples,
        metrics={"geneval": _geneval, "fid": lambda: _fid(split), "clip_score": _clip_score},
    )


def _geneval() -> Metric:
    from crossflow_eval.metrics.scenes import SceneGenEval

    return SceneGenEval()


def _fid(split: str) -> Metric:
    from crossflow_eval.metrics.scenes import SceneFID

    return SceneFID(split)


def _clip_score() -> Metric:
    from crossflow_eval.metrics.scenes import SceneCLIPScore

    return SceneCLIPScore()
