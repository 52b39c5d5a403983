"""The CrossFlow model: an encoder from data to source latents, and a flow from these to target latents.

It has the interface of the baseline (``standard``): ``forward(batch, draws)`` is the training loss, ``generate(...)``
the whole of sampling. The velocity field gets no condition: the text or image is encoded in x0 alone. What a model
generates from what is decided by its config's ``reads`` and ``target``; the code between is the same for every task.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from crossflow.errors import CrossFlowError
from crossflow.flow import losses
from crossflow.flow.ancestral import euler_ancestral
from crossflow.flow.batch import Batch
from crossflow.flow.field import Field, field_of
from crossflow.flow.guidance import GuidanceConfig, Indicator
from crossflow.flow.losses import Draws, Times
from crossflow.flow.path import PATHS
from crossflow.flow.solver import ANCESTRAL, Velocity, solver_named
from crossflow.losses import LossConfig
from crossflow.losses.term import Step
from crossflow.modalities import ReadsConfig, TargetConfig
from crossflow.model.settings import Losses, Sampling, Values, check_ends
from crossflow.networks import BackboneConfig
from crossflow.sources import SourceConfig


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """A CrossFlow model: from what it ``reads``, by a ``source``, to latents of ``shape`` (c, h, w) of the ``target``.

    ``backbone`` is the velocity network, ``losses`` are the terms added to the flow loss, ``times`` is the distribution
    of training times. The ``parameterisation`` is what the network predicts: the velocity, as in the paper, or the
    target, which is converted to a velocity before the loss (arXiv 2511.13720). ``stage_weights`` weight the flow loss
    at each resolution of the backbone, and ``tail`` is the last part of the path, where it counts less
    (``flow.losses.tail_weights``).
    """

    shape: tuple[int, int, int]
    reads: ReadsConfig
    source: SourceConfig
    target: TargetConfig
    backbone: BackboneConfig
    losses: tuple[LossConfig, ...] = ()
    guidance: GuidanceConfig = field(default_factory=Indicator)
    path: Literal["linear", "sincos"] = "linear"
    times: Times = "logit-normal"
    parameterisation: Literal["velocity", "target"] = "velocity"
    stage_weights: tuple[float, ...] = (1.0,)
    tail: float = 0.0
    sampling: Sampling = field(default_factory=Sampling)
    kind: Literal["crossflow"] = "crossflow"

    def __post_init__(self) -> None:
        check_ends(self)
        if self.source.accepts != self.reads.kind:
            raise CrossFlowError(f"The source {self.source.kind} reads {self.source.accepts}, not {self.reads.kind}.")
        learns = self.target.drawn and not self.target.external
        for term in self.losses:
            term.check(self.source.accepts, self.source.variance, self.guidance.null_rate > 0, learns)
        if len({term.name for term in self.losses}) < len(self.losses):
            raise CrossFlowError("Two terms of the loss have one name in the log: leave one of them out.")

    def build(self, training: bool = True) -> "CrossFlow":
        """The model; with ``training`` also the networks of the loss terms."""
        return CrossFlow(self, training)

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """All random numbers of a training step for a batch of ``count``."""
        null_rate, drawn = self.guidance.null_rate, self.target.drawn
        return losses.draw(count, self.shape, null_rate, generator, drawn, self.times)

    def after(self, init: Path | None) -> "FlowConfig":
        """Itself: what it starts from changes weights alone."""
        return self

    @property
    def summary(self) -> str:
        """Its ends and its network in a few words."""
        return f"{self.reads.name} to {self.target.name}, {self.kind} on {self.backbone.kind}"

    @property
    def terms(self) -> tuple[LossConfig, ...]:
        """The terms added to the flow loss."""
        return self.losses

    @property
    def beside(self) -> tuple[str, ...]:
        """The entries of a batch that loss terms read besides source and target."""
        return tuple(name for term in self.losses for name in term.reads)


class CrossFlow(nn.Module):
    """One modality to another with no noise source and no cross-attention (Liu et al. 2025, arXiv 2412.15213).

    ``training`` False leaves out the networks of the loss terms. ``weaker`` is the weaker model for autoguidance, if
    the config names one; it has no weaker model itself.
    """

    weaker: "CrossFlow | None"

    def __init__(self, config: FlowConfig, training: bool = True) -> None:
        super().__init__()
        self.config = config
        self.encoder = config.source.build(config.reads.shape, config.shape)
        self.backbone = config.backbone.build(config.shape)
        terms = config.losses if training else ()
        self.terms = nn.ModuleDict({term.name: term.build(config.reads.shape, config.shape) for term in terms})
        self.autoencoder = config.target.build(config.shape)
        self.path = PATHS[config.path]()
        self.weaker = None

    def forward(self, batch: Batch, draws: Draws, counted: tuple[str, ...] | None = None) -> Losses:
        """The training loss of one batch, given all random numbers.

        ``counted`` names the losses to compute, ``flow`` and those of the terms; None is all.
        """
        if len(self.terms) < len(self.config.losses):
            raise CrossFlowError("This model was built for sampling, without the terms of its loss: build it to train.")
        config, read, own = self.config, batch[self.config.reads.name], batch[self.config.target.name].values
        posterior = self.encoder(read.values, read.mask)
        x0 = posterior.sample(draws.noise)
        x1, learned = self.autoencoder.reach(batch.reaching(config.target.name, draws.donor), draws.target_noise)
        total = x1.new_zeros(())
        parts: Losses = {}
        if counted is None or "flow" in counted:
            xt, velocity = self.path.sample(x0, x1, draws.t)
            predicted = self._field().resolutions(xt, draws.t, draws.conditional)
            total = losses.flow_matching(predicted, velocity, config.stage_weights, batch.measured)
            if config.tail:
                total = total * losses.tail_weights(self.path.left(draws.t), config.tail)
            total = total.mean()
            parts["flow"] = total.detach()
        own = x1 if self.autoencoder.learns else own
        step = Step(batch, read, posterior, x0, own, draws.noise, self.encoder)
        for term in config.losses:
            if counted is not None and term.name not in counted:
                continue
            loss = self.terms[term.name](step)
            parts[term.name] = loss.detach()
            total = total + term.weight * loss
        if self.autoencoder.learns:
            parts["reconstruction"] = parts.get("reconstruction", 0.0) + learned.detach()
            total = total + learned
        watched = {
            "posterior_sd": (0.5 * posterior.log_var).exp().mean().detach(),
            "posterior_mean_square": posterior.mean.square().mean().detach(),
        }
        return {"total": total, **parts, **watched}

    @property
    def tabulates(self) -> bool:
        """Whether everything in its velocities that depends on time alone can be computed beforehand."""
        own = self.backbone.tabulates and self.config.parameterisation == "velocity"
        return own and (self.weaker is None or self.weaker.tabulates)

    def source(
        self, values: Values, mask: Bool[Tensor, "b n"] | None, noise: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """The source latent x0: a sample of the encoder's posterior."""
        return self.encoder(values, mask).sample(noise)

    def velocity(self, guidance_scale: float) -> Velocity:
        """The guided velocity field, a function of (x, t)."""
        weaker = None if self.weaker is None else self.weaker.velocity(1.0)
        return self.config.guidance.velocity(self._field(), guidance_scale, weaker)

    def sample(
        self,
        x0: Float[Tensor, "b c h w"],
        solver: str,
        steps: int,
        guidance_scale: float,
        backward: bool = False,
    ) -> Float[Tensor, "b c h w"]:
        """Integrate the flow from source to target latents or, with ``backward``, from target to source latents."""
        return solver_named(solver)(self.velocity(guidance_scale), x0, steps, backward)

    def generate(
        self,
        values: Values,
        mask: Bool[Tensor, "b n"] | None,
        noise: Float[Tensor, "b c h w"],
        sampling: Sampling,
        further: Iterator[Float[Tensor, "b c h w"]] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Encode what is read, and sample target latents; ``further`` is the noise of ancestral sampling's steps."""
        posterior = self.encoder(values, mask)
        x0 = posterior.sample(sampling.noise * noise)
        if sampling.solver == ANCESTRAL:
            sd = sampling.noise * torch.exp(0.5 * posterior.log_var)
            field = self.velocity(sampling.guidance_scale)
            return euler_ancestral(field, self.path, x0, posterior.mean, sd, further, sampling.steps)
        return self.sample(x0, sampling.solver, sampling.steps, sampling.guidance_scale)

    def _field(self) -> Field:
        return field_of(self.backbone.velocities, self.path, self.config.parameterisation)
