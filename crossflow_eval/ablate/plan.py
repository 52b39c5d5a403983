"""What an ablation is to do: trainings, measurements of them, and the tables that these fill.

A training is named by its digest and a measurement by that of all it depends on, so rows of different tables that are
the same are done once, whichever table asks for them. ::

    OUT/<digest>/               a training: model.safetensors, checkpoints kept along it, log.jsonl, timing.jsonl
        reader.safetensors      the decoder of its source latents, where captions are read by it
        walk/                   images between two prompts, where a table shows some
        <suite>/<run>/          every run that measured it
    OUT/references/<suite>/     the runs of what a test suite stands between, such as chance and ceiling
    OUT/measured/<digest>/      measured.json: what was chosen, and the result of the test
    OUT/failed/<job>.txt        what stopped a job, until it is done
    OUT/logs/<job>.log          all that a job has said
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from crossflow.errors import CrossFlowError, unknown
from crossflow_eval.ablate.ablation import Ablation, Line, Scale, Task, load_ablations, load_scale
from crossflow_eval.models.crossflow import (
    Trained,
    branch_of,
    finished_training,
    is_finished,
    pairs_of,
    recipe_of,
    stage_file,
    stages_after,
    stages_of,
)

RUNS = Path("runs") / "ablate"
WALK = "walk"
"""The folder beside a training of a strip between two prompts."""
READER = "reader.safetensors"
"""The file beside a training that holds the decoder of its source latents."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """A recipe trained with one seed. ``data`` is the folder of its pairs, ``begins`` the training that goes before it.

    The ``digest`` is that of recipe, seed and world, with those of the data and of the training before it, if any. One
    that is trained in stages may go on from the stage ``since`` of that; ``steps`` are those of its own stages.
    """

    recipe: str
    seed: int
    steps: int
    kept: tuple[int, ...]
    digest: str
    data: str | None = None
    begins: Training | None = None
    since: str | None = None

    @property
    def before(self) -> tuple[Training, ...]:
        """The trainings that go before it, the first one first."""
        return () if self.begins is None else (*self.begins.before, self.begins)

    @property
    def title(self) -> str:
        """How it is named wherever it is shown."""
        return f"{self.recipe}, seed {self.seed}"

    def done(self, out: Path) -> bool:
        """Whether it is trained to its end. CrossFlowError where another training lies in its place."""
        init = self.init(out)
        there = init is None or init.exists()
        return there and is_finished(self.checkpoint(out), self.recipe, self.seed, self.steps, init)

    def finished(self, out: Path) -> Trained | None:
        """What it was, where it is trained to its end. Raises CrossFlowError as ``done``."""
        if not self.done(out):
            return None
        return finished_training(self.checkpoint(out), self.recipe, self.seed, self.steps, self.init(out))

    def init(self, out: Path) -> Path | None:
        """The file that it goes on from, if from any."""
        if self.begins is None or self.since is None:
            return None if self.begins is None else self.begins.checkpoint(out)
        return stage_file(self.begins.recipe, self.since, out / self.begins.digest)

    def folders(self, out: Path) -> list[Path]:
        """The folders with its logs: its own, or those of its stages."""
        own, stages = out / self.digest, stages_after(self.recipe, self.since)
        return [stage_file(self.recipe, stage, own).parent for stage in stages] or [own]

    def step(self, at: float) -> int:
        """The step after a share of the steps."""
        return max(1, round(at * self.steps))

    def checkpoint(self, out: Path, at: float = 1.0) -> Path:
        """Its model after a share of the steps."""
        step = self.step(at)
        return out / self.digest / ("model.safetensors" if step == self.steps else f"model-{step:06d}.safetensors")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The candidates of a row with one seed, how one of them is chosen, and what it is tested on.

    A candidate is one of the ``trainings`` with, for autoguidance, one share in ``weaker`` and one guidance scale.
    """

    trainings: tuple[Training, ...]
    at: float
    weaker: tuple[float, ...]
    scales: tuple[float | None, ...]
    reader: bool
    test: str
    limit: int | None
    validation: str | None
    validation_limit: int | None
    choose: str
    sampled: tuple[tuple[str, str], ...] = ()

    @property
    def searches(self) -> bool:
        """Whether there is anything to choose."""
        return len(self.trainings) > 1 or len(self.scales) > 1

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits of the sha256 of everything here."""
        plain = asdict(self) | {"trainings": [training.digest for training in self.trainings]}
        if not self.sampled:  # an option that a row does not have renames no measurement
            del plain["sampled"]
        text = json.dumps(plain, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A line of a table with one seed."""

    line: Line
    seed: int
    measurement: Measurement


