"""The generator of one modality, CoDi's (arXiv 2305.11846) before alignment: latents from noise, given prompt vectors.

It is the baseline's network: a plain transformer with cross-attention to the prompt. CoDi's prompt is one vector, to
which every position attends alike; here it is k of them. CoDi's networks are UNets, and that of video extends that of
images.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossflow.errors import CrossFlowError
from crossflow.flow import losses
from crossflow.flow.field import Field, Parameterisation, field_of
from crossflow.flow.guidance import Indicator
from crossflow.flow.losses import Draws, Times
from crossflow.flow.path import LinearPath
from crossflow.model.settings import Losses, Sampling, check_tail, sample_noise
from crossflow.networks import TransformerConfig
from crossflow.networks.blocks import check_sizes

Through = Sequence[Callable[[Tensor], Tensor]]
"""Maps of a network's tokens [b n d], one behind each block; none is a diffuser by itself."""


@dataclass(frozen=True, kw_only=True)
class DiffuserConfig:
    """A generator of latents of ``shape`` (c, h, w), given prompt vectors [k d] with d = ``prompt``.

    ``parameterisation`` is what the network predicts and the loss compares: ``eps``, the noise, as in the paper; or
    ``velocity``; or ``target``, which is converted to a velocity before the loss. ``tail`` is the last part of a path,
    where the loss of a velocity counts less (``flow.losses.tail_weights``). ``guidance`` says how often training drops
    the prompt for a learned null token, where CoDi encodes an empty prompt.
    """

    shape: tuple[int, int, int]
    backbone: TransformerConfig
    prompt: int = 64
    parameterisation: Parameterisation = "eps"
    guidance: Indicator = field(default_factory=Indicator)
    times: Times = "uniform"
    tail: float = 0.0
    sampling: Sampling = field(default_factory=lambda: Sampling(solver="euler", steps=50, guidance_scale=3.0))

    def __post_init__(self) -> None:
        check_sizes(**dict(zip(("channels", "height", "width"), self.shape, strict=True)), prompt=self.prompt)
        check_tail(self.tail)
        if self.tail and self.parameterisation == "eps":
            raise CrossFlowError(f"The noise is compared alike on all of the path: let tail be 0, not {self.tail}.")

    def build(self) -> "Diffuser":
        """The diffuser with random weights."""
        return Diffuser(self)


class Diffuser(nn.Module):
    """Latents of one modality from noise, on the straight path, given prompt vectors."""

    def __init__(self, config: DiffuserConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone: Any = config.backbone.attending(config.shape, config.prompt, None)
        self.path = LinearPath()

    def forward(
        self, latents: Float[Tensor, "b c h w"], prompts: Float[Tensor, "b k d"], draws: Draws, through: Through = ()
    ) -> Losses:
        """The loss of one batch, given all random numbers; unconditional items keep their latents, not the prompt."""
        flow = self.errors(latents, prompts, draws, through).mean()
        return {"total": flow, "flow": flow.detach()}

    def errors(
        self, latents: Float[Tensor, "b c h w"], prompts: Float[Tensor, "b k d"], draws: Draws, through: Through = ()
    ) -> Float[Tensor, " b"]:
        """The mean squared error of each item: of the noise for ``eps``, of the velocity otherwise."""
        xt, velocity = self.path.sample(draws.noise, latents, draws.t)
        if self.config.parameterisation == "eps":
            predicted = self._predicted(prompts, through)(xt, draws.t, draws.conditional)
            return losses.flow_matching(predicted, draws.noise, (1.0,))
        predicted = self.field(prompts, through).resolutions(xt, draws.t, draws.conditional)
        flow = losses.flow_matching(predicted, velocity, (1.0,))
        return flow * losses.tail_weights(self.path.left(draws.t), self.config.tail) if self.config.tail else flow

    def field(self, prompts: Float[Tensor, "b k d"], through: Through = ()) -> Field:
        """The velocity field given prompts; its x may be the batch repeated, as guidance does."""
        return field_of(self._predicted(prompts, through), self.path, self.config.parameterisation)

    def generate(
        self,
        prompts: Float[Tensor, "b k d"],
        noise: Float[Tensor, "b c h w"],
        sampling: Sampling,
        further: Iterator[Float[Tensor, "b c h w"]] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Sample latents from noise; ``further`` is that of ancestral sampling's steps."""
        velocity = self.config.guidance.velocity(self.field(prompts), sampling.guidance_scale, None)
        return sample_noise(velocity, self.path, noise, sampling, further)

    def _predicted(self, prompts: Tensor, through: Through) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]:
        source = unit_variance(prompts)

        def predict(x: Tensor, t: Tensor, conditional: Tensor) -> tuple[Tensor, ...]:
            repeated = torch.cat([source] * (len(x) // len(source)))
            return (self.backbone(x, t, conditional, repeated, None, through),)

        return predict


def unit_variance(vectors: Float[Tensor, "b k d"]) -> Float[Tensor, "b k d"]:
    """Unit vectors at the scale that networks read: entries of mean square 1."""
    return math.sqrt(vectors.shape[-1]) * vectors
