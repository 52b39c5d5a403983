"""Latent alignment: modalities that are generated together, each told by its partners' environment vectors.

CoDi (arXiv 2305.11846, section 3.3) trains it on pairs, with the diffusers frozen. Its authors' code connects a
modality to its own vector instead of its partners': here that is the context ``self``.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from types import MappingProxyType
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from crossflow.anytoany.diffuser import Diffuser, Through
from crossflow.anytoany.environment import Connections, Environment, EnvironmentConfig
from crossflow.errors import CrossFlowError
from crossflow.flow import losses
from crossflow.flow.losses import Draws, Times
from crossflow.model.settings import Losses

Context = Literal["others", "self", "none"]
"""Whose environment vectors a modality sees: its partners', its own as in the authors' code, or nobody's."""
Merge = Literal["mean", "concat"]
"""How the vectors of several partners become one context: their mean, as in the paper, or all of them as tokens."""


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """How modalities see one another, and the loss that teaches it.

    ``contrast`` is the weight of the contrastive term between environment vectors of one item, at ``temperature``.
    ``reconstruction`` is that of a term by which environment vectors tell, without noise, the latents that they are of:
    vectors are frozen after their first pair, which may need less of them than later pairs do. CoDi's is 0.
    """

    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    context: Context = "others"
    merge: Merge = "mean"
    contrast: float = 0.1
    temperature: float = 0.1
    reconstruction: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.contrast < float("inf") and 0 < self.temperature < float("inf")):
            raise CrossFlowError(
                f"contrast is {self.contrast} at the temperature {self.temperature}; they must be finite, the first at "
                "least 0, the second above."
            )
        if not 0 <= self.reconstruction < float("inf"):
            raise CrossFlowError(f"reconstruction is {self.reconstruction}; it must be finite, and at least 0.")


class Part(NamedTuple):
    """The networks of one modality; without alignment it can be generated alone."""

    diffuser: Diffuser
    environment: Environment | None = None
    connections: Connections | None = None


class JointDraws(NamedTuple):
    """The random numbers of a step of joint training; row i belongs to item i.

    An item has one time for all modalities, and keeps or loses its prompt for all. ``seen`` says which modality (row)
    sees which (column). ``moment`` is a time that all items of the step have in common, at which their environment
    vectors are contrasted: items of different times could be told apart by these alone.
    """

    noise: Mapping[str, Float[Tensor, "b c h w"]]
    t: Float[Tensor, " b"]
    conditional: Bool[Tensor, " b"]
    seen: Bool[Tensor, "b m m"]
    moment: Float[Tensor, " b"]

    def of(self, modality: str) -> Draws:
        """The draws of one modality's loss."""
        return Draws(self.noise[modality], self.t, self.conditional, torch.arange(len(self.t), device=self.t.device))

    def rows(self, start: int, stop: int) -> "JointDraws":
        """The draws of a slice of the batch."""
        noise = {name: part[start:stop] for name, part in self.noise.items()}
        return JointDraws(noise, *(part[start:stop] for part in self[1:]))

    def to(self, device: torch.device) -> "JointDraws":
        return JointDraws(
            {name: part.to(device) for name, part in self.noise.items()}, *(p.to(device) for p in self[1:])
        )


def draw_jointly(
    count: int,
    shapes: Mapping[str, tuple[int, int, int]],
    null_rate: float,
    generator: torch.Generator,
    times: Times = "uniform",
) -> JointDraws:
    """Draw for ``count`` items of several modalities; each sees a random set of the others, never an empty one."""
    drawn = {name: losses.draw(count, shape, null_rate, generator, times=times) for name, shape in shapes.items()}
    first = next(iter(drawn.values()))
    others = ~torch.eye(len(shapes), dtype=torch.bool)
    some = (torch.rand(count, len(shapes), len(shapes), generator=generator) < 0.5) & others
    seen = torch.where(some.any(2, keepdim=True), some, others)
    moment = losses.draw(1, next(iter(shapes.values())), 0.0, generator, times=times).t.expand(count)
    return JointDraws({name: each.noise for name, each in drawn.items()}, first.t, first.conditional, seen, moment)