@dataclass(frozen=True, kw_only=True)
class Table:
    """An ablation at one scale, and the parts that fill it."""

    ablation: Ablation
    task: Task
    lines: tuple[Line, ...]
    parts: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do, and where. ``given`` are the options that make it another than the whole of its tables.

    ``gpus`` is how many each training takes.
    """

    suite: str
    scale: Scale
    tables: tuple[Table, ...]
    seeds: int
    out: Path
    data: Path | None
    test_data: Path | None
    gpus: int
    given: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its results: that of the suite, and of the scale where it is not tiny."""
        name = Path(self.suite).stem
        return name if self.scale.name == "tiny" else f"{name}-{self.scale.name}"

    @property
    def words(self) -> tuple[str, ...]:
        """The words of the command that does this, its folders left out."""
        scale = () if self.scale.name == "tiny" else ("--scale", self.scale.name)
        return "crossflow-eval", "ablate", "--suite", self.suite, *scale, *self.given

    @property
    def command(self) -> str:
        """The command that does this, as one types it, its folders left out."""
        return shlex.join(self.words)

    @property
    def measurements(self) -> list[Measurement]:
        """Every measurement once, in the order of the tables."""
        return list(dict.fromkeys(part.measurement for table in self.tables for part in table.parts))

    @property
    def trainings(self) -> list[Training]:
        """Every training once, those that others begin from before them."""
        found: dict[Training, None] = {}
        for measurement in self.measurements:
            for training in measurement.trainings:
                found |= dict.fromkeys((*training.before, training))
        return list(found)


def make_plan(
    suite: str,
    *,
    scale: str = "tiny",
    out: Path = RUNS,
    rows: Sequence[str] = (),
    seeds: int | None = None,
    steps: int | None = None,
    limit: int | None = None,
    data: Path | None = None,
    test_data: Path | None = None,
    gpus: int = 1,
) -> Plan:
    """Check the options of ``crossflow-eval ablate``. ``steps`` are those of the row that others are compared with.

    The trainings of other rows keep their ratio to it. Raises CrossFlowError for what is unknown or refused.
    """
    for name, number in (("--seeds", seeds), ("--steps", steps), ("--limit", limit), ("--gpus", gpus)):
        if number is not None and number < 1:
            raise CrossFlowError(f"{name} must be at least 1, got {number}.")
    of = load_scale(scale)
    if of.data and data is None:
        raise CrossFlowError(f"The scale {scale} trains on image-text pairs of yours: give their folder as --data.")
    if of.data and test_data is None:
        raise CrossFlowError(f"The scale {scale} is tested on COCO: give the suite's data root as --test-data.")
    if not of.data and (data or test_data):
        raise CrossFlowError(f"The scale {scale} draws its own data: leave --data and --test-data out.")
    ablations = load_ablations(suite)
    known = [row.name for each in ablations for row in each.rows if scale in row.scales]
    for row in rows:
        if row not in known:
            raise unknown(f"row of {suite}", row, known)
    count = of.seeds if seeds is None else seeds
    options = {"--seeds": seeds, "--steps": steps, "--limit": limit, "--rows": ",".join(rows) or None}
    tables = [_table(each, of, rows, count, steps, limit, data) for each in ablations]
    return Plan(
        suite=suite,
        scale=of,
        tables=tuple(table for table in tables if table.lines),
        seeds=count,
        out=out,
        data=data,
        test_data=test_data,
        gpus=gpus,
        given=tuple(str(word) for name, value in options.items() if value is not None for word in (name, value)),
    )


