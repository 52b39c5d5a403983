"""An ablation from end to end: train, choose guidance on the validation suite where there is any, test once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from crossflow.errors import CrossFlowError
from crossflow.files.processes import rank_and_world
from crossflow_eval.ablate.plan import Part, Plan
from crossflow_eval.ablate.train import cpu_seconds, train_all
from crossflow_eval.models import OURS
from crossflow_eval.models.crossflow import Training, finished_training
from crossflow_eval.runs import run
from crossflow_eval.suites import load_suite
from crossflow_eval.tables import Guidance
from crossflow_eval.types import Lookup, Model, Result, Role, Suite

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A part with its training, the validation results by guidance scale, the scale chosen, and the test's result.

    ``validation`` is empty, and ``scale`` 1, where nothing was to be chosen. ``cpu_seconds`` is None where the whole
    time of the training was not recorded.
    """

    part: Part
    training: Training
    validation: Mapping[float, Result]
    scale: float
    test: Result
    cpu_seconds: float | None


def ablate(plan: Plan, *, jobs: int = 1, track: run.Track = run.untracked) -> tuple[list[Measured], dict[Role, Result]]:
    """Train what is not trained yet, ``jobs`` at a time, then measure everything; resumes what is there.

    Returns every part measured, and the results of the test suite's references by role. Raises CrossFlowError.
    """
    if rank_and_world()[1] != 1:
        raise CrossFlowError("An ablation runs in one process: start it without torchrun, or unset WORLD_SIZE.")
    if jobs < 1:
        raise CrossFlowError(f"--jobs must be at least 1, got {jobs}.")
    if plan.ablation.guidance is not None:
        _ready(plan.ablation.guidance.validation, plan.ablation.guidance.limit)
    _ready(plan.ablation.test, plan.limit)
    train_all(plan, jobs)
    measured = [_measure(plan, part, track) for part in plan.parts]
    references: dict[Role, Result] = {}
    suite = load_suite(plan.ablation.test)
    for role, reference in suite.references.items():
        references[role] = _run(suite, reference, plan.limit, plan.out / "references" / role, track)
    return measured, references


def _ready(suite_name: str, limit: int | None) -> None:
    """Let what a suite lacks be known before hours of training. Raises CrossFlowError."""
    suite = load_suite(suite_name)
    run.first_examples(run.list_examples(suite, None), limit)
    for make in suite.metrics.values():
        make()


def _measure(plan: Plan, part: Part, track: run.Track) -> Measured:
    """Choose the guidance scale on the validation suite, if any is to be chosen, then run the test suite once."""
    training = finished_training(part.checkpoint, part.recipe, part.seed, plan.steps)
    if training is None:
        raise CrossFlowError(f"{part.checkpoint} is not there or not finished; run the same command again.")
    logger.info("measuring %s", part.title)

    def at(scale: float, name: str, limit: int | None) -> Result:
        suite = load_suite(name)
        model = OURS[suite.task](part.checkpoint, guidance_scale=scale)
        return _run(suite, model, limit, part.folder / name / f"scale-{scale:g}", track)

    validation: dict[float, Result] = {}
    scale = 1.0
    if (guidance := plan.ablation.guidance) is not None:
        validation = {each: at(each, guidance.validation, guidance.limit) for each in guidance.scales}
        scale = choose_scale(validation, guidance)
    return Measured(
        part=part,
        training=training,
        validation=validation,
        scale=scale,
        test=at(scale, plan.ablation.test, plan.limit),
        cpu_seconds=cpu_seconds(part.folder),
    )


def choose_scale(validation: Mapping[float, Result], guidance: Guidance) -> float:
    """The guidance scale whose result is best by ``guidance.choose``; of equals the smallest.

    Raises:
        CrossFlowError: a result of another suite than the one for validation, or without the value to choose by.
    """
    for result in validation.values():
        if result.settings.suite != guidance.validation:
            raise CrossFlowError(f"Guidance is chosen on {guidance.validation} alone, not on {result.settings.suite}.")
        if guidance.choose not in result.values:
            raise CrossFlowError(f"A run of {result.n} outputs gives no {guidance.choose}; raise its limit.")
    sign = {scale: 1 if result.higher_is_better[guidance.choose] else -1 for scale, result in validation.items()}
    return max(sorted(validation), key=lambda scale: sign[scale] * validation[scale].values[guidance.choose].mean)


def _run(suite: Suite, model: Model | Lookup, limit: int | None, where: Path, track: run.Track) -> Result:
    """One run in ``<where>-<digest>``."""
    examples = run.first_examples(run.list_examples(suite, None), limit)
    settings = run.make_settings(suite, model, limit=limit)
    folder = where.with_name(f"{where.name}-{settings.digest}")
    result = run.run(suite, model, settings, examples, folder, track=track)
    if result is None:
        raise CrossFlowError(f"The run {folder} gave no result.")
    return result
