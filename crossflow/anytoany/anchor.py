"""A shared latent and one flow a modality, run backward to encode and forward to decode: after FlowBind (ICLR 2026).

One objective, one stage and n flows. What is shared is learned: it is the source of every flow, made of the modalities
that an item has, and of fixed variance, for a constant would be the easiest to share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossflow.errors import CrossFlowError, named
from crossflow.flow import losses
from crossflow.flow.path import LinearPath
from crossflow.flow.solver import Velocity, solver_named
from crossflow.model.settings import Losses, Sampling, check_reversible
from crossflow.networks import TransformerConfig
from crossflow.networks.blocks import Block, Patches, initialise


@dataclass(frozen=True, kw_only=True)
class AnchorConfig:
    """Flows between a shared latent and those of ``modalities``, all of ``shape`` (c, h, w).

    ``given`` are those that are given in another form than they are made in, a text as a bare prompt: they have a
    second flow, which encodes them. ``sd`` is the deviation of the noise on the shared latent: what no modality shares
    is drawn by it.
    """

    shape: tuple[int, int, int]
    modalities: tuple[str, ...]
    backbone: TransformerConfig
    given: tuple[str, ...] = ()
    sd: float = 0.2
    sampling: Sampling = field(default_factory=lambda: Sampling(solver="midpoint", steps=10))

    def __post_init__(self) -> None:
        if not 0 < self.sd < float("inf"):
            raise CrossFlowError(f"sd is {self.sd}; it must be a finite number above 0.")
        check_reversible(self.sampling)

    @property
    def ends(self) -> tuple[str, ...]:
        """What there is a flow to: the modalities as they are made, and those that are given otherwise as they are."""
        return (*self.modalities, *map(as_given, self.given))

    def build(self) -> "Anchor":
        """The model with random weights."""
        return Anchor(self)


def as_given(name: str) -> str:
    """What a modality is called in the form that it is given in, where it is made in another."""
    return f"{name} given"


class AnchorDraws(NamedTuple):
    """The random numbers of a step: noise on the shared latent, and a time an item, the same for all its flows."""

    noise: Float[Tensor, "b c h w"]
    t: Float[Tensor, " b"]

    def rows(self, start: int, stop: int) -> "AnchorDraws":
        """The draws of a slice of the batch."""
        return AnchorDraws(self.noise[start:stop], self.t[start:stop])

    def to(self, device: torch.device) -> "AnchorDraws":
        return AnchorDraws(self.noise.to(device), self.t.to(device))


class Anchor(nn.Module):
    """The flows, and the encoders that training makes the shared latent with."""

    def __init__(self, config: AnchorConfig) -> None:
        super().__init__()
        self.config = config
        self.flows = nn.ModuleDict({name: config.backbone.build(config.shape) for name in config.ends})
        self.encoders = nn.ModuleDict({name: _Encoder(config) for name in config.ends})
        self.norm = nn.BatchNorm2d(config.shape[0], affine=False, track_running_stats=False)
        self.path = LinearPath()

    def shared(self, latents: Mapping[str, Float[Tensor, "b c h w"]]) -> Float[Tensor, "b c h w"]:
        """The shared latent of the modalities that the items of a batch have: the mean over them, normalised."""
        return self.norm(torch.stack([self.encoders[name](x) for name, x in latents.items()]).mean(0))

    def forward(self, latents: Mapping[str, Float[Tensor, "b c h w"]], draws: AnchorDraws) -> Losses:
        """The mean of the flow-matching losses of the modalities that the items of a batch have."""
        x0 = self.shared(latents) + self.config.sd * draws.noise
        errors = []
        for name, x1 in latents.items():
            xt, velocity = self.path.sample(x0, x1, draws.t)
            errors.append(losses.flow_matching((self._velocity(name)(xt, draws.t),), velocity, (1.0,)).mean())
        flow = torch.stack(errors).mean()
        return {"total": flow, "flow": flow.detach()}

    def encode(self, name: str, latents: Float[Tensor, "b c h w"], sampling: Sampling) -> Float[Tensor, "b c h w"]:
        """The shared latent of a modality that is given, by its flow run backward; its noise is in it."""
        name = as_given(name) if name in self.config.given else name
        return solver_named(sampling.solver)(self._velocity(name), latents, sampling.steps, backward=True)

    def decode(self, name: str, shared: Float[Tensor, "b c h w"], sampling: Sampling) -> Float[Tensor, "b c h w"]:
        """Latents of one modality."""
        return solver_named(sampling.solver)(self._velocity(name), shared, sampling.steps)

    def generate(
        self,
        shared: Float[Tensor, "b c h w"],
        noise: Float[Tensor, "b c h w"],
        wanted: Sequence[str],
        sampling: Sampling,
    ) -> dict[str, Float[Tensor, "b c h w"]]:
        """The wanted modalities of a shared latent, which belong together: it gets one ``noise`` for all of them."""
        drawn = shared + sampling.noise * self.config.sd * noise
        return {name: self.decode(name, drawn, sampling) for name in wanted}

    def _velocity(self, name: str) -> Velocity:
        flow = named("modality", name, dict(self.flows.items()))
        return lambda x, t: flow(x, t, torch.ones(len(x), dtype=torch.bool, device=x.device))


class _Encoder(nn.Module):
    """Latents of a modality to its share of the shared latent: one block over their tokens."""

    def __init__(self, config: AnchorConfig) -> None:
        super().__init__()
        self.patches = Patches(config.shape, 1, config.backbone.width)
        self.block = Block(config.backbone.width, config.backbone.heads)
        self.apply(initialise)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.patches.maps(self.block(self.patches.tokens(x)))
