"""The baseline: standard flow matching from noise, conditioned on what is read.

It has the interface of ``CrossFlow``: ``forward(batch, draws)`` and ``generate(...)``.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from crossflow.errors import CrossFlowError
from crossflow.flow import losses
from crossflow.flow.batch import Batch
from crossflow.flow.field import Field, Predict, field_of
from crossflow.flow.guidance import GuidanceConfig, Indicator
from crossflow.flow.losses import Draws, Times
from crossflow.flow.path import PATHS
from crossflow.flow.solver import Velocity
from crossflow.losses import LossConfig
from crossflow.modalities import ReadsConfig, TargetConfig
from crossflow.model.settings import Losses, Sampling, Values, check_ends, sample_noise
from crossflow.networks import BackboneConfig
from crossflow.sources.upsample import enlarged


@dataclass(frozen=True, kw_only=True)
class StandardConfig:
    """The paper's baseline: flow matching from N(0, I), with what it ``reads`` as a condition.

    The ``condition`` enters the network by cross-attention or, for images only, as ``channels`` concatenated to the
    latents. The other fields are those of ``FlowConfig``; null items of ``guidance`` keep their own target and drop the
    condition: they attend to a learned token, or have zeros as channels.
    """

    shape: tuple[int, int, int]
    reads: ReadsConfig
    target: TargetConfig
    backbone: BackboneConfig
    condition: Literal["attention", "channels"] = "attention"
    guidance: GuidanceConfig = field(default_factory=Indicator)
    path: Literal["linear", "sincos"] = "linear"
    times: Times = "logit-normal"
    parameterisation: Literal["velocity", "target"] = "velocity"
    stage_weights: tuple[float, ...] = (1.0,)
    tail: float = 0.0
    sampling: Sampling = field(default_factory=Sampling)
    kind: Literal["standard"] = "standard"

    def __post_init__(self) -> None:
        check_ends(self)
        if self.condition == "channels" and self.reads.kind != "image":
            raise CrossFlowError(f"A condition in channels is an image, not {self.reads.kind}: let it be attention.")

    def build(self, training: bool = True) -> "StandardFlow":
        """The model; ``training`` makes no difference."""
        return StandardFlow(self)

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """All random numbers of a training step for a batch of ``count``; null items, too, are their own donors."""
        null_rate, drawn = self.guidance.null_rate, self.target.drawn
        draws = losses.draw(count, self.shape, null_rate, generator, drawn, self.times)
        return draws._replace(donor=torch.arange(count))

    def after(self, init: Path | None) -> "StandardConfig":
        """Itself: what it starts from changes weights alone."""
        return self

    @property
    def summary(self) -> str:
        """Its ends and its network in a few words."""
        return f"{self.reads.name} to {self.target.name}, {self.kind} on {self.backbone.kind}"

    @property
    def terms(self) -> tuple[LossConfig, ...]:
        """The terms added to the flow loss: none."""
        return ()

    @property
    def beside(self) -> tuple[str, ...]:
        """The entries of a batch read besides source and target: none."""
        return ()


class StandardFlow(nn.Module):
    """The paper's baseline: flow matching from N(0, I), conditioned by cross-attention or by concatenation.

    A concatenated condition is the image, resized to the latents.
    """

    def __init__(self, config: StandardConfig) -> None:
        super().__init__()
        self.config = config
        reads: tuple[int, ...] = config.reads.shape
        if config.condition == "channels":
            self.backbone: Any = config.backbone.beside(config.shape, reads[0])
        else:
            image = (reads[0], reads[1], reads[2]) if len(reads) > 2 else None
            self.backbone = config.backbone.attending(config.shape, reads[len(reads) - 1], image)
        self.autoencoder = config.target.build(config.shape)
        self.path = PATHS[config.path]()

    def forward(self, batch: Batch, draws: Draws, counted: tuple[str, ...] | None = None) -> Losses:
        """The flow-matching loss; unconditional items keep their own target and lose the condition.

        ``counted`` has no effect, since there are no other terms.
        """
        read, own = batch[self.config.reads.name], batch[self.config.target.name].values
        x1, learned = self.autoencoder.reach(own, draws.target_noise)
        xt, velocity = self.path.sample(draws.noise, x1, draws.t)
        predicted = self._field(read.values, read.mask).resolutions(xt, draws.t, draws.conditional)
        flow = losses.flow_matching(predicted, velocity, self.config.stage_weights, batch.measured)
        if self.config.tail:
            flow = flow * losses.tail_weights(self.path.left(draws.t), self.config.tail)
        flow = flow.mean()
        parts = {"reconstruction": learned.detach()} if self.autoencoder.learns else {}
        return {"total": flow + learned, "flow": flow.detach(), **parts}

    @property
    def tabulates(self) -> bool:
        """Whether everything in its velocities that depends on time alone can be computed beforehand."""
        return self.backbone.tabulates

    def velocity(self, guidance_scale: float, values: Values, mask: Bool[Tensor, "b n"] | None) -> Velocity:
        """The guided velocity field given the condition, a function of (x, t)."""
        return self.config.guidance.velocity(self._field(values, mask), guidance_scale, None)

    def generate(
        self,
        values: Values,
        mask: Bool[Tensor, "b n"] | None,
        noise: Float[Tensor, "b c h w"],
        sampling: Sampling,
        further: Iterator[Float[Tensor, "b c h w"]] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Sample target latents from noise, given a text or an image; ``further`` is that of ancestral steps."""
        velocity = self.velocity(sampling.guidance_scale, values, mask)
        return sample_noise(velocity, self.path, noise, sampling, further)

    def _field(self, values: Tensor, mask: Tensor | None) -> Field:
        """The velocity field; its x may be the batch repeated, as guidance does."""
        predict = self._beside(values) if self.config.condition == "channels" else self._attending(values, mask)
        return field_of(predict, self.path, self.config.parameterisation)

    def _beside(self, values: Tensor) -> Predict:
        beside = enlarged(values, self.config.shape[1:])

        def predict(x: Tensor, t: Tensor, conditional: Tensor) -> tuple[Tensor, ...]:
            copies = len(x) // len(beside)
            seen = torch.where(conditional[:, None, None, None], beside.repeat(copies, 1, 1, 1), 0.0)
            return self.backbone.velocities(torch.cat([x, seen], dim=1), t, conditional)

        return predict

    def _attending(self, values: Tensor, mask: Tensor | None) -> Predict:
        def predict(x: Tensor, t: Tensor, conditional: Tensor) -> tuple[Tensor, ...]:
            copies = len(x) // len(values)
            seen = None if mask is None else torch.cat([mask] * copies)
            return self.backbone.velocities(x, t, conditional, torch.cat([values] * copies), seen)

        return predict
