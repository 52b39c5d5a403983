"""The words of the measurement: what every other module of the package passes along.

A suite is examples plus metrics. A run is one model on one suite under one ``Settings``. A result is the frozen
record of a run: a number never travels without its protocol, its n and the hash of the weights that made it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_serializer

from crossflow.files.recordings import Recording

SCHEMA_VERSION = 1

CODE = "code_sha256"
"""Under what the identity of another package's model says of which code it is; None where that is not known."""

Output = np.ndarray | str | Recording
"""One output of a model, of a kind of ``crossflow_eval.outputs``: an image, a depth map, a caption, a sound."""

Outputs = Mapping[str, Output]
"""What a model of any to any made together: an output of each modality that it was asked for."""

Role = Literal["model", "chance", "trivial", "ceiling"]
"""What a run stands for: a model, the level of any real output or of the best without a model, or the best level."""

Row = dict[str, Any]
"""What one metric says of one output: plain JSON values, with ``reason`` where there is a verdict."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What a model of any to any is asked for: its inputs by modality, and the modalities to make of them together.

    There may be several inputs of one modality. ``mix`` are weights of the inputs by modality, those not named equal
    1. ``via`` are modalities that are made on the way, one after another, each of the one before alone: ``wanted`` are
    then made of the last of them.
    """

    given: Mapping[str, Sequence[Any]]
    wanted: Sequence[str]
    mix: Mapping[str, float] = field(default_factory=dict[str, float])
    via: Sequence[str] = ()

    def __str__(self) -> str:
        """In one line, with the inputs as they stand: "text: a photo of a ball + audio → image, video"."""
        inputs = [
            f"{name}: {'; '.join(map(str, each))}" if name == "text" else name + f" ({len(each)})" * (len(each) > 1)
            for name, each in self.given.items()
        ]
        weighed = [f"{name} {weight:g}" for name, weight in self.mix.items()]
        steps = (" + ".join(inputs) or "nothing", *self.via, ", ".join(self.wanted))
        return " → ".join(steps) + (f" ({', '.join(weighed)})" if weighed else "")


@dataclass(frozen=True, kw_only=True)
class Example:
    """One item of a suite: what the model is given, and what its output is judged against.

    An ``Ask`` stands here with the names of its inputs, of which ``Suite.given`` makes the inputs themselves.
    """

    id: str
    source: str | Path | Ask
    target: Any = None
    tags: Mapping[str, str] = field(default_factory=dict)


class Value(BaseModel):
    """A statistic with its 95 % interval, where one is defined.

    ``n`` counts what it is of: outputs or, where all outputs of an example count as one, examples.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    mean: float
    ci_low: float | None = None
    ci_high: float | None = None
    n: int


@runtime_checkable
class Metric(Protocol):
    """Torchmetrics' two verbs. ``protocol`` holds every constant that can change the number; it is the fingerprint."""

    protocol: Mapping[str, Any]
    higher_is_better: Mapping[str, bool]

    def update(self, examples: Sequence[Example], outputs: Sequence[Any]) -> list[Row] | None:
        """Take the next outputs, in the suite's order. Returns one row an output where the metric is per example.

        Each is an ``Output``; ``Outputs`` where the suite's are several by modality.
        """
        ...

    def compute(self) -> dict[str, Value]:
        """Return the statistics over everything taken so far."""
        ...


@runtime_checkable
class LateRows(Protocol):
    """A metric whose rows are known only when all outputs are, for it compares them with each other."""

    def rows(self) -> list[Row]:
        """Return one row an output, in the order taken; asked for after ``compute``."""
        ...


@runtime_checkable
class Model(Protocol):
    """Anything that turns sources into outputs. ``identity`` is all that can change an output, as plain JSON."""

    name: str
    identity: Mapping[str, Any]

    def generate(self, sources: Sequence[Any], seeds: Sequence[int]) -> Sequence[Any]:
        """Return one output a source, in a form that ``outputs.as_kind`` takes; a source is a text or a path.

        Where a suite's outputs are several, a source is an ``Ask``, and its output a mapping by modality.
        An output may depend on its own source and seed, and on nothing else.
        """
        ...


@runtime_checkable
class Batched(Model, Protocol):
    """A model whose output also depends, by rounding, on the ``batch_size`` sources that it is asked for with.

    Sources stand in fixed batches by their place, and a batch of which any output is missing is made whole.
    """

    batch_size: int


@runtime_checkable
class Lookup(Protocol):
    """What stands in for a model where outputs exist already: they are looked up by example, not made from sources."""

    name: str
    identity: Mapping[str, Any]

    def read(self, example_id: str, index: int) -> Output | Outputs:
        """Return the ``index``-th output of an example, or its outputs by modality."""
        ...


