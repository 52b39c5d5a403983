"""From the options of a command to a run: the suite, the model and the folder they name, then the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crossflow.errors import CrossFlowError, unknown
from crossflow.files.devices import own_device
from crossflow_eval import models
from crossflow_eval.judges.features import keep_features
from crossflow_eval.models import Lookup
from crossflow_eval.models.crossflow import CrossFlowModel
from crossflow_eval.models.folder import FolderModel
from crossflow_eval.models.image_model import CrossFlowImageModel
from crossflow_eval.models.predictions import PredictedCaptions
from crossflow_eval.runs import run
from crossflow_eval.runs.store import Store
from crossflow_eval.suites import depth, geneval, load_suite, references, t2i
from crossflow_eval.tables import REFERENCES, ROLES
from crossflow_eval.types import Model, Result, Suite

RUNS = Path("runs")

FIELD_SUITES = {"caption": "coco_karpathy", "depth": "kitti_eigen", "sr": "imagenet_sr"}
"""What a command measures on where no suite is named, but data or outputs that were made elsewhere."""
CHECKPOINTS = (".safetensors", ".pth")
"""How the files of our own and of released checkpoints end."""
SAMPLING = ("--steps", "--guidance-scale", "--precision", "--device")
OPTIONS_OF = {
    "crossflow": (*SAMPLING, "--ckpt", "--solver"),
    "diffusers": (*SAMPLING, "--size"),
    "folder": ("--ckpt",),
}
"""The options that each kind of model takes; another package's model takes none."""
PARTS = ("--text-encoder", "--autoencoder")
"""What our own text-to-image models take besides."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What ``crossflow-eval`` was asked to measure; None means not given.

    Without ``model`` a checkpoint's file is a model of ours, and so is no file at all; what else ``checkpoint`` names
    are outputs made elsewhere. Text to image has our own models alone by default.
    """

    task: Literal["t2i", "caption", "depth", "sr"] = "t2i"
    checkpoint: Path | None = None
    model: str | None = None
    captions: Path | None = None
    data: Path | None = None
    suite: str | None = None
    limit: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    solver: str | None = None
    size: int | None = None
    text_encoder: Path | None = None
    autoencoder: Path | None = None
    precision: str | None = None
    seed: int = 0
    device: str | None = None
    out: Path | None = None

    @property
    def model_name(self) -> str:
        """The model that was asked for."""
        if self.model is not None:
            return self.model
        path = self.checkpoint
        ours = self.task == "t2i" or path is None or (path.suffix.lower() in CHECKPOINTS and not path.is_dir())
        return "crossflow" if ours else "folder"

    @property
    def suite_name(self) -> str:
        """The suite that was asked for; else the embedded one, unless data or outputs made elsewhere are given."""
        if self.suite is not None:
            return self.suite
        if self.captions is not None:
            return "folder"
        elsewhere = self.data is not None or self.model_name == "folder"
        return FIELD_SUITES[self.task] if elsewhere and self.task in FIELD_SUITES else f"scenes-{self.task}"


def evaluate(request: Request, track: run.Track = run.untracked) -> tuple[Result | None, Path]:
    """Run what was asked for; resumes what is there. Returns the result (None on ranks other than 0) and the folder.

    Raises:
        CrossFlowError: options that do not fit together, and all that ``run.run`` raises.
    """
    suite_name = request.suite_name
    root = _data_root(request, suite_name)
    suite = load_suite(suite_name, root)
    if suite.task != request.task:
        raise CrossFlowError(f"The suite {suite_name} is for the task {suite.task}, not {request.task}.")
    model = build_model(request, suite)
    if isinstance(model, FolderModel) and suite_name == "folder":
        suite = t2i.folder(model.images, model.folder)
    known = run.list_examples(suite, root)
    examples = run.first_examples(known, request.limit)
    if isinstance(model, FolderModel | PredictedCaptions):
        model.check(examples, known, suite.outputs_per_example)
    settings = run.make_settings(suite, model, request.seed, request.limit)
    folder = request.out or RUNS / suite.name / f"{model.name}-{settings.digest}"
    result = run.run(suite, model, settings, examples, folder, track=track)
    for role, reference in references(suite.name).items():
        of_reference = run.make_settings(suite, reference, limit=request.limit)
        run.run(suite, reference, of_reference, examples, folder / REFERENCES / role)
    return result, folder


