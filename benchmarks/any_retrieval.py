"""What the prompt encoders of an any-to-any system tell apart: ``python -m benchmarks.any_retrieval --ckpt FILE``.

Retrieval: of 256 events in one modality the one whose prompt vector is nearest to that of an event in another, for
every two modalities, whether their prompts were aligned with each other or not, and every form of caption. Beside it
what a retriever reaches that knows all told facts, and errs only where several events agree with them. Then probes
of the facts that a modality tells, from its frozen prompt vectors: what a network that is given nothing else can know
of them. Then what the diffusers make of them: images of texts that name one object, and texts of images beside what the
probes read of these. Writes results/scenes/any_retrieval.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.scenes_reader import START
from benchmarks.scenes_senses import NAMES
from crossflow.anytoany.prompts import found_first
from crossflow.anytoany.system import AnyToAny, load_system
from crossflow.errors import CrossFlowError, one_sentence
from crossflow.files.hashes import file_sha256
from crossflow.files.writing import write_whole
from crossflow.sampling.any_to_any import AnyToAnySampler
from crossflow.scenes.events import BOUNCES, Event, event
from crossflow.scenes.facts import FACTORS, TOLD, TOLERANCE, Facts, only, right, tells, told
from crossflow.scenes.sense import read, value
from crossflow.scenes.spec import CELLS, COLORS, SHAPES
from crossflow_eval.environment import hardware
from crossflow_eval.stats import BOOTSTRAP, bootstrap_mean, gain
from crossflow_eval.types import Value

GROUP = 256
"""Among so many events each is to be found."""
CHUNK = 256
"""Events encoded at once."""
PROBED = (*(name for name in FACTORS if name not in ("depth", "relation")), "nearest", "object_f1")
"""What the probe is asked: factors, and two that stand for what is told of each object by itself."""
PLACES = tuple(place / 2 for place in range(2 * CELLS - 1))
"""Cells, and what a text leaves open between two of them."""
LOOKS = tuple((shape, color) for shape in SHAPES for color in COLORS)
Probed = dict[str, tuple[Float[np.ndarray, " n"], ...]]
"""One score an event by factor, judged by the event itself and by another one."""
CAPTIONS = tuple(name for name in NAMES if name.startswith("text"))
SEED = 0
"""By which events are shuffled, for the answers that are judged by others, and networks of probes begin."""
HIDDEN, EPOCHS = 256, 25
"""The width of those networks, and how often they see every event."""
PENALTY = 1e-4
"""On the squared weights of the probe, whose inputs have unit variance."""


def modality(name: str) -> str:
    """The modality of a key of ``TOLD``."""
    return name.partition("-")[0]


def vectors(system: AnyToAny, events: Sequence[Event], name: str) -> Float[Tensor, "n k d"]:
    """The prompt vectors of events in a modality, or in a form of caption."""
    kind, _, form = name.partition("-")
    return encoded(system, kind, [value(item, kind, int(form or 0)) for item in events])


@torch.no_grad()
def encoded(system: AnyToAny, kind: str, raw: Sequence[Any]) -> Float[Tensor, "n k d"]:
    """The prompt vectors of raw values of a modality."""
    chunks = [system.read(kind, raw[start : start + CHUNK]) for start in range(0, len(raw), CHUNK)]
    return torch.cat([system.prompts[kind](each) for each in chunks])


def crossings(names: Sequence[str]) -> list[tuple[str, str]]:
    """Every two names of different modalities, in both orders."""
    pairs = [pair for pair in combinations(names, 2) if modality(pair[0]) != modality(pair[1])]
    return [*pairs, *((other, one) for one, other in pairs)]


def aligned(system: AnyToAny) -> frozenset[tuple[str, str]]:
    """The pairs of modalities, in either order, whose prompts were aligned with each other."""
    pairs = [pair for note in system.config.trained if note.stage == "prompts" for pair in note.pairs]
    return frozenset(pairs) | {(other, one) for one, other in pairs}


def retrieved(asked: Float[Tensor, "n k d"], answers: Float[Tensor, "n k d"]) -> Float[np.ndarray, " n"]:
    """What each event scores among the ``GROUP`` that it is in."""
    groups = zip(asked.split(GROUP), answers.split(GROUP), strict=True)
    return torch.cat([found_first(*group) for group in groups]).double().numpy()


def ceiling(events: Sequence[Event], asked: str, answers: str) -> Float[np.ndarray, " n"]:
    """What each event scores where all told facts are known: one of m answers that agree with it counts 1 / m.

    Of captions that agree those that fewest events agree with are the likeliest: they say more.
    """
    found = []
    for start in range(0, len(events), GROUP):
        fit = agreement(events[start : start + GROUP], asked, answers)
        rare = np.where(fit, fit.sum(0) if answers.startswith("text") else 1, len(fit) + 1)
        best = rare == rare.min(axis=1, keepdims=True)
        found.append(best.diagonal() / best.sum(axis=1))
    return np.concatenate(found)


def agreement(events: Sequence[Event], one: str, other: str) -> Bool[np.ndarray, "n n"]:
    """Whether what ``one`` tells of the event of a row can be true where ``other`` tells what it does of a column's."""
    common = TOLD[one] & TOLD[other]
    rows, columns = ([_key(tells(item, name), common) for item in events] for name in (one, other))
    places: dict[Hashable, list[int]] = {}
    for place, key in enumerate(columns):
        places.setdefault(key, []).append(place)
    found = np.zeros((len(events), len(events)), dtype=bool)
    for place, key in enumerate(rows):
        for candidate in places.get(key, ()):
            found[place, candidate] = _agree(events[place], one, events[candidate], other)
    return found


