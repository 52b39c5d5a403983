"""The suites ``scenes-any-*``: any modalities of the embedded world to any others, judged by its exact readers.

An example is an event and a task: what is given of it, and what is to be made together. All tasks of an event come
before the next event, so a part of the examples (``--limit``) has them all alike; with ``-val`` they are those of the
validation split, for choosing settings, never for reporting.

- ``scenes-any-matrix``: each of the five modalities to each, alone; the text is one of the five captions by turns.
- ``scenes-any-joint``: several outputs made together of a bare prompt, which leaves most untold; one of three inputs.
- ``scenes-any-bare``: the same without that one, for methods that take a single input.
- ``scenes-any-prompts``: two inputs that tell different things, or the same, or contradict each other, by weight.
- ``scenes-any-trips``: each modality to each other, and back.

Each run stands between ``chance``, real values of other events, another for each output, and ``ceiling``, those of its
own event: what the readers find in real data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from crossflow.errors import CrossFlowError
from crossflow_eval.metrics.any_to_any import Coherence, Conflict, Judged, Synchrony, ToldFactors, World, once, pairs
from crossflow_eval.types import Ask, Example, MadeElsewhere, Metric, Output, Outputs, Suite

if TYPE_CHECKING:
    from crossflow.scenes.events import Event
    from crossflow.scenes.facts import Facts

VERSION = "1"
KIND = {"text": "txt", "image": "png", "depth": "npy", "audio": "mel.npy", "video": "webp"}
"""As what an output of each modality is kept."""
MODALITIES = tuple(KIND)
JOINED = (("text", "image"), ("text", "audio"), ("audio", "video"), ("image", "depth"))
"""The pairs that a system of any to any is trained to make together; it has to do without the others."""
PROMPTED = (*JOINED, ("text", "depth"), ("text", "video"))
"""The pairs of which it is trained to make either from the other: text with all is what bridges between the rest."""
FORMS = 5
"""The captions of an event; the first is the bare prompt, and says least."""
WEIGHTS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""What the first of two contradicting inputs weighs; the other weighs the rest."""
MOST = 4
"""The most objects of an event; a reading of more, compared with another such, has nothing right."""
LEFT_OUT = {"text": frozenset({"column", "row", "night", "relation"})}
"""What a caption need not say: judged where it does."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is given and what is wanted. An input "text" is one of the captions by turns, "text-2" always that form.

    ``judged`` are the factors that are looked at, None for all. ``weight`` of the first input, where the second is of
    another event and contradicts it. ``name`` is what values are called by.
    """

    name: str
    given: tuple[str, ...]
    wanted: tuple[str, ...]
    via: tuple[str, ...] = ()
    link: str = ""
    judged: frozenset[str] | None = None
    weight: float | None = None

    @property
    def id(self) -> str:
        """The name as a part of a file's name."""
        return self.name.replace("/", "-to-") + ("" if self.weight is None else f"-{self.weight:.2f}")


def _task(name: str, *judged: str, **more: Any) -> Task:
    """The task "text-2+depth/image"."""
    given, wanted = (tuple(part.split("+")) for part in name.split("/"))
    return Task(name=name, given=given, wanted=wanted, judged=frozenset(judged) or None, **more)


def _link(one: str, other: str, trained: Sequence[tuple[str, str]] = PROMPTED) -> str:
    """Whether two modalities are one of the pairs that are ``trained``, in either order."""
    if one == other:
        return "same"
    return "trained" if (one, other) in trained or (other, one) in trained else "zero_shot"


def _bare(outputs: str) -> Task:
    """Several outputs of a bare prompt: of the link of two, or three of them."""
    wanted = tuple(outputs.split("+"))
    link = _link(*wanted, JOINED) if len(wanted) == 2 else "three"
    return Task(name=f"text/{outputs}", given=("text-0",), wanted=wanted, link=link)


_LOOKS = ("shape", "color")
_BARE = (
    *map(_bare, ("text+image", "text+audio", "audio+video", "image+depth")),
    *map(_bare, ("image+audio", "image+video", "depth+audio")),
    *map(_bare, ("image+audio+video", "text+image+audio")),
)
TASKS: Mapping[str, tuple[Task, ...]] = {
    "matrix": tuple(_task(f"{one}/{other}", link=_link(one, other)) for one in MODALITIES for other in MODALITIES),
    "bare": _BARE,
    "joint": (
        *_BARE,
        Task(
            name="text+image+audio/audio+video",
            given=("text-0", "image", "audio"),
            wanted=("audio", "video"),
            link="several_inputs",
        ),
    ),
    "prompts": (
        _task("text-2/image", "color", link="alone"),
        _task("depth/image", "column", "row", link="alone"),
        _task("text-2+depth/image", "color", "column", "row", link="complementary"),
        _task("image/video", "row", link="alone"),
        _task("audio/video", "bounce", link="alone"),
        _task("image+audio/video", "row", "bounce", link="complementary"),
        _task("text-1/image", *_LOOKS, "night", link="alone"),
        _task("audio/image", *_LOOKS, "night", link="alone"),
        _task("text-1+audio/image", *_LOOKS, "night", link="redundant"),
        *(_task("text-2+audio/image", *_LOOKS, link="conflict", weight=weight) for weight in WEIGHTS),
        *(_task("text-2+image/audio", *_LOOKS, link="conflict", weight=weight) for weight in WEIGHTS),
    ),
    "trips": tuple(
        Task(name=f"{one}/{other}", given=(one,), via=(other,), wanted=(one,), link=_link(one, other))
        for one in MODALITIES
        for other in MODALITIES
        if one != other
    ),
}
"""By the end of the suite's name."""
EVENTS = {"matrix": 200, "bare": 1000, "joint": 1000, "prompts": 200, "trips": 200}
"""How many events a suite takes, each in all of its tasks."""
SUITES = {f"scenes-any-{name}{end}": (name, split) for name in TASKS for end, split in (("", "test"), ("-val", "val"))}
"""Suite -> the name of its tasks, and its split."""


