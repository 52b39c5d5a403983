"""An ablation from end to end: train, choose the guidance scale on the validation suite, run the test suite once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from crossflow_eval import run
from crossflow_eval.ablate.plan import Part, Plan
from crossflow_eval.ablate.train import cpu_seconds, train_all
from crossflow_eval.models import CrossFlowModel, Lookup, Training, finished_training
from crossflow_eval.suites import load_suite, scenes
from crossflow_eval.tables import Ablation
from crossflow_eval.types import Model, Result, SetupError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A part with its training, the validation results by guidance scale, the scale chosen, and the test's result.

    ``cpu_seconds`` is None where the training's whole time was not recorded.
    """

    part: Part
    training: Training
    validation: Mapping[float, Result]
    scale: float
    test: Result
    cpu_seconds: float | None


def ablate(plan: Plan, *, jobs: int = 1, track: run.Track = run.untracked) -> tuple[list[Measured], dict[str, Result]]:
    """Train what is not trained yet, ``jobs`` at a time, then measure everything; resumes what is there.

    Returns every part measured and the results of chance and ceiling by role. Raises SetupError.
    """
    if run.rank_and_world()[1] != 1:
        raise SetupError("An ablation runs in one process: start it without torchrun, or unset WORLD_SIZE.")
    if jobs < 1:
        raise SetupError(f"--jobs must be at least 1, got {jobs}.")
    for name, limit in ((plan.ablation.validation, plan.ablation.validation_limit), (plan.ablation.test, plan.limit)):
        _ready(name, limit)
    train_all(plan, jobs)
    measured = [_measure(plan, part, track) for part in plan.parts]
    references: dict[str, Result] = {}
    for role, reference in scenes.references(plan.ablation.test).items():
        where = plan.out / "references" / role
        references[role] = _run(plan.ablation.test, reference, plan.limit, where, track)
    return measured, references


def _ready(suite_name: str, limit: int | None) -> None:
    """Let what a suite lacks be known before hours of training. Raises SetupError."""
    suite = load_suite(suite_name)
    run.first_examples(run.list_examples(suite, None), limit)
    for make in suite.metrics.values():
        make()


def _measure(plan: Plan, part: Part, track: run.Track) -> Measured:
    """Choose the guidance scale on the validation suite, then run the test suite once."""
    training = finished_training(part.checkpoint, part.recipe, part.seed, plan.steps)
    if training is None:
        raise SetupError(f"{part.checkpoint} is not there or not finished; run the same command again.")
    ablation = plan.ablation
    logger.info("measuring %s", part.title)

    def at(scale: float, suite: str, limit: int | None) -> Result:
        model = CrossFlowModel(part.checkpoint, guidance_scale=scale)
        return _run(suite, model, limit, part.folder / suite / f"scale-{scale:g}", track)

    validation = {s: at(s, ablation.validation, ablation.validation_limit) for s in ablation.guidance_scales}
    scale = choose_scale(validation, ablation)
    return Measured(
        part=part,
        training=training,
        validation=validation,
        scale=scale,
        test=at(scale, ablation.test, plan.limit),
        cpu_seconds=cpu_seconds(part.folder),
    )


def choose_scale(validation: Mapping[float, Result], ablation: Ablation) -> float:
    """The guidance scale whose result is best by ``ablation.choose``; of equals the smallest.

    Raises:
        SetupError: a result of another suite than the one for validation, or without the value to choose by.
    """
    for result in validation.values():
        if result.settings.suite != ablation.validation:
            raise SetupError(f"Guidance is chosen on {ablation.validation} alone, not on {result.settings.suite}.")
        if ablation.choose not in result.values:
            raise SetupError(f"A run of {result.n} outputs gives no {ablation.choose}; raise validation_limit.")
    sign = {scale: 1 if result.higher_is_better[ablation.choose] else -1 for scale, result in validation.items()}
    return max(sorted(validation), key=lambda scale: sign[scale] * validation[scale].values[ablation.choose].mean)


def _run(suite_name: str, model: Model | Lookup, limit: int | None, where: Path, track: run.Track) -> Result:
    """One run in ``<where>-<digest>``."""
    suite = load_suite(suite_name)
    examples = run.first_examples(run.list_examples(suite, None), limit)
    settings = run.make_settings(suite, model, limit=limit)
    folder = where.with_name(f"{where.name}-{settings.digest}")
    result = run.run(suite, model, settings, examples, folder, track=track)
    if result is None:
        raise SetupError(f"The run {folder} gave no result.")
    return result
