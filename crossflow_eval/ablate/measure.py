"""A row with one seed, measured: everything is chosen on the validation suite, then the test suite is run once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from crossflow.errors import CrossFlowError
from crossflow.files.locks import only_writer
from crossflow.files.writing import write_whole, written
from crossflow_eval.ablate.plan import READER, Measurement, Plan, Training
from crossflow_eval.models.crossflow import Trained
from crossflow_eval.records import RESULT, part, parts, read_record
from crossflow_eval.request import Request
from crossflow_eval.runs import run
from crossflow_eval.runs.launch import build_model
from crossflow_eval.runs.store import Examples, place
from crossflow_eval.suites import load_suite
from crossflow_eval.types import Lookup, Model, Result, Role, Suite, Value


class Candidate(BaseModel):
    """What is chosen: a recipe, the share of the steps of autoguidance's weaker model if any, a guidance scale."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    recipe: str
    weaker: float | None = None
    guidance_scale: float | None = None


class Tried(BaseModel):
    """A candidate and its value on validation."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    candidate: Candidate
    value: Value


class Measured(BaseModel):
    """The record of a measurement: what was tried on validation, what was chosen, and the result of the test."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    digest: str
    tried: tuple[Tried, ...]
    chosen: Candidate
    training: Trained
    run: str
    test: Result


def measured_path(out: Path, measurement: Measurement) -> Path:
    """The file of the record, in the folder that the measurement alone writes."""
    return out / "measured" / measurement.digest / "measured.json"


def measured(out: Path, measurement: Measurement) -> Measured | None:
    """The record of a measurement, None where there is none yet. CrossFlowError for one that is not this one's."""
    path = measured_path(out, measurement)
    found = read_record(Measured, path, "a measurement", "remove its folder")
    if found is None:
        return None
    version = load_suite(measurement.test).version
    if found.digest != measurement.digest or found.test.settings.suite_version != version:
        raise CrossFlowError(
            f"{path} is of another measurement, or of version {found.test.settings.suite_version} of the suite "
            f"{measurement.test} in place of {version}; remove its folder: it is measured again."
        )
    return found


@dataclass(frozen=True)
class _At:
    """Where and how the candidates of a measurement are run."""

    plan: Plan
    measurement: Measurement
    track: run.Track

    def result(
        self, training: Training, candidate: Candidate, suite_name: str, limit: int | None
    ) -> tuple[Result, Path]:
        """The result of one run, with its folder. CrossFlowError where it lacks the value that all is judged by."""
        suite = load_suite(suite_name, self.plan.test_data)
        folder = self.plan.out / training.digest
        weaker = None if candidate.weaker is None else training.checkpoint(self.plan.out, candidate.weaker)
        options: dict[str, Any] = {} if weaker is None else {"weaker": weaker}
        options |= {"reader": folder / READER} if self.measurement.reader else {}
        options |= dict(self.measurement.sampled)
        request = Request(
            task=suite.task,
            checkpoint=training.checkpoint(self.plan.out, self.measurement.at),
            model="crossflow",
            suite=suite_name,
            guidance_scale=candidate.guidance_scale,
            **options,
        )
        model, where = build_model(request, suite), folder / suite_name
        result, run_folder = _run(suite, model, limit, where, self.plan.test_data, self.track)
        if (by := self.measurement.choose) not in result.values:
            raise CrossFlowError(f"A run of {result.n} outputs of {suite_name} gives no {by}; raise its limit.")
        return result, run_folder