def _key(facts: Facts, common: frozenset[str]) -> Hashable:
    """What must be equal where all ``common`` facts agree."""
    of_things = [name for name in ("shape", "color") if name in common]
    looks = [sorted(str(getattr(thing, name)) for thing in facts.things) for name in of_things]
    rest = [getattr(facts, name) for name in ("night", "bounce") if name in common]
    return len(facts.things), tuple(map(tuple, looks)), tuple(rest)


def _agree(first: Event, one: str, second: Event, other: str) -> bool:
    sides = ((first, one), (second, other))
    common = frozenset.intersection(*(told(name, item.example.task) for item, name in sides)) - {"relation"}
    facts = [tells(item, name) for item, name in sides]
    true, seen = (only(each, common) for each in facts)
    if any(right(seen, true, factor) is False for factor in common):
        return False
    return all(
        right(replace(shown, relation=None), said, "relation") is not False
        for name, said, shown, able in ((one, *facts, TOLD[other]), (other, *reversed(facts), TOLD[one]))
        if name == "text-0" and "relation" in able
    )


def questions(facts: Facts) -> dict[str, tuple[int, ...]]:
    """What a probe is asked of facts: by factor, numbers to tell."""
    things = facts.things

    def of_each(name: str, able: Sequence[object]) -> tuple[int, ...]:
        values = [getattr(thing, name) for thing in things]
        return tuple(values.count(each) for each in able)

    looks = [(thing.shape, thing.color) for thing in things]
    return {
        "count": (len(things),),
        "shape": of_each("shape", SHAPES),
        "color": of_each("color", tuple(COLORS)),
        "column": of_each("column", PLACES),
        "row": of_each("row", PLACES),
        "night": (int(bool(facts.night)),),
        "bounce": (0 if facts.bounce is None else BOUNCES.index(facts.bounce),),
        "object_f1": tuple(int(look in looks) for look in LOOKS),
    }


Read = Callable[[Float[Tensor, "n d"]], Float[Tensor, "n qc"]]
"""Vectors to the logits of the classes of every question."""


