"""CrossFlow, and the standard flow matching it is compared with: the only place where the parts meet.

Both answer the same calls: ``forward(batch, draws)`` is the training loss, ``velocity(...)`` the guided field,
``generate(...)`` all of sampling. CrossFlow's field never sees the source, a text or an image: it is in x0, which
``source(...)`` made of it; the baseline's starts from noise and is given the source. What task a model is for shows in
its sizes and in what stands at its two ends, ``encoder`` and ``autoencoder``, and nowhere between.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from crossflow.errors import CrossFlowError
from crossflow.flow import losses
from crossflow.flow.guidance import indicator
from crossflow.flow.losses import Draws
from crossflow.flow.path import PATHS
from crossflow.flow.solver import Velocity, solver_named
from crossflow.losses.reconstruction import Reconstructor
from crossflow.losses.towers import TOWERS
from crossflow.modalities.depth import DepthConfig, LogDepth
from crossflow.modalities.kl_autoencoder import KLConfig
from crossflow.modalities.patch_pca import PatchPCA, PatchPCAConfig
from crossflow.modalities.pixels import Pixels, PixelsConfig
from crossflow.modalities.text_autoencoder import TextAutoencoder, TextAutoencoderConfig
from crossflow.model.config import FlowConfig, Sampling
from crossflow.networks import build_backbone
from crossflow.networks.cross_attention import CrossAttentionTransformer
from crossflow.networks.token_encoder import TokenEncoderConfig
from crossflow.networks.transformer import Transformer, TransformerConfig
from crossflow.sources.image import ImageEncoder, ImageEncoderConfig
from crossflow.sources.released import ReleasedEncoder, ReleasedEncoderConfig
from crossflow.sources.upsample import Upsample, UpsampleConfig, enlarged
from crossflow.sources.variational import VariationalEncoder

Source = Float[Tensor, "b n d"] | Float[Tensor, "b k i j"]
"""Where a flow starts: the tokens of texts, or images in [-1, 1]."""
Target = Float[Tensor, "b c h w"] | Int[Tensor, "b n"]
"""Where a flow ends: latents, or the tokens of texts, whose latents their autoencoder makes."""


class Batch(NamedTuple):
    """Paired items. ``mask`` marks the tokens of texts; images have none.

    ``caption`` numbers the sources, so that items with the same text can be told. ``goal`` holds what the flow is to
    reach: for null items the target of another (``Draws.donor``). None means that the batch is whole, so that the
    donors are in it. ``image`` (pixels) and ``image_features`` are what some image towers read; None where the recipe's
    does not.
    """

    target: Target
    source: Source
    mask: Bool[Tensor, "b n"] | None
    caption: Int[Tensor, " b"]
    goal: Target | None = None
    image: UInt8[Tensor, "b s s 3"] | None = None
    image_features: Float[Tensor, "b f"] | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        return Batch._make(None if part is None else part.to(device) for part in self)


class Losses(NamedTuple):
    """The parts of one step's loss, and what to watch beside them: never rank runs by the flow loss alone."""

    total: Float[Tensor, ""]
    flow: Float[Tensor, ""]
    contrastive: Float[Tensor, ""]
    reconstruction: Float[Tensor, ""]
    kl: Float[Tensor, ""]
    posterior_sd: Float[Tensor, ""]
    posterior_mean_square: Float[Tensor, ""]


