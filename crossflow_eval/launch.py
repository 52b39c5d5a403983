"""From the options of a command to a run: the suite, the model and the folder they name, then the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from crossflow_eval import report, run
from crossflow_eval.models import BUILT_IN, CrossFlowModel, FolderModel, load_model, other_models
from crossflow_eval.names import unknown
from crossflow_eval.store import Store
from crossflow_eval.suites import load_suite, scenes, t2i
from crossflow_eval.types import Model, Result, SetupError

RUNS = Path("runs")
REFERENCES = "references"
ROLES: tuple[Literal["chance", "ceiling"], ...] = ("chance", "ceiling")
"""A run of the embedded world keeps the runs of its references in ``references/<role>``."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What ``crossflow-eval t2i`` was asked for; None means not given."""

    checkpoint: Path | None = None
    model: str = "crossflow"
    captions: Path | None = None
    suite: str | None = None
    limit: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    solver: str | None = None
    seed: int = 0
    device: str | None = None
    out: Path | None = None


def evaluate(request: Request, track: run.Track = run.untracked) -> tuple[Result | None, Path]:
    """Run what was asked for; resumes what is there. Returns the result (None on ranks other than 0) and the folder.

    Raises:
        SetupError: options that do not fit together, and all that ``run.run`` raises.
    """
    suite_name = request.suite or ("folder" if request.captions is not None else "scenes-t2i")
    suite = load_suite(suite_name)
    if suite.task != "t2i":
        raise SetupError(f"The suite {suite_name} is for the task {suite.task}, not t2i.")
    model = build_model(request)
    if isinstance(model, FolderModel) and suite_name == "folder":
        suite = t2i.folder(model.images, model.folder)
    known = run.list_examples(suite, request.captions)
    examples = run.first_examples(known, request.limit)
    if isinstance(model, FolderModel):
        model.check(examples, known, suite.outputs_per_example)
    settings = run.make_settings(suite, model, request.seed, request.limit)
    folder = request.out or RUNS / suite.name / f"{model.name}-{settings.digest}"
    result = run.run(suite, model, settings, examples, folder, track=track)
    for role, reference in scenes.references(suite.name).items():
        of_reference = run.make_settings(suite, reference, limit=request.limit)
        run.run(suite, reference, of_reference, examples, folder / REFERENCES / role)
    return result, folder


def build_model(request: Request) -> Model | FolderModel:
    """Build the model that the options name. Raises SetupError for options it would not listen to."""
    sampling = {
        "--steps": request.steps,
        "--guidance-scale": request.guidance_scale,
        "--solver": request.solver,
        "--device": request.device,
    }
    if request.model == "crossflow":
        return CrossFlowModel(
            request.checkpoint,
            solver=request.solver,
            steps=request.steps,
            guidance_scale=request.guidance_scale,
            device=request.device or "auto",
        )
    if ":" not in request.model and request.model not in (*BUILT_IN, *other_models()):
        raise unknown("model", request.model, [*BUILT_IN, *other_models(), "package.module:factory"])
    if request.model == "folder":
        _refuse(request.model, sampling)
        if request.checkpoint is None:
            raise SetupError("--model folder needs --ckpt DIR, the folder that holds the images.")
        return FolderModel(request.checkpoint)
    _refuse(request.model, sampling | {"--ckpt": request.checkpoint})
    return load_model(request.model)


def _refuse(model: str, options: Mapping[str, Any]) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise SetupError(f"--model {model} does not listen to {', '.join(given)}; leave it out.")


def score_again(folder: Path, track: run.Track = run.untracked) -> Result:
    """Score the outputs of the run in ``folder`` and of its references anew, without generating. Raises SetupError."""
    for role in ROLES:
        if (folder / REFERENCES / role).is_dir():
            score_again(folder / REFERENCES / role)
    store = Store(folder)
    settings = store.settings()
    suite = load_suite(settings.suite)
    if suite.version != settings.suite_version:
        raise SetupError(
            f"{folder} was made with version {settings.suite_version} of the suite {suite.name}, this is version "
            f"{suite.version}; generate the run again."
        )
    if suite.name == "folder":
        suite = dataclasses.replace(suite, examples=lambda _: store.examples())
    examples = run.list_examples(suite, None)[: settings.limit]
    with store.locked():
        store.open(settings, examples)
        return run.score(suite, settings, examples, store, run.make_metrics(suite), again=True, track=track)


def entries(folders: Sequence[Path]) -> list[report.Entry]:
    """What a report of the runs in ``folders`` is made of: their references, each once, then the runs themselves."""
    found: dict[str, report.Entry] = {}
    for folder in folders:
        for role in ROLES:
            if (folder / REFERENCES / role).is_dir():
                entry = report.load(folder / REFERENCES / role, role=role)
                found.setdefault(entry.result.settings.digest, entry)
    return [*found.values(), *map(report.load, folders)]


def write_page(folder: Path) -> Path:
    """Write the HTML report of the run in ``folder`` beside its result, and return its path. Raises SetupError."""
    Store(folder).write("report.html", report.render(entries([folder]), "html").encode())
    return folder / "report.html"
