"""What stands beside generating together, on the same parts: one output after the other, and direct flows in a chain.

Independent outputs are ``sample_jointly`` with the context ``none``; the flows through a shared latent are ``anchor``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from crossflow.anytoany.alignment import Part
from crossflow.anytoany.joint import Draws, mixed
from crossflow.errors import CrossFlowError
from crossflow.flow.guidance import NoGuidance
from crossflow.modalities.latents import LatentsConfig
from crossflow.model.crossflow import CrossFlow, FlowConfig
from crossflow.model.settings import Override, Sampling, check_reversible
from crossflow.networks import BackboneConfig
from crossflow.sources.codec import CodecConfig

Encode = Mapping[str, Callable[[Tensor], Tensor]]
"""Latents [b c h w] to prompt vectors [b k d], by modality."""


def sample_in_turn(
    parts: Mapping[str, Part],
    prompts: Float[Tensor, "b k d"],
    draws: Draws,
    sampling: Sampling,
    encode: Encode,
    scales: Mapping[str, float] | None = None,
) -> dict[str, Float[Tensor, "b c h w"]]:
    """Latents of every modality of ``draws``, in its order, each prompted by what is there already.

    The prompt of each is the mean of ``prompts`` and the vectors of all outputs before it.
    """
    said, latents = [prompts], dict[str, Tensor]()
    for name, noise in draws.items():
        if latents:
            last = next(reversed(latents))
            said = [*said, encode[last](latents[last])]
        own = sampling.but(Override(guidance_scale=(scales or {}).get(name)))
        latents[name] = parts[name].diffuser.generate(mixed(said), next(noise), own, noise)
    return latents


@dataclass(frozen=True, kw_only=True)
class DirectConfig:
    """CrossFlow models between the latents of ``pairs`` of modalities, padded to one ``shape`` (c, h, w).

    Each starts at its source's latents with noise of the deviation ``sd``, so what it ends in when it is run backward
    can be decoded. There is no guidance: the way back from a guided field does not follow the data.
    """

    shape: tuple[int, int, int]
    backbone: BackboneConfig
    pairs: tuple[tuple[str, str], ...] = ()
    sd: float = 0.2
    sampling: Sampling = field(default_factory=lambda: Sampling(solver="midpoint", steps=10))

    def __post_init__(self) -> None:
        check_reversible(self.sampling)

    def flow(self, source: str, target: str) -> FlowConfig:
        """The model of one pair."""
        return FlowConfig(
            shape=self.shape,
            reads=LatentsConfig(shape=self.shape, name=source),
            source=CodecConfig(sd=self.sd),
            target=LatentsConfig(shape=self.shape, name=target),
            backbone=self.backbone,
            guidance=NoGuidance(),
            times="uniform",
            sampling=self.sampling,
        )

    def build(self) -> nn.ModuleDict:
        """The models with random weights, by the pair's names joined by a hyphen."""
        return nn.ModuleDict({"-".join(pair): self.flow(*pair).build() for pair in self.pairs})


def along(
    flows: Sequence[tuple[CrossFlow, bool]],
    latents: Float[Tensor, "b c h w"],
    noise: Sequence[Float[Tensor, "b c h w"]],
    sampling: Sampling,
) -> Float[Tensor, "b c h w"]:
    """Latents carried along direct flows, each forward or, where its flag is True, backward.

    Every flow begins at its source latents with new ``noise``, one a flow; run backward it ends at source latents with
    their noise in them.
    """
    for (flow, backward), drawn in zip(flows, noise, strict=True):
        if backward:
            latents = flow.sample(latents, sampling.solver, sampling.steps, 1.0, backward=True)
        else:
            latents = flow.generate(latents, None, drawn, sampling)
    return latents


def route(flows: Sequence[tuple[str, str]], source: str, target: str) -> list[tuple[tuple[str, str], bool]]:
    """The fewest of the direct ``flows`` that lead from ``source`` to ``target``, and which of them run backward.

    A flow runs backward only where none leads that way. CrossFlowError where none lead there.
    """
    ways = [(start, end, (start, end), False) for start, end in flows]
    ways += [(end, start, (start, end), True) for start, end in flows if (end, start) not in flows]
    found: dict[str, list[tuple[tuple[str, str], bool]]] = {source: []}
    reached = [source]
    for here in reached:
        for start, end, flow, backward in ways:
            if start == here and end not in found:
                found[end] = [*found[here], (flow, backward)]
                reached.append(end)
    if target not in found:
        raise CrossFlowError(f"No direct flow leads from {source} to {target}: train their pair, or one to each.")
    return found[target]


def padded(latents: Float[Tensor, "b c h w"], channels: int) -> Float[Tensor, "b k h w"]:
    """Latents with zeros for what they lack of ``channels``, or cut to so many."""
    return F.pad(latents, (0, 0, 0, 0, 0, channels - latents.shape[1]))
