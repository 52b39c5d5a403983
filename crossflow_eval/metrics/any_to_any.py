"""Metrics of any to any: what outputs got right of what they were told, and what they agree on that nothing told them.

All are functions of facts. What knows the world, its readers and what is right, comes in by the constructor; what is
to be judged is in each example's target, by :class:`Judged`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from crossflow.errors import CrossFlowError
from crossflow_eval.stats import BOOTSTRAP, UNIT, WITHIN_BOUNDS, bootstrap_mean, stratified_mean
from crossflow_eval.types import Example, Outputs, Row, Value

SHUFFLE_SEED = 0
"""What the outputs of one task are shuffled by, for the level at which a model's own outputs agree by chance."""


class Judged(BaseModel):
    """The target of an example: what its outputs are judged by.

    ``told`` are the factors, by output, that an input tells of the ``event`` and the output can, with the name of that
    input: they must be as it tells them. ``untold`` are those, by two outputs as "audio+video", that both can tell and
    no input does: they must agree. ``against``, of inputs that contradict each other, are the events that they are of,
    by their names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    event: str
    told: Mapping[str, Mapping[str, str]] = {}
    untold: Mapping[str, tuple[str, ...]] = {}
    against: Mapping[str, str] = {}

    @classmethod
    def of(cls, example: Example) -> Judged:
        """An example's target. CrossFlowError where it is none."""
        try:
            return cls.model_validate(example.target)
        except ValidationError as error:
            raise CrossFlowError(
                f"The example {example.id} does not say what is judged of outputs by modality; this metric needs it."
            ) from error


@dataclass(frozen=True, kw_only=True)
class World:
    """What is known of the world that outputs speak of; facts are any objects that ``right`` compares.

    ``read`` gives the facts in an output of a modality, ``tells`` those that an input of that name tells of an event,
    by its id, and ``right`` says whether facts have a factor as others have it, None where these say nothing of it.
    ``may`` are the factors that a modality need not tell, by modality: they are judged where it does, as ``said`` says.
    ``bounce`` is the frame of which facts say that all turns back in it, and ``name`` goes into protocols.
    """

    name: str
    read: Callable[[str, Any], Any]
    tells: Callable[[str, str], Any]
    right: Callable[[Any, Any, str], bool | None]
    said: Callable[[Any, str], bool]
    bounce: Callable[[Any], int | None]
    may: Mapping[str, Collection[str]] = field(default_factory=dict[str, Collection[str]])

    def facts(self, outputs: Outputs) -> dict[str, Any]:
        """What each of the outputs says."""
        return {modality: self.read(modality, output) for modality, output in outputs.items()}

    def told(self, modality: str, facts: Any, event: str, factors: Mapping[str, str]) -> dict[str, bool]:
        """Whether an output's facts are as told of the ``event``, by factor; where there is anything to judge."""
        verdicts = {
            factor: self.right(facts, self.tells(event, name), factor)
            for factor, name in factors.items()
            if self._due(modality, facts, factor)
        }
        return {factor: verdict for factor, verdict in verdicts.items() if verdict is not None}

    def agreed(self, facts: Mapping[str, Any], pair: Sequence[str], factors: Iterable[str]) -> dict[str, bool]:
        """Whether two outputs agree, by factor; they do not where one of them cannot be read."""
        one, other = pair
        due = [each for each in factors if all(self._due(name, facts[name], each) for name in pair)]
        return {each: self.right(facts[one], facts[other], each) is True for each in due}

    def _due(self, modality: str, facts: Any, factor: str) -> bool:
        return factor not in self.may.get(modality, ()) or self.said(facts, factor)


class _OfTasks:
    """What all these metrics have in common: scores by task and part, one an example, and their means."""

    def __init__(self, world: World, **protocol: Any) -> None:
        self.world = world
        self.protocol: Mapping[str, Any] = {"world": world.name, **protocol}
        self._scores: dict[str, list[float]] = defaultdict(list)
        self._links: dict[str, str] = {}

    def _add(self, name: str, scores: Collection[bool | float]) -> None:
        """One example's score under a ``name``: the mean of several; none of nothing."""
        if scores:
            self._scores[name].append(float(np.mean([float(score) for score in scores])))

    def _of_tasks(self, value: str) -> dict[str, Value]:
        """The unweighted means of tasks: of all as ``value``, of those of one link as ``value/<link>``."""
        groups: dict[str, dict[str, list[float]]] = defaultdict(dict)
        for task, link in self._links.items():
            if scores := self._scores.get(f"{value}/{task}"):
                groups[value][task] = scores
                groups[f"{value}/{link}"][task] = scores
        return {name: stratified_mean(of, bounds=UNIT) for name, of in groups.items() if name != f"{value}/"}

    def _means(self) -> dict[str, Value]:
        return {name: bootstrap_mean(scores) for name, scores in self._scores.items()}


