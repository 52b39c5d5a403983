"""From the options of a command to a run: the suite, the model and the folder they name."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from crossflow.errors import CrossFlowError, Stopped, unknown
from crossflow.files.devices import auto_device, own_device
from crossflow.files.processes import workers
from crossflow.files.seeds import check_seed
from crossflow_eval import models, records
from crossflow_eval.judges.features import keep_features
from crossflow_eval.metrics import of_torchmetrics
from crossflow_eval.request import Request
from crossflow_eval.runs import run
from crossflow_eval.runs.store import Examples, Store, adopt, place
from crossflow_eval.suites import depth, load_suite
from crossflow_eval.tables import REFERENCES
from crossflow_eval.types import Lookup, Model, Result, Settings, Suite

__all__ = ["Request", "build_model", "evaluate", "score_again"]

RUNS = Path("runs")
_logger = logging.getLogger(__name__)


def evaluate(request: Request, track: run.Track = run.untracked) -> tuple[Result | None, Path]:
    """Run what was asked for; resumes what is there. Returns the result (None on ranks other than 0) and its folder.

    Raises:
        CrossFlowError: options that do not fit together, and all that ``run.run`` raises.
        Stopped: Ctrl-C, with what is kept.
    """
    with workers(request.workers), auto_device(request.device):
        return _evaluate(request, track)


def _evaluate(request: Request, track: run.Track) -> tuple[Result | None, Path]:
    run.rank_and_world()  # first, so that a launch that cannot be costs no work
    check_seed(request.seed)
    if request.shuffle_seed is not None and request.limit is None:
        raise CrossFlowError("--shuffle-seed draws the examples of a part: give --limit too, or leave it out.")
    _check_batch_size(request)
    root = request.own_references or request.captions or request.data
    name = request.suite_name if request.space is None else depth.in_space(request.suite_name, request.space)
    suite = load_suite(name, root)
    _check_root(request, suite)
    if suite.captioned is not None and request.captions is not None:
        suite = suite.captioned(request.captions)
    if suite.task != request.task:
        raise CrossFlowError(f"The suite {suite.name} is for the task {suite.task}, not {request.task}.")
    model = build_model(request, suite)
    if suite.fitted is not None:
        suite = suite.fitted(model)
    suite = with_metrics(suite, of_torchmetrics.asked(request.also or ""))
    suite = suite.of(None if request.ids is None else run.read_ids(request.ids))
    known = run.list_examples(suite, root)
    chosen = known if request.ids is None else run.listed_examples(known, request.ids)
    if request.shuffle_seed is not None:
        chosen = run.shuffled_examples(chosen, request.shuffle_seed)
    examples = Examples(run.first_examples(chosen, request.limit))
    run.check_whole(suite, model, examples, known)
    limit = request.limit if len(examples) < len(chosen) else None
    shuffle = request.shuffle_seed
    settings = run.make_settings(suite, model, request.seed, limit, shuffle_seed=shuffle, name=_name(request))
    called = settings.model.encode()[: records.LONGEST].decode(errors="ignore")
    own = f"-{Examples(chosen).sha256[:8]}" if suite.root == "references" or request.ids is not None else ""
    home = request.out or place(RUNS / suite.name, called, settings, own)
    outputs = len(examples) * suite.outputs_per_example
    beside = f", between its references ({', '.join(suite.references)})" if suite.references else ""
    _logger.info(
        "%s: %s of %s on the suite %s%s, by %s",
        home, f"{outputs:,} outputs", settings.model, suite.name, beside, ", ".join(suite.metrics),
    )  # fmt: skip
    following = chosen[len(examples) :]
    try:
        result = run.run(
            suite, model, settings, examples, home,
            following=following, fresh=request.fresh, track=track, at_a_time=request.batch_size,
        )  # fmt: skip
        for role, reference in suite.references.items():
            of_reference = run.make_settings(suite, reference, limit=limit, shuffle_seed=shuffle)
            named = run.tracked_as(role, track)
            run.run(suite, reference, of_reference, examples, home / REFERENCES / role, track=named)
    except KeyboardInterrupt as error:
        made = _made(records.part(home, len(examples)))
        raise Stopped(f"{made:,} of {outputs:,} outputs are kept in {home / records.OUTPUTS}.") from error
    return result, records.part(home, len(examples))


def _made(folder: Path) -> int:
    """How many of a run's own outputs are there; those that are made together are one."""
    return len(records.read_outputs_so_far(folder)[0]) if (folder / records.EXAMPLES).is_file() else 0