class CrossFlow(nn.Module):
    """One modality to another with no noise source and no cross-attention (Liu et al. 2025, arXiv 2412.15213).

    ``training`` False leaves out what sampling does not need: the tower of the contrast, the reconstructor.
    """

    def __init__(self, config: FlowConfig, training: bool = True) -> None:
        super().__init__()
        self.config = config
        self.encoder = _encoder(config)
        self.backbone = build_backbone(config.backbone, config.shape)
        tower = TOWERS[config.tower] if training and config.contrastive_weight else None
        self.tower = None if tower is None else tower(config.shape, config.contrastive_scale)
        self.reconstructor = None
        if training and config.reconstruction_weight and isinstance(self.encoder, ImageEncoder):
            self.reconstructor = Reconstructor(config.shape, self.encoder.source, self.encoder.patches.patch)
        self.autoencoder = _autoencoder(config)
        self.path = PATHS[config.path]()

    def forward(self, batch: Batch, draws: Draws) -> Losses:
        """The training loss of one batch, with every random number given."""
        config = self.config
        posterior = self.encoder(batch.source, batch.mask)
        x0 = posterior.sample(draws.noise)
        x1, reconstruction = _reached(self.autoencoder, batch, draws)
        xt, velocity = self.path.sample(x0, x1, draws.t)
        predicted = self.backbone.velocities(xt, draws.t, draws.conditional)
        flow = losses.flow_matching(predicted, velocity, config.stage_weights).mean()
        kl = contrast = flow.new_zeros(())
        if config.kl_weight:
            kl = losses.kl(posterior.mean, posterior.log_var, config.kl_form).mean()
        if self.tower is not None:
            seen = x1 if batch.target.ndim == 2 else getattr(batch, self.tower.reads)
            contrast = losses.contrastive(x0, self.tower(seen), self.tower.scale, batch.caption)
        if self.reconstructor is not None:
            error = (self.reconstructor(x0) - batch.source).square().mean()
            reconstruction = reconstruction + config.reconstruction_weight * error
        return Losses(
            total=flow + config.kl_weight * kl + config.contrastive_weight * contrast + reconstruction,
            flow=flow.detach(),
            contrastive=contrast.detach(),
            reconstruction=reconstruction.detach(),
            kl=kl.detach(),
            posterior_sd=(0.5 * posterior.log_var).exp().mean().detach(),
            posterior_mean_square=posterior.mean.square().mean().detach(),
        )

    def loss(self, batch: Batch, generator: torch.Generator) -> Losses:
        """Draw what one step needs and return its loss."""
        return _drawn(self, batch, generator)

    def source(
        self, source: Source, mask: Bool[Tensor, "b n"] | None, noise: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """The source latent x0: a sample of the source's posterior."""
        return self.encoder(source, mask).sample(noise)

    def velocity(self, guidance_scale: float) -> Velocity:
        """The guided velocity field, a function of (x, t)."""
        return indicator(self.backbone, guidance_scale)

    def sample(
        self,
        x0: Float[Tensor, "b c h w"],
        solver: str,
        steps: int,
        guidance_scale: float,
        backward: bool = False,
    ) -> Float[Tensor, "b c h w"]:
        """Carry source latents to target latents (or, ``backward``, targets to sources)."""
        return solver_named(solver)(self.velocity(guidance_scale), x0, steps, backward)

    def generate(
        self,
        source: Source,
        mask: Bool[Tensor, "b n"] | None,
        noise: Float[Tensor, "b c h w"],
        sampling: Sampling,
    ) -> Float[Tensor, "b c h w"]:
        """A text or an image to target latents."""
        x0 = self.source(source, mask, sampling.noise * noise)
        return self.sample(x0, sampling.solver, sampling.steps, sampling.guidance_scale)


class StandardFlow(nn.Module):
    """The paper's baseline: flow matching from N(0, I), the source as a condition in every block or beside the latents.

    The condition beside the latents is the image itself, brought to their size.
    """

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        if not isinstance(config.backbone, TransformerConfig):
            raise CrossFlowError("The standard flow-matching baseline is built on the plain transformer alone.")
        if config.condition == "channels" and config.image is not None:
            self.backbone = Transformer(config.backbone, config.shape, beside=config.image[0])
        else:
            self.backbone = CrossAttentionTransformer(config.backbone, config.shape, config.token_width, config.image)
        self.autoencoder = _autoencoder(config)
        self.path = PATHS[config.path]()

    def forward(self, batch: Batch, draws: Draws) -> Losses:
        """The flow-matching loss; unconditional items keep their own target and lose their text."""
        x1, reconstruction = _reached(self.autoencoder, batch._replace(goal=batch.target), draws)
        xt, velocity = self.path.sample(draws.noise, x1, draws.t)
        predicted = self._field(batch.source, batch.mask)(xt, draws.t, draws.conditional)
        flow = losses.flow_matching([predicted], velocity, [1.0]).mean()
        zero, one = flow.new_zeros(()), flow.new_ones(())
        return Losses(flow + reconstruction, flow.detach(), zero, reconstruction.detach(), zero, one, zero)

    def loss(self, batch: Batch, generator: torch.Generator) -> Losses:
        """Draw what one step needs and return its loss."""
        return _drawn(self, batch, generator)

    def velocity(self, guidance_scale: float, source: Source, mask: Bool[Tensor, "b n"] | None) -> Velocity:
        """The guided velocity field for these sources, a function of (x, t)."""
        return indicator(self._field(source, mask), guidance_scale)

    def generate(
        self,
        source: Source,
        mask: Bool[Tensor, "b n"] | None,
        noise: Float[Tensor, "b c h w"],
        sampling: Sampling,
    ) -> Float[Tensor, "b c h w"]:
        """Noise to target latents, given a text or an image."""
        field = self.velocity(sampling.guidance_scale, source, mask)
        return solver_named(sampling.solver)(field, sampling.noise * noise, sampling.steps)

    def _field(self, source: Source, mask: Tensor | None) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The velocity of (x, t, conditional); x may be the batch several times over."""
        backbone = self.backbone
        if isinstance(backbone, Transformer):
            beside = enlarged(source, self.config.shape[1:])
            return lambda x, t, conditional: backbone(
                torch.cat([x, beside.repeat(len(x) // len(beside), 1, 1, 1)], dim=1), t, conditional
            )

        def velocity(x: Tensor, t: Tensor, conditional: Tensor) -> Tensor:
            copies = len(x) // len(source)
            seen = None if mask is None else mask.repeat(copies, 1)
            return backbone(x, t, conditional, source.repeat(copies, *[1] * (source.ndim - 1)), seen)

        return velocity


FlowModel = CrossFlow | StandardFlow


def build_model(config: FlowConfig, training: bool = True) -> FlowModel:
    """The model that ``config`` describes; without what only training needs unless ``training``."""
    return StandardFlow(config) if config.encoder is None else CrossFlow(config, training)


def _drawn(model: FlowModel, batch: Batch, generator: torch.Generator) -> Losses:
    config = model.config
    draws = losses.draw(
        len(batch.target), config.shape, config.null_rate, generator, config.draws_targets, config.times
    )
    return model(batch, draws.to(batch.target.device))


def _reached(autoencoder: nn.Module | None, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor]:
    """The latents that the flow is to reach, and the loss of an autoencoder that learns along (else 0)."""
    goal = batch.target[draws.donor] if batch.goal is None else batch.goal
    if isinstance(autoencoder, TextAutoencoder) and draws.target_noise is not None:
        return autoencoder.learn(goal, draws.target_noise)
    return goal, goal.new_zeros(())


def _encoder(config: FlowConfig) -> VariationalEncoder | ReleasedEncoder | ImageEncoder | Upsample:
    match config.encoder:
        case TokenEncoderConfig():
            return VariationalEncoder(config.encoder, config.shape, config.token_count, config.token_width)
        case ReleasedEncoderConfig():
            return ReleasedEncoder(config.encoder, config.shape, config.token_count, config.token_width)
        case ImageEncoderConfig() if config.image is not None:
            return ImageEncoder(config.encoder, config.shape, config.image)
        case UpsampleConfig():
            return Upsample(config.encoder)
        case _:
            raise CrossFlowError("This config has no encoder, so it is a StandardFlow; build_model picks the class.")


def _autoencoder(config: FlowConfig) -> PatchPCA | Pixels | LogDepth | TextAutoencoder | None:
    """The autoencoder that travels with the model; None where its weights are a file of their own."""
    match config.autoencoder:
        case PatchPCAConfig():
            return PatchPCA(config.autoencoder)
        case PixelsConfig():
            return Pixels()
        case DepthConfig():
            return LogDepth(config.autoencoder)
        case TextAutoencoderConfig():
            return TextAutoencoder(config.autoencoder, config.shape)
        case KLConfig():
            return None