class ToldFactors(_OfTasks):
    """The share of told factors that an output has right: its reading against the truth, on what its inputs told.

    Values: ``told/<task>``, where a task makes several outputs also ``told/<task>/<output>``, and both by factor;
    ``right/<task>``, the share of examples with everything right; ``told`` and, by the example's tag ``link``,
    ``told/trained`` and so on: the unweighted means of their tasks. Rows: task, correct, told, reason, and the text of
    an output that is one.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world, interval=BOOTSTRAP, mean_of_tasks=WITHIN_BOUNDS)
        self.higher_is_better: Mapping[str, bool] = {}

    def update(self, examples: Sequence[Example], outputs: Sequence[Outputs]) -> list[Row]:
        """Judge the outputs."""
        return [self._judge(example, made) for example, made in zip(examples, outputs, strict=True)]

    def _judge(self, example: Example, made: Outputs) -> Row:
        task, judged = example.tags["task"], Judged.of(example)
        if judged.against:
            return {"task": task}
        facts = self.world.facts(made)
        verdicts = {
            modality: self.world.told(modality, facts[modality], judged.event, factors)
            for modality, factors in judged.told.items()
        }
        self._links[task] = example.tags.get("link", "")
        every = [(factor, verdict) for of_one in verdicts.values() for factor, verdict in of_one.items()]
        self._add(f"told/{task}", [verdict for _, verdict in every])
        self._add(f"right/{task}", [all(verdict for _, verdict in every)] if every else [])
        for modality, of_one in verdicts.items():
            within = f"{task}/{modality}" if len(verdicts) > 1 else task
            if within != task:
                self._add(f"told/{within}", list(of_one.values()))
            for factor, verdict in of_one.items():
                self._add(f"told/{within}/{factor}", [verdict])
        wrong = [
            f"{modality}: {', '.join(lost)}"
            for modality, of_one in verdicts.items()
            if (lost := [factor for factor, verdict in of_one.items() if not verdict])
        ]
        row: Row = {"task": task, "reason": f"wrong in {'; '.join(wrong)}" if wrong else ""}
        if every:
            row |= {"correct": not wrong, "told": float(np.mean([verdict for _, verdict in every]))}
        return row | ({"caption": made["text"]} if "text" in made else {})

    def compute(self) -> dict[str, Value]:
        """The means of tasks, outputs and factors, then those of tasks together."""
        means, found = self._of_tasks("told"), self._means()
        self.higher_is_better = dict.fromkeys([*means, *found], True)
        return {**means, **found}


class Coherence(_OfTasks):
    """The share of untold factors on which two outputs made together agree: both can tell them, and no input does.

    Values: ``coherence`` and, by the example's tag ``link``, ``coherence/trained`` and so on: the unweighted means of
    their tasks; ``coherence/<task>``, in tasks of more than two outputs also ``coherence/<task>/<one>+<other>``, each
    by factor; each task of several examples again with ``/shuffled``, with outputs of others of them in place of the
    other's: what the model's own outputs have by chance. Rows: coherence.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world, interval=BOOTSTRAP, mean_of_tasks=WITHIN_BOUNDS, shuffle_seed=SHUFFLE_SEED)
        self.higher_is_better: Mapping[str, bool] = {}
        self._seen: dict[str, list[tuple[Judged, dict[str, Any]]]] = defaultdict(list)

    def update(self, examples: Sequence[Example], outputs: Sequence[Outputs]) -> list[Row]:
        """Judge the outputs."""
        return [self._judge(example, made) for example, made in zip(examples, outputs, strict=True)]

    def _judge(self, example: Example, made: Outputs) -> Row:
        task, judged = example.tags["task"], Judged.of(example)
        if not judged.untold:
            return {}
        facts = self.world.facts(made)
        self._links[task] = example.tags.get("link", "")
        self._seen[task].append((judged, facts))
        found = {pair: self.world.agreed(facts, pair.split("+"), of) for pair, of in judged.untold.items()}
        every = [verdict for of_pair in found.values() for verdict in of_pair.values()]
        self._add(f"coherence/{task}", every)
        for pair, of_pair in found.items():
            within = f"{task}/{pair}" if len(found) > 1 else task
            if within != task:
                self._add(f"coherence/{within}", list(of_pair.values()))
            for factor, verdict in of_pair.items():
                self._add(f"coherence/{within}/{factor}", [verdict])
        return {"coherence": float(np.mean(every))} if every else {}

    def compute(self) -> dict[str, Value]:
        """The means of tasks and factors, with outputs as they are and shuffled."""
        tasks = [task for task, seen in self._seen.items() if len(seen) > 1 and self._scores.get(f"coherence/{task}")]
        found = self._of_tasks("coherence") | self._means()
        found |= {f"coherence/{task}/shuffled": bootstrap_mean(self._shuffled(task)) for task in tasks}
        self.higher_is_better = dict.fromkeys((name for name in found if not name.endswith("/shuffled")), True)
        return found

    def _shuffled(self, task: str) -> list[float]:
        scores: list[float] = []
        for (judged, facts), (_, others) in shuffled(self._seen[task]):
            verdicts = [
                verdict
                for pair, factors in judged.untold.items()
                for one, other in [pair.split("+")]
                for verdict in self.world.agreed(
                    {one: facts[one], other: others[other]}, (one, other), factors
                ).values()
            ]
            scores += [float(np.mean(verdicts))] if verdicts else []
        return scores or [0.0]