def with_metrics(suite: Suite, names: Iterable[str]) -> Suite:
    """The suite with further metrics, each called ``torchmetrics:NAME``."""
    more = {name: partial(of_torchmetrics.load, name, suite.real) for name in names}
    return dataclasses.replace(suite, metrics={**suite.metrics, **more}) if more else suite


def _added(store: Store) -> list[str]:
    """The metrics of a run that its suite has not; none where the result cannot be read."""
    try:
        result = store.result()
    except CrossFlowError:  # damaged: it is about to be made anew, or refused
        return []
    return [name for name in (result.protocol if result else {}) if name.startswith(of_torchmetrics.PREFIX)]


def _name(request: Request) -> str | None:
    """What the model is to be called. Raises CrossFlowError for a name that no folder can have."""
    if request.name is not None and not records.is_file_name(request.name):
        raise CrossFlowError(f"--name {request.name!r} names no folder: leave out slashes, and a dot in front.")
    return request.name


def _check_batch_size(request: Request) -> None:
    """Raise CrossFlowError for a batch of nothing, and one of outputs that are there."""
    if request.batch_size is not None and request.batch_size < 1:
        raise CrossFlowError(f"--batch-size must be at least 1, got {request.batch_size}.")
    if request.batch_size is not None and request.model_name == "folder":
        raise CrossFlowError("--model folder does not use --batch-size; leave it out.")


def _check_root(request: Request, suite: Suite) -> None:
    """Raise CrossFlowError for a data root by another option than the suite takes it by."""
    if request.own_references is not None and suite.root != "references":
        raise CrossFlowError(f"The suite {suite.name} has references of its own; leave --references out.")
    if suite.root == "references":
        if request.own_references is None:
            raise CrossFlowError(f"The suite {suite.name} takes --references.")
        if request.captions is not None and suite.captioned is None:
            raise CrossFlowError(f"The suite {suite.name} takes no --captions beside --references; leave it out.")
        if request.data not in (None, request.own_references):
            raise CrossFlowError(f"The suite {suite.name} takes --references; leave --data out.")
        return
    if request.captions is not None and suite.root != "captions":
        raise CrossFlowError(
            f"--captions belongs to --suite {Request(captions=request.captions).suite_name}; "
            f"the suite {suite.name} takes --data, or nothing."
        )
    if request.data is not None and suite.root != "data":
        raise CrossFlowError(f"The suite {suite.name} takes its prompts from --captions FILE; leave --data out.")


def build_model(request: Request, suite: Suite) -> Model | Lookup:
    """Build the model that the options name, for ``suite``. Raises CrossFlowError for options that it would not use."""
    name = request.model_name
    kind, colon, rest = name.partition(":")
    known = [*models.BUILT_IN, *models.other_models()]
    if not colon and name not in known:
        raise unknown("model", name, [*known, *models.FORMS])
    build = _BUILT_IN.get(kind + colon)
    if unused := request.unused(kind if build is not None else name):
        raise CrossFlowError(f"--model {name} does not use {', '.join(unused)}; leave it out.")
    return models.load_model(name) if build is None else build(request, suite, rest)


