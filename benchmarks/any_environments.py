"""What outputs that are made together tell each other: ``python -m benchmarks.any_environments --ckpt FILE``.

For every two modalities that a system can make together, at several times of the path: how well a diffuser predicts its
target alone, told by its partner's environment vector, and told by that of another event; and how often the vectors of
one event find each other among all. It says where the coherence of joint outputs comes from, or why there is none:
a partner that is told nothing more than alone cannot follow. Events are of the validation split. Writes
results/scenes/any_environments.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from jaxtyping import Float
from torch import Tensor

from crossflow.anytoany.alignment import Part, connected, environments
from crossflow.anytoany.prompts import found_first
from crossflow.anytoany.system import AnyToAny, load_system
from crossflow.errors import CrossFlowError, one_sentence
from crossflow.files.hashes import file_sha256
from crossflow.files.writing import write_whole
from crossflow.sampling.text_to_image import prompt_seed, seeded_noise
from crossflow.scenes.events import Event, event
from crossflow.scenes.sense import value
from crossflow.training.data.events import target
from crossflow_eval.environment import hardware
from crossflow_eval.stats import bootstrap_mean
from crossflow_eval.types import Value

TIMES = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
"""Of the path from noise, at 0, to data."""
PAGE = Path("results/scenes/any_environments.md")


@dataclass(frozen=True, kw_only=True)
class Told:
    """At one time: the error of a target's prediction, as a share of its variance.

    ``alone`` is the diffuser's by itself; ``less`` is by how much of it the error is smaller with the partner's vector,
    and ``misled`` by how much it is larger with the vector of another event's partner.
    """

    alone: float
    less: Value
    misled: Value


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two modalities at one time: what each is told by the other, and R@1 between their environment vectors."""

    told: Mapping[str, Told]
    found: Value


@torch.no_grad()
def measure(system: AnyToAny, events: Sequence[Event]) -> dict[tuple[str, str], dict[float, Pair]]:
    """Every two aligned modalities at every time."""
    names = [name for name in system.config.names if name in system.config.aligned]
    if len(names) < 2:
        raise CrossFlowError("This system has no two modalities that are aligned as outputs: train its pairs.")
    system.config.needing("prompted", ["text"])
    prompts = system.prompts["text"](system.read("text", [value(each, "text", 0) for each in events]))
    latents = {name: system.latents(name, [target(each, name) for each in events]) for name in names}
    noise = {name: _noise(events, name, x) for name, x in latents.items()}
    return {
        pair: {
            time: _at(
                system, {name: latents[name] for name in pair}, {name: noise[name] for name in pair}, prompts, time
            )
            for time in TIMES
        }
        for pair in combinations(names, 2)
    }


def _noise(events: Sequence[Event], name: str, latents: Tensor) -> Tensor:
    shape = (latents.shape[1], latents.shape[2], latents.shape[3])
    return torch.stack([seeded_noise(prompt_seed(0, f"{each.id} {name}"), shape) for each in events])


def _at(
    system: AnyToAny,
    latents: Mapping[str, Float[Tensor, "n c h w"]],
    noise: Mapping[str, Float[Tensor, "n c h w"]],
    prompts: Float[Tensor, "n k d"],
    time: float,
) -> Pair:
    parts = system.parts(tuple(latents))
    t = torch.full((len(prompts),), time)
    x = {name: parts[name].diffuser.path.sample(noise[name], latents[name], t).xt for name in latents}
    vectors = environments(parts, x, t)
    told = {}
    for name, partner in (tuple(latents), tuple(latents)[::-1]):
        others = {**vectors, partner: vectors[partner].roll(1, 0)}
        alone, own, other = (
            _errors(system, parts[name], name, x[name], latents[name], prompts, t, seen)
            for seen in (None, vectors, others)
        )
        told[name] = Told(
            alone=float(alone.mean() / latents[name].var(0).mean().double().numpy()),
            less=bootstrap_mean((alone - own) / alone.mean()),
            misled=bootstrap_mean((other - alone) / alone.mean()),
        )
    one, other = (vectors[name] for name in latents)
    return Pair(told=told, found=bootstrap_mean(found_first(one, other).double().numpy()))


def _errors(
    system: AnyToAny,
    part: Part,
    name: str,
    x: Float[Tensor, "n c h w"],
    latents: Float[Tensor, "n c h w"],
    prompts: Float[Tensor, "n k d"],
    t: Float[Tensor, " n"],
    vectors: Mapping[str, Float[Tensor, "n k e"]] | None,
) -> Float[np.ndarray, " n"]:
    """The mean squared error of each item's predicted target, seeing these environment vectors."""
    through = () if vectors is None else connected(part, name, vectors, system.config.alignment)
    velocity = part.diffuser.field(prompts, through)(x, t, torch.ones(len(x), dtype=torch.bool))
    _, predicted = part.diffuser.path.ends(x, velocity, t)
    return (predicted - latents).square().flatten(1).mean(1).double().numpy()


def report(found: Mapping[tuple[str, str], Mapping[float, Pair]], trained: Sequence[tuple[str, str]], n: int) -> str:
    """The tables, a pair each; ``trained`` were aligned with each other."""
    lines: list[str] = []
    for pair, times in found.items():
        known = pair in trained or pair[::-1] in trained
        lines += [
            f"## {pair[0]} and {pair[1]}{'' if known else ', never trained together'}",
            "",
            f"| time | {' | '.join(f'{name} alone | told | misled' for name in pair)} | R@1 of {n} |",
            f"|---:|{'---:|' * 7}",
        ]
        for time, at in times.items():
            cells = [
                text
                for name in pair
                for text in (f"{at.told[name].alone:.3f}", _percent(at.told[name].less), _percent(at.told[name].misled))
            ]
            lines.append(f"| {time:g} | {' | '.join(cells)} | {_percent(at.found)} |")
        lines.append("")
    return "\n".join(lines)


def _percent(of: Value) -> str:
    interval = "" if of.ci_low is None or of.ci_high is None else f" [{100 * of.ci_low:.1f}, {100 * of.ci_high:.1f}]"
    return f"{100 * of.mean:.1f}{interval}"


def main(
    ckpt: Annotated[Path, typer.Option(help="The file of a system.")],
    n: Annotated[int, typer.Option(min=2, help="Events of the validation split.")] = 256,
    out: Annotated[Path, typer.Option()] = PAGE,
) -> None:
    """Measure what outputs tell each other, and write the page."""
    with one_sentence():
        system = load_system(ckpt)
        found = measure(system, [event("val", i) for i in range(n)])
        trained = [pair for note in system.config.trained if note.stage == "pair" for pair in note.pairs]
        lines = [
            "# What outputs made together tell each other",
            "",
            f"`python -m benchmarks.any_environments --ckpt {ckpt.name} --n {n}`, {hardware()}. The file has the",
            f"sha256 {file_sha256(ckpt)[:12]}; {n} events of the validation split, prompted by their bare captions.",
            "",
            "Alone: the error of a diffuser's predicted target by itself, as a share of the target's variance. Told: "
            "by how much of it, in percent, the error is smaller where the partner's environment vector is read, of "
            "latents at the same time. Misled: by how much larger with the vector of another event. R@1: in percent, "
            f"how often the vectors of one event find each other; {100 / n:.1f} is chance. Brackets: 95 % intervals.",
            "",
            report(found, trained, n),
        ]
        write_whole(out, "\n".join(lines).encode())
        typer.echo(out)


if __name__ == "__main__":
    typer.run(main)