def joint_loss(
    parts: Mapping[str, Part],
    latents: Mapping[str, Float[Tensor, "b c h w"]],
    prompts: Float[Tensor, "b k d"],
    draws: JointDraws,
    config: AlignmentConfig,
    same: Int[Tensor, " b"],
    reconstructions: Mapping[str, nn.Module] = MappingProxyType({}),
) -> Losses:
    """The loss of modalities that are generated together, all of them at one time: the paper's is of two.

    The mean of their diffusers' losses, each connected to what it sees, and the contrastive term between the
    environment vectors of the latents noised to one time; items with the same id in ``same`` are not told apart. With
    it that of ``reconstructions`` from the vectors of a modality, of those that have one. Which weights learn is up to
    the caller (``learning``).
    """
    names = list(latents)

    def told(t: Tensor) -> dict[str, Tensor]:
        noised = {name: parts[name].diffuser.path.sample(draws.noise[name], latents[name], t).xt for name in names}
        return environments(parts, noised, t)

    vectors, contrasted = told(draws.t), told(draws.moment)
    errors = []
    for row, name in enumerate(names):
        through = connected(parts[name], name, vectors, config, draws.seen[:, row])
        errors.append(parts[name].diffuser.errors(latents[name], prompts, draws.of(name), through).mean())
    flow = torch.stack(errors).mean()
    pairs = [
        losses.contrastive(contrasted[a], contrasted[b], 1 / config.temperature, same)
        for a, b in combinations(names, 2)
    ]
    contrast = torch.stack(pairs).mean()
    own = {f"flow_{name}": error.detach() for name, error in zip(names, errors, strict=True)}
    total = flow + config.contrast * contrast
    found = {"flow": flow.detach(), "contrast": contrast.detach(), **own}
    if reconstructions:
        missed = {name: (head(vectors[name]) - latents[name]).square().mean() for name, head in reconstructions.items()}
        reconstruction = torch.stack(list(missed.values())).sum() / len(names)
        total = total + config.reconstruction * reconstruction
        found["reconstruction"] = reconstruction.detach()
    return {"total": total, **found}


def environments(
    parts: Mapping[str, Part], noised: Mapping[str, Float[Tensor, "b c h w"]], t: Float[Tensor, " b"]
) -> dict[str, Float[Tensor, "b k e"]]:
    """The environment vectors of noised latents; CrossFlowError for a modality that was not aligned."""
    check_aligned(noised, [name for name, part in parts.items() if None not in (part.environment, part.connections)])
    return {name: cast(Environment, parts[name].environment)(x, t) for name, x in noised.items()}


def check_aligned(names: Iterable[str], aligned: Collection[str]) -> None:
    """CrossFlowError for one of ``names`` that was not aligned with another output."""
    for name in names:
        if name not in aligned:
            raise CrossFlowError(f"{name} was not aligned with another output: generate it alone, or train its pair.")


def connected(
    part: Part,
    name: str,
    vectors: Mapping[str, Float[Tensor, "b k e"]],
    config: AlignmentConfig,
    seen: Bool[Tensor, "b m"] | None = None,
) -> Through:
    """The connections of ``name``'s diffuser, given the environment ``vectors`` of all that is generated with it.

    ``seen`` says, in the order of ``vectors``, which of them an item sees; None is all but its own.
    """
    if config.context == "none" or part.connections is None:
        return ()
    if config.context == "self":
        return part.connections.given(vectors[name])
    others = [other for other in vectors if other != name]
    if seen is not None and len(others) > 1:
        columns = [column for column, other in enumerate(vectors) if other != name]
        return part.connections.given(*merged([vectors[other] for other in others], config.merge, seen[:, columns]))
    return part.connections.given(*merged([vectors[other] for other in others], config.merge))


def merged(
    vectors: Sequence[Float[Tensor, "b k e"]], merge: Merge, seen: Bool[Tensor, "b n"] | None = None
) -> tuple[Float[Tensor, "b j e"], Bool[Tensor, "b j"] | None]:
    """The vectors of n partners as one context, and its mask; a mean keeps its length, as in the authors' code."""
    if merge == "concat":
        return torch.cat(list(vectors), dim=1), None if seen is None else seen.repeat_interleave(vectors[0].shape[1], 1)
    stacked = torch.stack(list(vectors), dim=1)
    if seen is None:
        return stacked.mean(1), None
    weights = seen.to(stacked)[:, :, None, None]
    return (weights * stacked).sum(1) / weights.sum(1), None


def learning(pairs: Sequence[tuple[str, str]], index: int) -> tuple[str, ...]:
    """The modalities whose environment and connections learn in the pair ``index``: those of no pair before it.

    CrossFlowError for a pair of which nothing is left to learn.
    """
    before = {name for pair in pairs[:index] for name in pair}
    new = tuple(name for name in pairs[index] if name not in before)
    if not new:
        raise CrossFlowError(
            f"The pair {' and '.join(pairs[index])} has nothing to learn: earlier pairs aligned both; leave it out."
        )
    return new