@runtime_checkable
class Checked(Protocol):
    """A model, or what stands in for one, that can say before any work that it cannot give what a run needs."""

    def check(self, needed: Sequence[Example], known: Sequence[Example], outputs_per_example: int) -> None:
        """Raise CrossFlowError where it has or makes no output of one of the ``needed``.

        So it does, where outputs are there already, for one that is of no ``known`` example.
        """
        ...


@runtime_checkable
class MadeElsewhere(Lookup, Checked, Protocol):
    """Outputs of another program, which may lack some or hold foreign ones."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Examples and metrics as plain data, and all else that is particular to a suite.

    ``output`` is the kind of file an output is kept as, a name in ``crossflow_eval.outputs.KINDS``; where outputs are
    made together, that of each modality, and an example's source is an ``Ask``, of whose names ``given`` makes the
    inputs; ``check_output`` refuses an output that is of a modality's kind and no value of it. A run stands between the
    ``references``. ``pictures`` gives, by an example's id, what is shown beside its output: its ``source`` and its
    ``target``, each where it is a picture. ``made_elsewhere`` reads outputs made elsewhere from a file or a folder;
    without one the usual reader of the kind does (``crossflow_eval.models.READERS``).

    ``one_size``: its images have the size that models of it read; to other suites' ours fit themselves by a named rule.
    ``unit``: what outputs are in, where nothing is aligned; a model of ours whose outputs are in another is refused.

    ``root`` is the option that names the data root. Where the examples depend on the outputs that are measured,
    ``fitted`` gives the suite that fits these, and a run is scored again on the examples it has kept. Where prompts may
    be given beside the data root, ``captioned`` gives the suite with those of a captions file. ``some`` gives the
    examples of these ids, and needs the files of no others: a data set need not be whole for a run on a list of ids.
    ``real`` gives the images that outputs are compared with as a set, where the examples' targets are not they.
    """

    name: str
    version: str
    task: str
    output: str | Mapping[str, str]
    examples: Callable[[Path | None], Sequence[Example]]
    metrics: Mapping[str, Callable[[], Metric]]
    outputs_per_example: int = 1
    given: Callable[[Ask], Ask] = field(default=lambda ask: ask)
    check_output: Callable[[str, Output], None] = field(default=lambda modality, output: None)
    references: Mapping[Role, Lookup] = field(default_factory=dict)
    pictures: Callable[[str], Mapping[str, Output]] = field(default=lambda example_id: {})
    made_elsewhere: Callable[[Path], MadeElsewhere] | None = None
    root: Literal["data", "captions", "references"] = "data"
    fitted: Callable[[Model | Lookup], Suite] | None = None
    captioned: Callable[[Path], Suite] | None = None
    one_size: bool = False
    unit: str = ""
    real: Callable[[], Iterable[np.ndarray]] | None = None
    some: Callable[[Path | None, Collection[str]], Sequence[Example]] | None = None

    def of(self, ids: Collection[str] | None) -> Suite:
        """This suite, for a run on these ids alone; None are all."""
        some = self.some
        if ids is None or some is None:
            return self
        return dataclasses.replace(self, examples=lambda root: some(root, ids))


class Settings(BaseModel):
    """Everything that can change a number. Two runs with the same digest must give the same result, bit for bit."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    suite: str
    suite_version: str
    model: str
    identity: dict[str, Any]
    seed: int = 0
    limit: Annotated[int, Field(ge=1)] | None = None
    shuffle_seed: int | None = None
    outputs_per_example: Annotated[int, Field(ge=1)] = 1

    @model_serializer(mode="wrap")
    def _without_what_is_later(self, whole: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """A record without a shuffle is as it was before there was one, and so is its digest."""
        record = whole(self)
        return record if self.shuffle_seed is not None else {k: v for k, v in record.items() if k != "shuffle_seed"}

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits of the sha256 of the canonical JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def of_outputs(self) -> Settings:
        """These of all examples, in their order: an output does not depend on how many are asked for."""
        return self.model_copy(update={"limit": None})


class Proof(BaseModel):
    """The sha256 of what a result stands on: outputs.jsonl, per_example.jsonl, and the record itself without this."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    outputs: str
    rows: str
    result: str


class Result(BaseModel):
    """The record of one run. ``protocol`` maps each metric to its fingerprint; ``data_sha256`` names the examples.

    ``proof`` is None in results of earlier versions, and in those that are no run's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int = SCHEMA_VERSION
    settings: Settings
    protocol: dict[str, dict[str, Any]]
    n: int
    values: dict[str, Value]
    higher_is_better: dict[str, bool]
    data_sha256: str
    environment: dict[str, str]
    proof: Proof | None = None
