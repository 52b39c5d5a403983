"""The only two loops: ``generate`` makes the outputs of a run, ``score`` turns them into its result.

Both work on files, so either can be stopped at any moment and called again: what is there is kept, what is missing is
made, and the end is the same byte for byte. Under ``torchrun`` (RANK, WORLD_SIZE) rank r makes ``todo[r::world]`` and
rank 0 scores once all outputs exist; no process talks to another except through the folder.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pydantic import TypeAdapter

from crossflow.errors import CrossFlowError, first_few
from crossflow.files.processes import rank_and_world
from crossflow.files.texts import read_text
from crossflow_eval import records
from crossflow_eval.environment import environment, same_numbers
from crossflow_eval.judges.features import FeatureCache, OnFeatures, keep_features
from crossflow_eval.outputs import as_kind
from crossflow_eval.runs.store import Examples, Job, Store, UnreadableOutput
from crossflow_eval.types import (
    CODE,
    Ask,
    Batched,
    Checked,
    Example,
    LateRows,
    Lookup,
    Metric,
    Model,
    Result,
    Row,
    Settings,
    Suite,
    Value,
)

_logger = logging.getLogger(__name__)
_PLAIN = TypeAdapter(dict[str, Any])


@runtime_checkable
class Track(Protocol):
    """Passes batches of jobs through, showing progress under a stage's name; see ``untracked``."""

    def __call__(self, batches: Sequence[Sequence[Job]], stage: str, there: int = 0) -> Iterable[Sequence[Job]]:
        """Jobs that are done already are counted as ``there``."""
        ...


GENERATE_BATCH, SCORE_BATCH = 64, 64
"""Outputs asked of a model at a time, unless it is ``Batched``, and read back for metrics; neither changes a number."""

PATIENCE = 1800.0
"""Seconds rank 0 waits for another rank's next output before it gives up."""


def untracked(batches: Sequence[Sequence[Job]], stage: str, there: int = 0) -> Iterable[Sequence[Job]]:
    """The ``Track`` that shows nothing."""
    return batches


def tracked_as(name: str, track: Track) -> Track:
    """``track`` with the ``name`` of what is run before each stage."""
    return lambda batches, stage, there=0: track(batches, f"{name}, {stage}", there)