@dataclass(frozen=True)
class _Options:
    """What the rows of a plan have in common. ``share`` is that of a recipe's steps, ``data`` the folder of pairs."""

    scale: Scale
    seeds: int
    share: float
    data: Path | None

    def recipe(self, name: str) -> str:
        """The name of a row's recipe at the scale."""
        return name.replace("{scale}", self.scale.name)

    def training(self, name: str, seed: int, begins: Training | None = None) -> Training:
        """The training of a row's recipe with one seed."""
        name = self.recipe(name)
        if stages_of(name):
            return self._staged(name, seed)
        recipe = recipe_of(name)
        if self.share != 1:
            recipe = recipe.in_steps(max(1, round(self.share * recipe.steps)))
        where, pairs = (None, None) if self.data is None else pairs_of(name, self.data)
        parts = [recipe.digest(seed), *([f"on-{pairs[:12]}"] if pairs else [])]
        parts += [f"after-{begins.digest}"] if begins is not None else []
        return Training(
            recipe=name,
            seed=seed,
            steps=recipe.steps,
            kept=recipe.keep_at,
            digest="-".join(parts),
            data=None if where is None else str(where),
            begins=begins,
        )

    def _staged(self, name: str, seed: int) -> Training:
        """The training of recipes in order, after the stages that another one has had."""
        recipes, branch = stages_of(name), branch_of(name, seed)
        parts = [hashlib.sha256("".join(each.digest(seed) for each in recipes.values()).encode()).hexdigest()[:12]]
        begins, since = None, None
        if branch is not None:
            system, of_seed, since = branch
            begins = self._staged(system, of_seed)
            parts += [f"after-{begins.digest}"]
        steps = sum(recipes[stage].steps for stage in stages_after(name, since))
        return Training(
            recipe=name, seed=seed, steps=steps, kept=(), digest="-".join(parts), begins=begins, since=since
        )

    def measurement(self, ablation: Ablation, line: Line, task: Task, seed: int) -> Measurement:
        """What is measured of a line with one seed. CrossFlowError where something is to be chosen and cannot be."""
        row = line.row
        begins = None if row.begins is None else self.training(row.begins, seed)
        trainings = tuple(self.training(name, seed, begins) for name in row.recipes)
        for training in trainings:
            for at in (line.at, *row.weaker):
                if training.step(at) not in (training.steps, *training.kept):
                    raise CrossFlowError(
                        f"The row {row.name} measures {training.recipe} after {at:g} of its {training.steps} steps, "
                        "and the recipe keeps no checkpoint there: add it to keep_at."
                    )
        scales: tuple[float | None, ...] = task.guidance if row.guided else (1.0,) if task.guidance else (None,)
        searches = len(trainings) > 1 or len(scales) > 1
        if searches and task.validation is None:
            raise CrossFlowError(
                f"The row {row.name} has something to choose, and {task.test} has no suite to choose on."
            )
        return Measurement(
            trainings=trainings,
            at=line.at,
            weaker=row.weaker,
            scales=scales,
            reader=row.reader,
            test=task.test,
            limit=task.limit,
            validation=task.validation if searches else None,
            validation_limit=task.validation_limit if searches else None,
            choose=task.choose,
            sampled=ablation.sampled_at(self.scale.name, row).given,
        )


def _table(
    ablation: Ablation,
    scale: Scale,
    rows: Sequence[str],
    seeds: int,
    steps: int | None,
    limit: int | None,
    data: Path | None,
) -> Table:
    if scale.name in ablation.refused:
        raise CrossFlowError(ablation.refused[scale.name])
    if ablation.task not in scale.tasks:
        raise CrossFlowError(f"The scale {scale.name} does not measure the task {ablation.task} of {ablation.name}.")
    task = scale.tasks[ablation.task]
    task = task if limit is None else task.model_copy(update={"limit": limit})
    if task.with_java is not None and shutil.which("java"):
        task = task.model_copy(update={"test": task.with_java})
    at_scale = ablation.at_scale(scale.name)
    if not at_scale:
        raise CrossFlowError(f"{ablation.name} has no row at the scale {scale.name}.")
    whole = _Options(scale, seeds, 1.0, data)
    main = ablation.main(scale.name) or at_scale[0]
    share = 1.0 if steps is None else steps / _steps(whole.recipe(main.recipes[0]))
    options = replace(whole, share=share)
    lines = tuple(line for row in at_scale if not rows or row.name in rows for line in row.lines)
    parts = [
        Part(line=line, seed=seed, measurement=options.measurement(ablation, line, task, seed))
        for line in lines
        for seed in range(min(seeds, line.row.seeds or seeds))
    ]
    return Table(ablation=ablation, task=task, lines=lines, parts=tuple(parts))


def _steps(name: str) -> int:
    """The steps of a recipe. CrossFlowError for recipes in order, which have each their own."""
    if stages_of(name):
        raise CrossFlowError(f"{name} is trained in stages, each in steps of its own: leave --steps out.")
    return recipe_of(name).steps