def _data_root(request: Request, suite_name: str) -> Path | None:
    """What the suite's examples are read from. Raises CrossFlowError for an option that it does not take."""
    if request.captions is not None and suite_name != "folder":
        raise CrossFlowError(f"--captions belongs to --suite folder; the suite {suite_name} takes --data, or nothing.")
    if request.data is not None and suite_name == "folder":
        raise CrossFlowError("The suite folder takes its prompts from --captions FILE; leave --data out.")
    return request.data if request.captions is None else request.captions


def build_model(request: Request, suite: Suite) -> Model | Lookup:
    """Build the model that the options name, for ``suite``. Raises CrossFlowError for options that it would not use."""
    name = request.model_name
    kind, colon, rest = name.partition(":")
    if not colon and kind not in (*models.BUILT_IN, *models.other_models()):
        raise unknown("model", name, [*models.BUILT_IN, *models.other_models(), *models.FORMS])
    _refuse_unused(request, OPTIONS_OF.get(kind, ()) + (PARTS if name == "crossflow" and suite.task == "t2i" else ()))
    if name == "crossflow":
        return _own(request, suite)
    if name == "folder":
        return _made_elsewhere(request.checkpoint, suite)
    if kind == "diffusers":
        return _pipeline(request, rest)
    return models.load_model(name)


def _own(request: Request, suite: Suite) -> Model:
    """A checkpoint of ours, for the suite's task."""
    precision, device = request.precision or "auto", request.device or "auto"
    if suite.task == "t2i":
        return CrossFlowModel(
            request.checkpoint,
            solver=request.solver,
            steps=request.steps,
            guidance_scale=request.guidance_scale,
            text_encoder=request.text_encoder,
            autoencoder=request.autoencoder,
            precision=precision,
            device=device,
        )
    return CrossFlowImageModel(
        suite.task,
        request.checkpoint,
        solver=request.solver,
        steps=request.steps,
        guidance_scale=request.guidance_scale,
        precision=precision,
        device=device,
    )


def _made_elsewhere(path: Path | None, suite: Suite) -> FolderModel | PredictedCaptions:
    """The outputs at ``path``, in the form that the suite's task calls for."""
    if path is None:
        what = "the file of captions" if suite.task == "caption" else "the folder that holds the outputs"
        raise CrossFlowError(f"--model folder needs --ckpt, {what}.")
    if suite.task == "caption":
        return PredictedCaptions(path)
    if suite.name in depth.SUITES:
        return depth.DepthFolderModel(path, suite.name)
    return geneval.folder_model(path) if suite.name == geneval.SUITE.name else FolderModel(path)


def _pipeline(request: Request, source: str) -> Model:
    device = own_device(request.device or "auto")
    from crossflow_eval.models.diffusers_pipeline import HOLDS, DiffusersModel

    return DiffusersModel(
        models.pipeline_folder(source, HOLDS),
        Path(source).resolve().name,
        steps=request.steps,
        guidance_scale=request.guidance_scale,
        size=request.size,
        precision=request.precision or "auto",
        device=device,
    )


def _refuse_unused(request: Request, used: Sequence[str]) -> None:
    """Raise CrossFlowError for options that are given but not among the ``used``: none is ignored without a word."""
    options = {
        "--ckpt": request.checkpoint,
        "--steps": request.steps,
        "--guidance-scale": request.guidance_scale,
        "--solver": request.solver,
        "--size": request.size,
        "--text-encoder": request.text_encoder,
        "--autoencoder": request.autoencoder,
        "--precision": request.precision,
        "--device": request.device,
    }
    unused = [name for name, value in options.items() if value is not None and name not in used]
    if unused:
        raise CrossFlowError(f"--model {request.model_name} does not use {', '.join(unused)}; leave it out.")


def score_again(folder: Path, track: run.Track = run.untracked, data: Path | None = None) -> Result:
    """Score the outputs of the run in ``folder`` and of its references anew, without generating.

    ``data`` is the data root, which no run records. Raises CrossFlowError.
    """
    for role in ROLES:
        if (folder / REFERENCES / role).is_dir():
            score_again(folder / REFERENCES / role)
    store = Store(folder)
    settings = store.settings()
    suite = load_suite(settings.suite, data)
    if suite.version != settings.suite_version:
        raise CrossFlowError(
            f"{folder} was made with version {settings.suite_version} of the suite {suite.name}, this is version "
            f"{suite.version}; generate the run again."
        )
    if suite.name == "folder":
        suite = dataclasses.replace(suite, examples=lambda _: store.examples())
    examples = run.list_examples(suite, data)[: settings.limit]
    with store.locked():
        store.open(settings, examples)
        metrics = run.make_metrics(suite)
        keep_features(metrics.values(), folder / "features", 0)
        return run.score(suite, settings, examples, store, metrics, again=True, track=track)