class Synchrony(_OfTasks):
    """How many frames apart sound and film turn back: |b_video - b_audio|, the ``largest`` where one cannot be read.

    Of outputs made together, or of an output beside the input that it must fit, which then is the event's. Values:
    ``sync_error/<task>``, and of several examples with ``/shuffled``, of outputs of others. Rows: sync_error.
    """

    def __init__(self, world: World, *, largest: int) -> None:
        super().__init__(world, interval=BOOTSTRAP, unreadable=largest, shuffle_seed=SHUFFLE_SEED)
        self.higher_is_better: Mapping[str, bool] = {}
        self.largest = largest
        self._seen: dict[str, list[tuple[int | None, int | None]]] = defaultdict(list)

    def update(self, examples: Sequence[Example], outputs: Sequence[Outputs]) -> list[Row]:
        """Judge the outputs that are of both sound and film."""
        return [self._judge(example, made) for example, made in zip(examples, outputs, strict=True)]

    def _judge(self, example: Example, made: Outputs) -> Row:
        if not {"audio", "video"} <= made.keys():
            return {}
        task = example.tags["task"]
        audio, video = (self.world.bounce(self.world.read(name, made[name])) for name in ("audio", "video"))
        self._seen[task].append((audio, video))
        error = self.error(audio, video)
        self._add(f"sync_error/{task}", [error])
        return {"sync_error": error}

    def error(self, audio: int | None, video: int | None) -> float:
        """Frames between two turns."""
        return float(self.largest if audio is None or video is None else abs(audio - video))

    def compute(self) -> dict[str, Value]:
        """The mean of each task, with outputs as they are and shuffled."""
        found = self._means()
        for task, seen in self._seen.items():
            if len(seen) > 1:
                errors = [self.error(audio, video) for (audio, _), (_, video) in shuffled(seen)]
                found[f"sync_error/{task}/shuffled"] = bootstrap_mean(errors)
        self.higher_is_better = {name: False for name in found if not name.endswith("/shuffled")}
        return found


class Conflict(_OfTasks):
    """Whose word an output takes where its inputs contradict each other, by the weight of the first of them.

    Values: ``wins/<task>/<input>/<weight>``, the share of told factors that are as that input tells them of its own
    event. Rows: wins_<input>.
    """

    higher_is_better: Mapping[str, bool] = {}

    def __init__(self, world: World) -> None:
        super().__init__(world, interval=BOOTSTRAP)

    def update(self, examples: Sequence[Example], outputs: Sequence[Outputs]) -> list[Row]:
        """Judge the outputs of examples with contradicting inputs."""
        return [self._judge(example, made) for example, made in zip(examples, outputs, strict=True)]

    def _judge(self, example: Example, made: Outputs) -> Row:
        judged = Judged.of(example)
        row: Row = {}
        facts = self.world.facts(made) if judged.against else {}
        for given, event in judged.against.items():
            verdicts = [
                verdict
                for modality, factors in judged.told.items()
                for verdict in self.world.told(modality, facts[modality], event, dict.fromkeys(factors, given)).values()
            ]
            self._add(f"wins/{example.tags['task']}/{given}/{example.tags['weight']}", verdicts)
            row |= {f"wins_{given}": float(np.mean(verdicts))} if verdicts else {}
        return row

    def compute(self) -> dict[str, Value]:
        """The mean of each input at each weight."""
        return self._means()


def shuffled(items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Each of the items with another one, which is by turns every other's; one alone is with itself."""
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(items))
    for place, number in enumerate(order):
        yield items[number], items[order[(place + 1) % len(order)]]


def pairs(outputs: Sequence[str]) -> list[str]:
    """Every two of the outputs, as :class:`Judged` calls them."""
    return ["+".join(two) for two in combinations(outputs, 2)]


def once(read: Callable[[str, Any], Any], most: int = 512) -> Callable[[str, Any], Any]:
    """``read``, which is asked only once where several metrics read the same output; of the last ``most`` outputs."""

    @lru_cache(maxsize=most)
    def by_identity(modality: str, key: _Same) -> Any:
        return read(modality, key.value)

    return lambda modality, value: by_identity(modality, _Same(value))


@dataclass(frozen=True, eq=False)
class _Same:
    """A value by what it is, not by what it holds; it is kept as long as it is remembered."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)