def measure(plan: Plan, measurement: Measurement, track: run.Track = run.untracked) -> Measured:
    """Choose among the candidates on validation, run the test suite once, and write the record; resumes what is there.

    Raises CrossFlowError for a training that is not finished, and all that a run raises.
    """
    path = measured_path(plan.out, measurement)
    with written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with only_writer(path.parent, "measuring"):
        if (found := measured(plan.out, measurement)) is not None:
            return found
        at = _At(plan, measurement, track)
        trainings = {training.recipe: training for training in measurement.trainings}
        candidates = [
            Candidate(recipe=recipe, weaker=weaker, guidance_scale=scale)
            for recipe in trainings
            for weaker in measurement.weaker or (None,)
            for scale in measurement.scales
        ]
        tried: dict[Candidate, Result] = {}
        if (validation := measurement.validation) is not None:
            for each in candidates:
                tried[each] = at.result(trainings[each.recipe], each, validation, measurement.validation_limit)[0]
        chosen = choose(tried, measurement) if tried else candidates[0]
        training = trainings[chosen.recipe]
        facts = training.finished(plan.out)
        if facts is None:
            raise CrossFlowError(f"The {training.title} is not trained to its end; run the same command again.")
        test, folder = at.result(training, chosen, measurement.test, measurement.limit)
        value = measurement.choose
        record = Measured(
            digest=measurement.digest,
            tried=tuple(Tried(candidate=each, value=result.values[value]) for each, result in tried.items()),
            chosen=chosen,
            training=facts
            if measurement.at == 1
            else facts.model_copy(update={"steps": training.step(measurement.at)}),
            run=folder.relative_to(plan.out).as_posix(),
            test=test,
        )
        write_whole(path, (record.model_dump_json(indent=2) + "\n").encode())
        return record


def choose(tried: Mapping[Candidate, Result], measurement: Measurement) -> Candidate:
    """The candidate whose result is best by ``measurement.choose``; of equals the first with the smallest scale.

    Raises CrossFlowError for a result of another suite than the one for validation.
    """
    by = measurement.choose
    for result in tried.values():
        if result.settings.suite != measurement.validation:
            raise CrossFlowError(f"All is chosen on {measurement.validation} alone, not on {result.settings.suite}.")
    sign = {each: 1 if result.higher_is_better[by] else -1 for each, result in tried.items()}
    smallest_first = sorted(tried, key=lambda each: each.guidance_scale or 0.0)
    return max(smallest_first, key=lambda each: sign[each] * tried[each].values[by].mean)


def references(plan: Plan, suite_name: str, limit: int | None) -> dict[Role, Result] | None:
    """The results of what the runs of a suite stand between; None where one is still to be made."""
    suite = load_suite(suite_name, plan.test_data)
    found: dict[Role, Result] = {}
    for role, reference in suite.references.items():
        settings = run.make_settings(suite, reference, limit=limit)
        home = place(plan.out / "references" / suite_name, role, settings)
        made = (read_record(Result, each / RESULT, "a result", "remove its folder") for each in (home, *parts(home)))
        result = next((each for each in made if each is not None and each.settings == settings), None)
        if result is None:
            return None
        found[role] = result
    return found


def make_references(plan: Plan, suite_name: str, limit: int | None, track: run.Track = run.untracked) -> None:
    """Run what the runs of a suite stand between; resumes what is there."""
    suite = load_suite(suite_name, plan.test_data)
    folder = plan.out / "references" / suite_name
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder, "measuring"):
        for role, reference in suite.references.items():
            _run(suite, reference, limit, folder, plan.test_data, track, role)


def _run(
    suite: Suite,
    model: Model | Lookup,
    limit: int | None,
    where: Path,
    root: Path | None,
    track: run.Track,
    name: str | None = None,
) -> tuple[Result, Path]:
    """One run in ``WHERE/NAME-<digest>/n-<examples>``, and that folder."""
    suite = suite if suite.fitted is None else suite.fitted(model)
    examples = Examples(run.first_examples(run.list_examples(suite, root), limit))
    settings = run.make_settings(suite, model, limit=limit)
    home = place(where, name or model.name, settings)
    result = run.run(suite, model, settings, examples, home, track=track)
    if result is None:
        raise CrossFlowError(f"The run {home} gave no result: an ablation runs without torchrun.")
    return result, part(home, len(examples))