def suite(name: str) -> Suite:
    """Build one of ``SUITES``."""
    tasks, split = SUITES[name]
    return Suite(
        name=name,
        version=VERSION,
        task="any",
        output=KIND,
        examples=partial(_examples, name),
        given=inputs,
        check_output=check_output,
        made_elsewhere=made_elsewhere,
        metrics=_metrics(tasks),
        references={"chance": RealData(tasks, split, "chance"), "ceiling": RealData(tasks, split, "ceiling")},
        pictures=partial(pictures, tasks, split),
    )


def check_output(modality: str, output: Output) -> None:
    """CrossFlowError for what the reader of the modality would refuse, before more of it is made."""
    from crossflow.scenes.sense import check

    check(modality, output)


def made_elsewhere(folder: Path) -> MadeElsewhere:
    """The outputs of another program in a folder."""
    from crossflow.scenes.sense import SENSES
    from crossflow_eval.models.any_folder import AnyFolder

    return AnyFolder(folder, KIND, {name: SENSES[name].shape or () for name in MODALITIES}, check_output)


def _metrics(tasks: str) -> dict[str, Any]:
    def of(metric: Any, **more: Any) -> Any:
        return lambda: metric(world(), **more)

    found: dict[str, Any] = {"told": of(ToldFactors)}
    if tasks in ("bare", "joint"):
        found |= {"coherence": of(Coherence), "sync": _synchrony}
    return found | ({"conflict": of(Conflict)} if tasks == "prompts" else {})


def _synchrony() -> Metric:
    from crossflow.scenes.events import BOUNCES

    return Synchrony(world(), largest=max(BOUNCES) - min(BOUNCES))


def _examples(name: str, root: Path | None) -> Sequence[Example]:
    if root is not None:
        raise CrossFlowError(f"The suite {name} is embedded; leave --data out.")
    return _drawn(*SUITES[name])


@cache
def _drawn(tasks: str, split: str) -> tuple[Example, ...]:
    return tuple(_example(split, index, task) for index in range(EVENTS[tasks]) for task in TASKS[tasks])


@cache
def _by_id(tasks: str, split: str) -> dict[str, Example]:
    return {example.id: example for example in _drawn(tasks, split)}


def _example(split: str, index: int, task: Task) -> Example:
    from crossflow.scenes import VERSION as WORLD

    names = tuple(f"text-{index % FORMS}" if name == "text" else name for name in task.given)
    drawn = event(f"{split}-{index:06d}")
    of = {name: drawn for name in names}
    if task.weight is not None:
        of[names[1]] = unlike(split, index)
    weight = task.weight
    tags = {"world": str(WORLD), "split": split, "task": task.name, "link": task.link}
    return Example(
        id=f"{drawn.id}-{task.id}",
        source=Ask(
            given={_modality(name): (_called(each, name),) for name, each in of.items()},
            wanted=task.wanted,
            mix={} if weight is None else {_modality(names[0]): weight, _modality(names[1]): round(1 - weight, 6)},
            via=task.via,
        ),
        target=_judged(task, names, drawn, {} if weight is None else {name: each.id for name, each in of.items()}),
        tags=tags if weight is None else tags | {"weight": f"{weight:.2f}"},
    )


def _judged(task: Task, names: Sequence[str], drawn: Event, against: Mapping[str, str]) -> dict[str, Any]:
    """What is judged of the outputs, as plain data."""
    from crossflow.scenes.facts import FACTORS, TOLD, told, untold

    kind = drawn.example.task

    def told_to(output: str) -> dict[str, str]:
        """By factor the input that tells it; a caption where nothing else does, and a relation where it alone can."""
        able = TOLD[output].intersection(*(TOLD[each] for each in task.via))
        tellers = {
            factor: name
            for name in sorted(names, key=lambda name: not name.startswith("text"))
            for factor in told(name, kind) & able
            if factor != "relation" or name == "text-0"
        }
        return {f: tellers[f] for f in FACTORS if f in tellers and (task.judged is None or f in task.judged)}

    def untold_to(pair: str) -> tuple[str, ...]:
        found = untold(pair.split("+"), names, kind) - {"relation"}
        return tuple(factor for factor in FACTORS if factor in found)

    coherent = {pair: factors for pair in pairs(task.wanted) if (factors := untold_to(pair))}
    judged = Judged(
        event=drawn.id, told={each: told_to(each) for each in task.wanted}, untold=coherent, against=dict(against)
    )
    return judged.model_dump(mode="json")