def _own(request: Request, suite: Suite, _: str) -> Model:
    """A checkpoint of ours, for the suite's task."""
    if suite.task not in models.OURS:
        raise unknown("task of a model of ours", suite.task, models.OURS)
    fitted: dict[str, Any] = {}
    if suite.task in models.ANY_SIZE and not suite.one_size:
        fitted = {"any_size": True} | ({"of_originals": suite.root == "references"} if suite.task == "sr" else {})
    if suite.unit:
        fitted["unit"] = suite.unit
    return models.OURS[suite.task](request.checkpoint, **request.of_model, **fitted)


def _made_elsewhere(request: Request, suite: Suite, _: str) -> Lookup:
    """Outputs made elsewhere, in the form that the suite calls for."""
    kind = suite.output if isinstance(suite.output, str) else ""
    form, read = models.READERS.get(kind, ("the folder that holds the outputs", None))
    read = suite.made_elsewhere or read
    if read is None:
        raise CrossFlowError(f"The suite {suite.name} reads no outputs made elsewhere; give another --model.")
    if request.checkpoint is None:
        raise CrossFlowError(f"--model folder needs --ckpt, {form}.")
    return read(request.checkpoint)


def _pipeline(request: Request, suite: Suite, source: str) -> Model:
    from crossflow_eval.models.diffusers_pipeline import HOLDS, DiffusersModel

    options: dict[str, Any] = {**request.of_model, "batch_size": request.batch_size or 1, "device": own_device("auto")}
    return DiffusersModel(models.pipeline_folder(source, HOLDS), Path(source).resolve().name, **options)


_BUILT_IN: dict[str, Callable[[Request, Suite, str], Model | Lookup]] = {
    "crossflow": _own,
    "folder": _made_elsewhere,
    "diffusers:": _pipeline,
}
"""What the options name besides an object of another package: by the whole name, or by how it begins."""


def score_again(folder: Path, track: run.Track = run.untracked, data: Path | None = None) -> Result:
    """Score the outputs of the run in ``folder`` and of its references anew, without generating.

    ``folder`` may be a model's, of whose runs the one of the most examples is scored. ``data`` is the data root, which
    no run records. Raises CrossFlowError.
    """
    folder = records.run_in(folder)
    for reference in records.references(folder).values():
        score_again(reference, data=data)
    store = Store(folder)
    store.settings()
    with store.locked():
        adopt(store.home)
    store = Store(records.run_in(folder))
    suite, settings, examples = suite_of(store.path, data, again="generate the run again")
    store.check_before_scoring()
    with store.locked():
        store.open(settings, examples)
        metrics = run.make_metrics(suite)
        caches = keep_features(metrics, store.home / "features", 0)
        return run.score(suite, settings, examples, store, metrics, caches, again=True, track=track)


def suite_of(folder: Path, data: Path | None = None, *, again: str) -> tuple[Suite, Settings, Examples]:
    """What the run in ``folder`` was made of: its suite as this version has it, its settings, and its examples.

    The suite has the metrics that were added to it (``--also``).

    ``data`` is the data root, which no run records. Raises CrossFlowError for a run of another version of its suite,
    with what to do ``again``, and where the examples cannot be read.
    """
    store = Store(folder)
    settings = store.settings()
    suite = load_suite(settings.suite, data)
    if suite.version != settings.suite_version:
        raise CrossFlowError(
            f"{folder} was made with version {settings.suite_version} of the suite {suite.name}, this is version "
            f"{suite.version}; {again}."
        )
    if suite.outputs_per_example != settings.outputs_per_example:
        raise CrossFlowError(
            f"{folder} has {settings.outputs_per_example} outputs an example, and the suite {suite.name} "
            f"{suite.outputs_per_example}; {again}."
        )
    if suite.fitted is not None:
        suite = dataclasses.replace(suite, examples=lambda _: store.examples())
    suite = with_metrics(suite, _added(store))
    asked = records.read_ids(folder)
    known = {example.id: example for example in run.list_examples(suite.of(asked), data)}
    return suite, settings, Examples([known[name] for name in asked if name in known])