def linear(x: Float[Tensor, "n d"], y: Int[Tensor, "n q"], classes: int) -> Read:
    """Logistic regressions of all questions ``y`` by full-batch L-BFGS: convex, so there is no seed."""
    inputs = _extended(x)
    weights = torch.zeros(inputs.shape[1], y.shape[1] * classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = _wrong(inputs @ weights, y) + PENALTY * weights.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return lambda x: _extended(x) @ weights.detach()


def network(x: Float[Tensor, "n d"], y: Int[Tensor, "n q"], classes: int) -> Read:
    """The same by a network with one hidden layer, which can read what belongs to one object."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        net = nn.Sequential(nn.Linear(x.shape[1], HIDDEN), nn.GELU(), nn.Linear(HIDDEN, y.shape[1] * classes))
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x), generator=generator).split(128):
            optimizer.zero_grad()
            _wrong(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return torch.no_grad()(net)


def _wrong(logits: Float[Tensor, "n qc"], y: Int[Tensor, "n q"]) -> Float[Tensor, ""]:
    """The cross-entropy, summed over the questions."""
    return F.cross_entropy(logits.unflatten(1, (y.shape[1], -1)).flatten(0, 1), y.flatten()) * y.shape[1]


def _extended(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d1"]:
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1)


PROBES = {"linear": linear, "network": network}


def nearest(events: Sequence[Event]) -> Float[Tensor, " n"]:
    """The logarithm of the distance of each event's nearest object."""
    return torch.tensor([min(item.depth for item in each.scene.objects) for each in events]).log().float()


def probe(
    kind: str,
    train: tuple[Float[Tensor, "n d"], Sequence[Event]],
    test: tuple[Float[Tensor, "m d"], Sequence[Event]],
    name: str,
) -> Probed:
    """How each event of ``test`` is told by one of ``PROBES`` of ``train``, by factor: 1 where all is right, and an F1.

    Then the same of answers that are judged by another event.
    """
    mean, deviation = train[0].mean(0), train[0].std(0) + 1e-6
    (x, learned), (vectors, asked) = (((each - mean) / deviation, events) for each, events in (train, test))
    looks = {"object_f1"} if "color" in TOLD[name] else set[str]()
    factors = [factor for factor in PROBED if factor in TOLD[name] | looks]
    asks = [[questions(tells(item, name)) for item in items] for items in (learned, asked)]
    flat = [torch.tensor([[n for factor in factors for n in each[factor]] for each in items]) for items in asks]
    parts = [len(asks[0][0][factor]) for factor in factors]
    classes = int(flat[0].max()) + 1
    logits = PROBES[kind](x, flat[0], classes)(vectors).unflatten(1, (-1, classes))
    guessed = dict(zip(factors, logits.split(parts, dim=1), strict=True))
    true = dict(zip(factors, flat[1].split(parts, dim=1), strict=True))
    found = {
        factor: tuple(_right(guessed, each, factor) for each in _own_and_other(true[factor])) for factor in factors
    }
    if "depth" in TOLD[name] and kind == "linear":
        solved = torch.linalg.lstsq(_extended(x), nearest(learned)[:, None]).solution
        far = [(_extended(vectors) @ solved)[:, 0] - each for each in _own_and_other(nearest(asked))]
        found["nearest"] = tuple((each.abs() <= TOLERANCE["depth"]).double().numpy() for each in far)
    return found


def _own_and_other(of_events: Tensor) -> tuple[Tensor, Tensor]:
    return of_events, of_events[torch.randperm(len(of_events), generator=torch.Generator().manual_seed(SEED))]


def _right(guessed: Mapping[str, Tensor], true: Int[Tensor, "n q"], factor: str) -> Float[np.ndarray, " n"]:
    if factor == "object_f1":
        return _f1(guessed[factor], guessed["count"][:, 0].argmax(1), true)
    return (guessed[factor].argmax(2) == true).all(1).double().numpy()


def _f1(logits: Float[Tensor, "n q c"], counts: Int[Tensor, " n"], true: Int[Tensor, "n q"]) -> Float[np.ndarray, " n"]:
    """Of as many objects as are counted, those that are likeliest there: 2 (named and there) / (named + there)."""
    order = (logits[..., 1] - logits[..., 0]).argsort(dim=1, descending=True)
    ranks = order.argsort(dim=1)
    named = ranks < counts[:, None]
    return (2 * (named & (true > 0)).sum(1) / (counts + true.sum(1))).double().numpy()


@dataclass(frozen=True, kw_only=True)
class Made:
    """What is made of prompt vectors and nothing else, by events, and judged by other ones, as ``Probed``.

    ``looks`` are those of the one object in images of a text, by the form of that: shape, color, both. ``object_f1`` is
    of texts of images.
    """

    looks: Mapping[str, Probed]
    object_f1: tuple[Float[np.ndarray, " n"], ...]


def made_of(system: AnyToAny, events: Sequence[Event]) -> Made | None:
    """What a system makes of events; None where it does not make texts and images of one another.

    Images are of texts that tell shape and color of one object: of prompts (text-0) those that name both, and the other
    captions by turns.
    """
    sampler = AnyToAnySampler(system)
    if not {"text", "image"} <= {*sampler.reads} & {*sampler.makes}:
        return None
    alone = [item for item in events if len(item.scene.objects) == 1]
    bare, *rest = CAPTIONS
    asked = {
        bare: [(item, bare) for item in alone if item.example.task == "colors"],
        f"{rest[0]} to {rest[-1]}": [(item, rest[place % len(rest)]) for place, item in enumerate(alone)],
    }
    texts = facts_made(sampler, "image", [value(item, "image") for item in events], "text")
    return Made(
        looks={name: _looks(sampler, of) for name, of in asked.items() if of},
        object_f1=_judged(texts, [tells(item, "image") for item in events], object_f1),
    )


def facts_made(sampler: AnyToAnySampler, given: str, raw: Sequence[Any], wanted: str) -> list[Facts]:
    """What the exact reader finds in one output of each raw value, made by the seeds 0, 1, 2 and so on."""
    outputs = sampler.generate([{given: [each]} for each in raw], [wanted], list(range(len(raw))))
    return [read(wanted, each[wanted]) for each in outputs]


def object_f1(found: Facts, true: Facts) -> float:
    """Of objects by shape and color, as of the probes: 2 (named and there) / (named + there)."""
    named, there = ({(thing.shape, thing.color) for thing in facts.things} for facts in (found, true))
    return 2 * len(named & there) / (len(found.things) + len(there))


def _looks(sampler: AnyToAnySampler, asked: Sequence[tuple[Event, str]]) -> Probed:
    seen = facts_made(sampler, "text", [value(item, "text", CAPTIONS.index(name)) for item, name in asked], "image")
    true = [tells(item, name) for item, name in asked]
    shape, color = (
        _judged(seen, true, lambda one, other, of=each: right(one, other, of) is True) for each in ("shape", "color")
    )
    return {"shape": shape, "color": color, "both": tuple(one * other for one, other in zip(shape, color, strict=True))}


def _judged(
    found: Sequence[Facts], true: Sequence[Facts], score: Callable[[Facts, Facts], float]
) -> tuple[Float[np.ndarray, " n"], ...]:
    return tuple(
        np.array([float(score(one, true[int(place)])) for one, place in zip(found, places, strict=True)])
        for places in _own_and_other(torch.arange(len(true)))
    )


Scores = Mapping[tuple[str, str], Float[np.ndarray, " n"]]
"""One score an event, by what is asked with and what is found."""


def report(
    scores: Scores,
    ceilings: Scores,
    probed: Mapping[tuple[str, str], Probed],
    together: frozenset[tuple[str, str]],
    facts: Sequence[str],
    made: Made | None = None,
) -> str:
    """The Markdown page; ``facts`` are lines on how it was made."""
    names = sorted({name for pair in scores for name in pair}, key=NAMES.index)

    def cell(asked: str, answers: str) -> str:
        if (asked, answers) not in scores:
            return ""
        mark = "" if (modality(asked), modality(answers)) in together else "°"
        return f"{_points(scores[asked, answers])} / {_points(ceilings[asked, answers])}{mark}"

    groups: dict[str, list[tuple[str, str]]] = {"aligned with each other": [], "never seen together °": []}
    for pair in scores:
        seen = (modality(pair[0]), modality(pair[1])) in together
        groups["aligned with each other" if seen else "never seen together °"].append(pair)
    widths = [high - low for each in scores.values() for low, high in [_interval(each)]]
    lines = [
        "# What the prompt vectors of an any-to-any system tell apart",
        "",
        *facts,
        "",
        "## Retrieval",
        "",
        f"R@1 of {GROUP} in percent: of the events in the column's modality the one whose prompt vector is nearest to "
        "that of an event in the row's; one of m equally near counts 1 / m. Behind the stroke what a retriever reaches "
        "that knows all told facts of both, and errs where several events agree with them. "
        f"Intervals of 95 % ({BOOTSTRAP}) reach at most {100 * max(widths) / 2:.1f} to either side. "
        "° These prompts were never aligned with each other.",
        "",
        f"| asked with | {' | '.join(names)} |",
        f"|---|{'---:|' * len(names)}",
        *(f"| {asked} | {' | '.join(cell(asked, answers) for answers in names)} |" for asked in names),
        "",
        "| mean over pairs | R@1 | what the facts allow | share of it |",
        "|---|---:|---:|---:|",
    ]
    for label, pairs in groups.items():
        if pairs:
            mean, most = (np.mean([of[pair] for pair in pairs], axis=0) for of in (scores, ceilings))
            low, high = _interval(mean)
            share = mean.mean() / most.mean()
            lines.append(
                f"| {label} | {_points(mean)} [{100 * low:.1f}, {100 * high:.1f}] | {_points(most)} | {share:.2f} |"
            )
    widths = [high - low for of in probed.values() for own, _ in of.values() for low, high in [_interval(own)]]
    lines += [
        "",
        "## What probes read",
        "",
        "Percent of events in which a probe of the frozen prompt vectors has a told factor right; of objects, how many "
        "there are of each kind, so all must be right. Linear: a logistic regression. Network: one hidden layer of "
        f"{HIDDEN}. Nearest: the distance of the nearest object within a ratio of 1.25, by least squares. Object F1: "
        "of as many objects as are counted, those of the likeliest shape and colour. In brackets the same answers "
        f"judged by other events. Intervals of 95 % reach at most {100 * max(widths) / 2:.1f} to either side. What is "
        "made of a prompt alone can hardly have more right than the better of the two.",
        "",
        f"| | | {' | '.join(factor.replace('_', ' ') for factor in PROBED)} |",
        f"|---|---|{'---:|' * len(PROBED)}",
    ]
    for (name, kind), of in probed.items():
        cells = [f"{_points(of[each][0])} ({_points(of[each][1])})" if each in of else "" for each in PROBED]
        lines.append(f"| {name if kind == next(iter(PROBES)) else ''} | {kind} | {' | '.join(cells)} |")
    if made is not None:
        probes = {kind: of["object_f1"] for (name, kind), of in probed.items() if name == "image"}
        lines += ["", *_of_made(made, probes)]
    return "\n".join([*lines, ""])


def _of_made(made: Made, probes: Probed) -> list[str]:
    """What is made, beside what ``probes`` have of the same images."""
    best = max((own for own, _ in probes.values()), key=lambda scores: float(scores.mean()))
    described = made.object_f1[0]
    share = gain(described, np.zeros_like(described), best)
    columns = list(next(iter(made.looks.values()), {}))
    return [
        "## What is made of them",
        "",
        "One output of each, of one input alone, by the seeds 0, 1, 2 and so on and the system's own settings, read by "
        "the exact readers: percent, intervals of 95 %, and in brackets the same judged by other events.",
        "",
        "Images of texts that tell shape and colour of one object. Of prompts (text-0) those that name both; the other "
        "captions by turns, one of each event with one object.",
        "",
        f"| image of | {' | '.join(columns)} | n |",
        f"|---|{'---:|' * len(columns)}---:|",
        *(
            f"| {name} | {' | '.join(_judgement(of[each]) for each in columns)} | {len(of[columns[0]][0])} |"
            for name, of in made.looks.items()
        ),
        "",
        f"Object F1 of texts of images, beside the probes' of the same {len(described)} images, and the share of the "
        "better probe's; its interval is of the same resamples of both.",
        "",
        "| image to text | object F1 |",
        "|---|---:|",
        *(f"| probe, {kind} | {_judgement(of)} |" for kind, of in probes.items()),
        f"| the text that is made | {_judgement(made.object_f1)} |",
        *([] if share is None else [f"| share | {_ratio(share)} |"]),
    ]


def _judgement(of: tuple[Float[np.ndarray, " n"], ...]) -> str:
    own, other = of
    low, high = _interval(own)
    return f"{_points(own)} [{100 * low:.1f}, {100 * high:.1f}] ({_points(other)})"


def _ratio(of: Value) -> str:
    return f"{of.mean:.2f}" + ("" if of.ci_low is None else f" [{of.ci_low:.2f}, {of.ci_high:.2f}]")


def _points(scores: Float[np.ndarray, " n"]) -> str:
    return f"{100 * scores.mean():.1f}"


def _interval(scores: Float[np.ndarray, " n"]) -> tuple[float, float]:
    found = bootstrap_mean(scores)
    return (
        found.mean if found.ci_low is None else found.ci_low,
        found.mean if found.ci_high is None else found.ci_high,
    )


def main(
    ckpt: Annotated[Path, typer.Option(help="The file of a system.")],
    n: Annotated[int, typer.Option(min=GROUP, help=f"Events to be found: a multiple of {GROUP}.")] = 4 * GROUP,
    trained: Annotated[int, typer.Option(min=2, help="Events that the probes are fitted to.")] = 6000,
    out: Annotated[Path, typer.Option()] = Path("results/scenes/any_retrieval.md"),
) -> None:
    """Measure the prompt encoders of a system, and write the page."""
    with one_sentence():
        began = time.process_time()
        system = load_system(ckpt)
        names = [name for name in NAMES if modality(name) in system.config.prompted]
        if n % GROUP or len({modality(name) for name in names}) < 2:
            raise CrossFlowError(
                f"Of {n} events and prompt encoders of {', '.join(system.config.prompted) or 'nothing'} nothing can be "
                f"found: give a multiple of {GROUP}, and a system that reads two modalities."
            )
        test = [event("test", START + i) for i in range(n)]
        train = [event("train", i) for i in range(trained)]
        found = {name: vectors(system, test, name) for name in names}
        scores = {(one, other): retrieved(found[one], found[other]) for one, other in crossings(names)}
        ceilings = {pair: ceiling(test, *pair) for pair in scores}
        seen = {name: vectors(system, train, name).flatten(1) for name in names}
        probed = {
            (name, kind): probe(kind, (seen[name], train), (found[name].flatten(1), test), name)
            for name in names
            for kind in PROBES
        }
        made = made_of(system, test)
        minutes = (time.process_time() - began) / 60
        facts = [
            f"`python -m benchmarks.any_retrieval --ckpt {ckpt.name} --n {n} --trained {trained}`: {n} events of "
            f"`test` from index {START:,}, the probes fitted to {trained} of `train`; seed {SEED} of the "
            f"probes' networks and of the order of other events. Weights {file_sha256(ckpt)[:12]}. {hardware()}, "
            f"{minutes:.1f} CPU minutes.",
        ]
        page = report(scores, ceilings, probed, aligned(system), facts, made)
        write_whole(out, page.encode())
        typer.echo(page)


if __name__ == "__main__":
    typer.run(main)