def unlike(split: str, index: int) -> Event:
    """The next event of the same task with as many objects, none of them of a shape or a color of this one's."""
    from crossflow.scenes.caption import TASKS as PROMPTS

    one = event(f"{split}-{index:06d}")
    looks = {look for item in one.scene.objects for look in (item.shape, item.color)}
    while True:
        index += len(PROMPTS)
        other = event(f"{split}-{index:06d}")
        same = looks & {look for item in other.scene.objects for look in (item.shape, item.color)}
        if not same and len(other.scene.objects) == len(one.scene.objects):
            return other


@lru_cache(maxsize=4096)
def event(name: str) -> Event:
    """The event of that id."""
    from crossflow.scenes.events import event as drawn

    split, _, index = name.rpartition("-")
    return drawn(split, int(index))


def _modality(name: str) -> str:
    return name.partition("-")[0]


def _called(of: Event, name: str) -> str:
    """How an input stands in an example: a caption as it is, anything else by the id of its event."""
    return of.captions[int(name.partition("-")[2])] if name.startswith("text") else of.id


def inputs(ask: Ask) -> Ask:
    """The ask with the raw values of what stands in it by name."""
    given = {
        name: tuple(each if name == "text" else real(each, name) for each in named) for name, named in ask.given.items()
    }
    return Ask(given=given, wanted=ask.wanted, mix=ask.mix, via=ask.via)


@lru_cache(maxsize=8192)
def real(name: str, modality: str) -> Output:
    """What an event is in a modality; of captions one that names all objects, by turns."""
    from crossflow.scenes.sense import value

    return value(event(name), modality, 1 + int(name.rpartition("-")[2]) % (FORMS - 1))


@cache
def world() -> World:
    """What metrics know of the world. Its readers read each output once, whichever metrics ask."""
    from crossflow.scenes import VERSION as WORLD
    from crossflow.scenes.facts import OF_THINGS, right, tells
    from crossflow.scenes.sense import read

    def compared(found: Facts, true: Facts, factor: str) -> bool | None:
        return False if factor in OF_THINGS and len(true.things) > MOST else right(found, true, factor)

    def said(found: Facts, factor: str) -> bool:
        values = [getattr(thing, factor) for thing in found.things] if factor in OF_THINGS else [getattr(found, factor)]
        return any(value is not None for value in values)

    return World(
        name=f"crossflow.scenes.facts, world {WORLD}",
        read=once(read),
        tells=lru_cache(maxsize=4096)(lambda name, of: tells(event(name), of)),
        right=compared,
        said=said,
        bounce=lambda found: found.bounce,
        may=LEFT_OUT,
    )


class RealData:
    """A reference in a model's place: real values of an example's own event (``ceiling``), or shuffled ones.

    For ``chance`` each output is of another one of the suite's events, no two of one.
    """

    def __init__(self, tasks: str, split: str, role: Literal["chance", "ceiling"]) -> None:
        from crossflow.scenes import VERSION as WORLD

        self._tasks, self._split, self.name = tasks, split, role
        self.identity: Mapping[str, Any] = {"world": WORLD, "split": split, "outputs": f"real data, {role}"}

    def read(self, example_id: str, index: int) -> Outputs:
        """Return the outputs of an example by modality."""
        example = _by_id(self._tasks, self._split)[example_id]
        wanted = example.source.wanted if isinstance(example.source, Ask) else ()
        own = Judged.of(example).event
        of = self._others(own, example_id, index, len(wanted)) if self.name == "chance" else [own] * len(wanted)
        return {modality: real(name, modality) for modality, name in zip(wanted, of, strict=True)}

    def _others(self, own: str, example_id: str, index: int, count: int) -> list[str]:
        """So many other events of the suite."""
        digest = hashlib.sha256(f"{example_id}\0{index}".encode()).digest()
        others = EVENTS[self._tasks] - 1
        first = int.from_bytes(digest[:4], "big")
        steps = [1 + (first + place) % others for place in range(count)]
        return [f"{self._split}-{(int(own.rpartition('-')[2]) + step) % EVENTS[self._tasks]:06d}" for step in steps]


def pictures(tasks: str, split: str, example_id: str) -> dict[str, Output]:
    """What is shown beside an example's outputs: the inputs that are no text, and what its event really was."""
    example = _by_id(tasks, split)[example_id]
    if not isinstance(example.source, Ask):
        return {}
    shown = {f"source {name}": real(of[0], name) for name, of in example.source.given.items() if name != "text"}
    target = Judged.of(example).event
    return shown | {f"target {each}": real(target, each) for each in example.source.wanted if each != "text"}