def output_seed(seed: int, example_id: str, index: int) -> int:
    """The seed of one output: 63 bits of sha256, the same whatever the batch, order, limit, rank or restart."""
    digest = hashlib.sha256(f"{seed}\0{example_id}\0{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def list_examples(suite: Suite, root: Path | None) -> list[Example]:
    """All examples of a suite. Raises CrossFlowError for ids that are not unique or cannot name a file."""
    examples = list(suite.examples(root))
    ids = [example.id for example in examples]
    if odd := [name for name in ids if not records.is_file_name(name)]:
        raise CrossFlowError(
            f"{len(odd)} example ids cannot name a file ({first_few(repr(name[:80]) for name in odd)}): use at most "
            f"{records.LONGEST} bytes, without slashes, and with no dot in front."
        )
    times = Counter(name.casefold() for name in ids)
    if twice := [name for name in ids if times[name.casefold()] > 1]:
        raise CrossFlowError(f"{len(twice)} example ids are not unique, letter case aside: {first_few(twice)}.")
    return examples


def first_examples(examples: Sequence[Example], limit: int | None) -> Sequence[Example]:
    """The first ``limit`` examples, or all. Raises CrossFlowError for more than there are."""
    if limit is not None and not 1 <= limit <= len(examples):
        raise CrossFlowError(f"--limit {limit} is not between 1 and the suite's {len(examples)} examples.")
    return examples[:limit]


def shuffled_examples(examples: Sequence[Example], seed: int) -> list[Example]:
    """The examples by the sha256 of seed and id: an order in which none's place depends on what else there is."""
    return sorted(examples, key=lambda example: hashlib.sha256(f"{seed}\0{example.id}".encode()).digest())


def read_ids(file: Path) -> set[str]:
    """The ids that a text file lists, one a line. Raises CrossFlowError where it cannot be read, or lists none."""
    ids = {line.strip() for line in read_text(file, "The list of ids").split("\n")} - {""}
    if not ids:
        raise CrossFlowError(f"{file} lists no ids; write one on each line.")
    return ids


def listed_examples(examples: Sequence[Example], file: Path) -> list[Example]:
    """Those of the examples whose ids a text file lists, one a line, in the examples' own order.

    Raises CrossFlowError as ``read_ids`` does, and for ids of no example.
    """
    ids = read_ids(file)
    if foreign := sorted(ids - {example.id for example in examples}):
        raise CrossFlowError(f"{len(foreign)} of {len(ids)} ids in {file} are of no example: {first_few(foreign)}.")
    return [example for example in examples if example.id in ids]


def check_whole(suite: Suite, model: Model | Lookup, examples: Sequence[Example], known: Sequence[Example]) -> None:
    """Raise CrossFlowError for a model that cannot make one of the ``examples``.

    So for outputs made elsewhere that lack one of them, or are of none ``known``.
    """
    if isinstance(model, Checked):
        model.check(examples, known, suite.outputs_per_example)


def make_settings(
    suite: Suite,
    model: Model | Lookup,
    seed: int = 0,
    limit: int | None = None,
    *,
    shuffle_seed: int | None = None,
    name: str | None = None,
) -> Settings:
    """Everything that can change a number of this run; ``name`` is what the model is called, where not by its own."""
    return Settings(
        suite=suite.name,
        suite_version=suite.version,
        model=name or model.name,
        identity=dict(model.identity),
        seed=seed,
        limit=limit,
        shuffle_seed=shuffle_seed,
        outputs_per_example=suite.outputs_per_example,
    )


def list_jobs(suite: Suite, examples: Sequence[Example], settings: Settings) -> list[Job]:
    """One job an output, in the order of the examples; outputs that are made together are of one job."""

    def job(example: Example, index: int) -> Job:
        seed, name = output_seed(settings.seed, example.id, index), f"{example.id}-{index}"
        if isinstance(suite.output, str):
            return Job(example, index, f"{name}.{suite.output}", seed)
        wanted = example.source.wanted if isinstance(example.source, Ask) else ()
        return Job(example, index, name, seed, {each: f"{name}.{each}.{suite.output[each]}" for each in wanted})

    return [job(example, index) for example in examples for index in range(settings.outputs_per_example)]


def make_metrics(suite: Suite) -> dict[str, Metric]:
    """The suite's metrics, fresh. Raises CrossFlowError where one lacks its weights."""
    return {name: make() for name, make in suite.metrics.items()}


def run(
    suite: Suite,
    model: Model | Lookup,
    settings: Settings,
    examples: Sequence[Example],
    folder: Path,
    *,
    following: Sequence[Example] = (),
    fresh: bool = False,
    track: Track = untracked,
    at_a_time: int | None = None,
) -> Result | None:
    """Generate and score in the model's ``folder``. Returns None on every rank but 0, whose part ends with its outputs.

    ``following`` are the suite's next examples: a ``Batched`` model makes those that are in one batch with the last.
    ``fresh`` makes all outputs anew; those that are there are set aside. ``at_a_time`` are asked of other models.
    """
    rank, world = rank_and_world()
    if fresh and world > 1:
        raise CrossFlowError("--fresh is for one process: leave torchrun out, or give another --out.")
    examples = Examples.of(examples)
    drawn = Examples.of(whole_batches(suite, model, examples, following))
    store = Store(records.part(folder, len(examples)), rank)
    with store.locked():
        metrics = make_metrics(suite)  # first, so that a judge that is not there costs no work and leaves no folder
        settings = store.open(settings, examples, drawn)
        if fresh:
            store.set_aside()
        caches = keep_features(metrics, folder / "features", rank)
        share = (rank, world)
        generate(suite, model, settings, drawn, store, caches, share=share, track=track, at_a_time=at_a_time)
        if rank != 0:
            return None
        if world > 1:
            _wait(store, list_jobs(suite, examples, settings))
        return score(suite, settings, examples, store, metrics, caches, track=track)


def whole_batches(
    suite: Suite, model: Model | Lookup, examples: Sequence[Example], following: Sequence[Example]
) -> Sequence[Example]:
    """The ``examples``, with as many of those ``following`` as are made in one batch with the last of them."""
    size = model.batch_size if isinstance(model, Batched) else 1
    copies = suite.outputs_per_example
    missing = next(more for more in range(size) if (len(examples) + more) * copies % size == 0)
    return [*examples, *following[:missing]] if missing else examples


def generate(
    suite: Suite,
    model: Model | Lookup,
    settings: Settings,
    examples: Sequence[Example],
    store: Store,
    caches: Mapping[str, FeatureCache] | None = None,
    *,
    share: tuple[int, int] = (0, 1),
    track: Track = untracked,
    at_a_time: int | None = None,
) -> int:
    """Make the outputs that are not there yet; of ``share`` (rank, world) only ``todo[rank::world]``. Returns how many.

    Of a ``Batched`` model ranks share batches, and each is made whole of which any output is missing. Others are asked
    for ``at_a_time`` outputs, or ``GENERATE_BATCH``.

    Their features go into ``caches``, by the name of the metric, first, so that where an output is, its features are.

    Raises:
        CrossFlowError: an output that is there but cannot be read, or was changed since it was scored; a model that
            answers in another kind; a full disk.
    """
    started = time.monotonic()
    rank, world = share
    jobs = list_jobs(suite, examples, settings)
    there = {path.name for path in store.outputs.iterdir()}
    if rank == 0:
        store.check([job for job in jobs if there.issuperset(job.files)])
        store.check_scored()
        if not all(there.issuperset(job.files) for job in jobs):
            store.reopen()
    size = model.batch_size if isinstance(model, Batched) else 1
    units = _batches(jobs, size)[rank::world]
    todo = [unit for unit in units if not all(there.issuperset(job.files) for job in unit)]
    made, reused = sum(map(len, todo)), sum(map(len, units)) - sum(map(len, todo))
    if settings.identity.get(CODE, "") is None and reused:
        _logger.warning(
            "reused %d outputs of an identity that says nothing of its code; --fresh makes them anew", reused
        )
    asked = todo if size > 1 else _batches([job for unit in todo for job in unit], at_a_time or GENERATE_BATCH)
    for batch in track(asked, "generate", reused):
        outputs = [
            _of_kind(suite, model.name, each, list(job.several))
            for each, job in zip(_ask(suite, model, batch), batch, strict=True)
        ]
        for cache in dict.fromkeys((caches or {}).values()):
            cache.extract(outputs)
        for job, output in zip(batch, outputs, strict=True):
            store.write_output(job, output)
    _log(store, "generate", rank, world, made, started)
    return made


def score(
    suite: Suite,
    settings: Settings,
    examples: Sequence[Example],
    store: Store,
    metrics: Mapping[str, Metric],
    caches: Mapping[str, FeatureCache] | None = None,
    *,
    again: bool = False,
    track: Track = untracked,
) -> Result:
    """Score the outputs of a run with fresh ``metrics``; write per_example.jsonl, outputs.jsonl and result.json.

    A result that is there already is returned as it is if it was made by this very source, of whatever commit, by these
    versions of everything else, and by the weights and references that metrics have now, unless ``again`` or where a
    metric is another package's. Outputs are read from disk batch by batch, so memory does not grow with their number.

    Raises:
        CrossFlowError: missing or unreadable outputs, with their count and the first names; examples whose files
            changed meanwhile; a full disk.
    """
    started = time.monotonic()
    jobs = list_jobs(suite, examples, settings)
    examples = Examples.of(examples)
    data, machine = examples.sha256, environment()
    done = None if again else store.result()
    same = done is not None and done.data_sha256 == data and same_numbers(done.environment, machine)
    same = same and all(map(_is_ours, metrics.values()))
    asked = {name: plain_protocol(metric) for name, metric in metrics.items()}
    if done is not None and same and _lasting(done.protocol) == _lasting(asked):
        return done
    rows: list[Row] = []
    scored: list[Row] = []
    for batch in track(_batches(jobs, SCORE_BATCH), "score"):
        outputs, digests = zip(*_read(store, batch, jobs), strict=True)
        rows += _update(metrics, caches or {}, batch, outputs)
        scored += [
            {"id": job.example.id, "index": job.index, "output": name, "sha256": digest}
            for job, of_files in zip(batch, digests, strict=True)
            for name, digest in of_files.items()
        ]
    values, better = _compute(metrics)
    for name, metric in metrics.items():
        if isinstance(metric, LateRows):
            _merge(name, rows, metric.rows())
    examples.check_unchanged()
    result = Result(
        settings=settings,
        protocol={name: plain_protocol(metric) for name, metric in metrics.items()},
        n=len(jobs),
        values=values,
        higher_is_better=better,
        data_sha256=data,
        environment=machine,
    )
    result = store.write_result(result, rows, scored)
    _log(store, "score", 0, 1, len(jobs), started)
    return result


def _ask(suite: Suite, model: Model | Lookup, batch: Sequence[Job]) -> list[Any]:
    """The model's answers, not yet checked to be of the suite's kind."""
    if isinstance(model, Lookup):
        return [model.read(job.example.id, job.index) for job in batch]
    sources = [job.example.source for job in batch]
    given = [suite.given(source) if isinstance(source, Ask) else source for source in sources]
    outputs = list(model.generate(_on_the_way(suite, model, given, seeds := [job.seed for job in batch]), seeds))
    if len(outputs) != len(batch):
        raise CrossFlowError(f"The model {model.name} gave {len(outputs)} outputs for {len(batch)} sources.")
    return outputs


def _on_the_way(suite: Suite, model: Model, sources: Sequence[Any], seeds: Sequence[int]) -> list[Any]:
    """The sources as they are once what they ask for on the way (``Ask.via``) is made, a modality at a time."""
    sources = list(sources)
    while places := [place for place, source in enumerate(sources) if isinstance(source, Ask) and source.via]:
        steps = [replace(sources[place], wanted=sources[place].via[:1], via=()) for place in places]
        own = [output_seed(seeds[place], "via", len(sources[place].via)) for place in places]
        for place, made in zip(places, model.generate(steps, own), strict=True):
            hub, *later = sources[place].via
            kept = _of_kind(suite, model.name, made, [hub])
            sources[place] = Ask(given={hub: (kept[hub],)}, wanted=sources[place].wanted, via=later)
    return sources


def _of_kind(suite: Suite, model: str, output: Any, wanted: Sequence[str]) -> Any:
    """An ``output`` of a model as it is kept: of the suite's kind, or of each ``wanted`` modality's."""
    kind = suite.output
    if isinstance(kind, str):
        return as_kind(model, output, kind)
    if not isinstance(output, Mapping) or output.keys() != set(wanted):
        got = f"outputs of {', '.join(map(str, output)) or 'nothing'}" if isinstance(output, Mapping) else "one output"
        raise CrossFlowError(f"The model {model} gave {got}, and was asked for {', '.join(wanted)}.")
    kept = {each: as_kind(model, output[each], kind[each]) for each in wanted}
    for each, value in kept.items():
        suite.check_output(each, value)
    return kept


def _read(store: Store, batch: Sequence[Job], jobs: Sequence[Job]) -> list[tuple[Any, dict[str, str]]]:
    try:
        return [store.read_output(job) for job in batch]
    except UnreadableOutput:
        store.check(jobs)  # counts and names all that are missing
        raise


def _update(
    metrics: Mapping[str, Metric], caches: Mapping[str, FeatureCache], batch: Sequence[Job], outputs: Sequence[Any]
) -> list[Row]:
    """Feed every metric and merge what they say of each output into one row."""
    rows: list[Row] = [{**_address(job), "prompt": _shown(job.example.source)} for job in batch]
    examples = [job.example for job in batch]
    for name, metric in metrics.items():
        if isinstance(metric, OnFeatures) and name in caches:
            said = metric.update_from(caches[name], examples, outputs)
        else:
            said = metric.update(examples, outputs)
        _merge(name, rows, said or [{}] * len(rows))
    return rows


def _address(job: Job) -> Row:
    """How records name an output, or those that were made together."""
    files = {"outputs": dict(job.several)} if job.several else {"output": job.name}
    return {"id": job.example.id, "index": job.index, **files}


def _merge(name: str, rows: Sequence[Row], said: Sequence[Row]) -> None:
    """Add to each row what the metric ``name`` says of its output."""
    for row, more in zip(rows, said, strict=True):
        if twice := row.keys() & more.keys():
            raise ValueError(f"The metric {name} repeats the columns {sorted(twice)} of another metric.")
        row.update(more)


def _compute(metrics: Mapping[str, Metric]) -> tuple[dict[str, Value], dict[str, bool]]:
    values: dict[str, Value] = {}
    better: dict[str, bool] = {}
    for name, metric in metrics.items():
        computed = metric.compute()
        if twice := values.keys() & computed.keys():
            raise ValueError(f"The metric {name} repeats the values {sorted(twice)} of another metric.")
        values |= computed
        better |= metric.higher_is_better
    return values, better


def _shown(source: str | Path | Ask) -> str:
    return source.name if isinstance(source, Path) else str(source)


def _batches(jobs: Sequence[Job], size: int) -> list[Sequence[Job]]:
    return [jobs[start : start + size] for start in range(0, len(jobs), size)]


def _wait(store: Store, jobs: Sequence[Job]) -> None:
    """Wait for the other ranks' outputs. Raises CrossFlowError when no new one came for ``PATIENCE`` seconds."""
    left, last = math.inf, time.monotonic()
    files = [name for job in jobs for name in job.files]
    while missing := [name for name in files if not (store.outputs / name).exists()]:
        if len(missing) < left:
            left, last = len(missing), time.monotonic()
        if time.monotonic() - last > PATIENCE:
            raise CrossFlowError(
                f"{len(missing)} of {len(files)} outputs are missing ({first_few(missing)}) and no other process has "
                f"made one for {PATIENCE:.0f} seconds. Run the same command again to make them."
            )
        time.sleep(0.5)


def plain_protocol(metric: Metric) -> dict[str, Any]:
    """The fingerprint of a metric as a result holds it: plain JSON."""
    return _PLAIN.dump_python(dict(metric.protocol), mode="json")


def _lasting(protocols: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: records.lasting(protocol) for name, protocol in protocols.items()}


def _is_ours(metric: Metric) -> bool:
    """Whether the digest of the source speaks for a metric."""
    return type(metric).__module__.startswith("crossflow_eval.")


def _log(store: Store, stage: str, rank: int, world: int, outputs: int, started: float) -> None:
    seconds = round(time.monotonic() - started, 3)
    ended = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"stage": stage, "rank": rank, "world": world, "outputs": outputs, "seconds": seconds, "ended": ended}
    store.append("timing.jsonl", record)
