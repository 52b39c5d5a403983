"""The baseline: standard flow matching from noise, conditioned on what is read.

It has the interface of ``CrossFlow``: ``forward(batch, draws)`` and ``generate(...)``.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from crossflow.flow import losses
from crossflow.flow.batch import Batch
from crossflow.flow.field import Field, Predict, field_of
from crossflow.flow.losses import Draws
from crossflow.flow.path import PATHS
from crossflow.flow.solver import Velocity, solver_named
from crossflow.model.config import Sampling, StandardConfig
from crossflow.model.crossflow import CrossFlow, Losses, Values
from crossflow.sources.upsample import enlarged


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
        flow = losses.flow_matching(predicted, velocity, self.config.stage_weights).mean()
        parts = {"reconstruction": learned.detach()} if self.autoencoder.learns else {}
        return {"total": flow + learned, "flow": flow.detach(), **parts}

    def velocity(self, guidance_scale: float, values: Values, mask: Bool[Tensor, "b n"] | None) -> Velocity:
        """The guided velocity field given the condition, a function of (x, t)."""
        return self.config.guidance.velocity(self._field(values, mask), guidance_scale, None)

    def generate(
        self,
        values: Values,
        mask: Bool[Tensor, "b n"] | None,
        noise: Float[Tensor, "b c h w"],
        sampling: Sampling,
    ) -> Float[Tensor, "b c h w"]:
        """Sample target latents from noise, given a text or an image."""
        field = self.velocity(sampling.guidance_scale, values, mask)
        return solver_named(sampling.solver)(field, sampling.noise * noise, sampling.steps)

    def _field(self, values: Tensor, mask: Tensor | None) -> Field:
        """The velocity field; its x may be the batch repeated, as guidance does."""
        predict = self._beside(values) if self.config.condition == "channels" else self._attending(values, mask)
        return field_of(predict, self.path, self.config.parameterisation)

    def _beside(self, values: Tensor) -> Predict:
        beside = enlarged(values, self.config.shape[1:])

        def predict(x: Tensor, t: Tensor, conditional: Tensor) -> tuple[Tensor, ...]:
            copies = len(x) // len(beside)
            return self.backbone.velocities(torch.cat([x, beside.repeat(copies, 1, 1, 1)], dim=1), t, conditional)

        return predict

    def _attending(self, values: Tensor, mask: Tensor | None) -> Predict:
        def predict(x: Tensor, t: Tensor, conditional: Tensor) -> tuple[Tensor, ...]:
            copies = len(x) // len(values)
            seen = None if mask is None else torch.cat([mask] * copies)
            return self.backbone.velocities(x, t, conditional, torch.cat([values] * copies), seen)

        return predict


FlowModel = CrossFlow | StandardFlow
