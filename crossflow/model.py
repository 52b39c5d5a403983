"""CrossFlow, and the standard flow matching it is compared with: the only place where the parts meet.

Both answer the same calls: ``forward(batch, draws)`` is the training loss, ``velocity(...)`` the guided field,
``generate(...)`` all of sampling. CrossFlow's field never sees the text: it is in x0, which ``source(...)`` made of it;
the baseline's starts from noise and is given the text.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from pydantic import Discriminator, Tag
from torch import Tensor, nn

from crossflow import losses
from crossflow.backbone import BackboneConfig, build_backbone
from crossflow.backbone.cross_attention import CrossAttentionTransformer
from crossflow.backbone.dimr import DiMRConfig
from crossflow.backbone.transformer import TransformerConfig
from crossflow.blocks import OWN, check_sizes, kind
from crossflow.encoder import EncoderConfig, VariationalEncoder
from crossflow.errors import CrossFlowError
from crossflow.guidance import check_scale, indicator
from crossflow.latents import KLConfig, PatchPCA, PatchPCAConfig
from crossflow.losses import Draws
from crossflow.path import PATHS
from crossflow.released_encoder import ReleasedEncoder, ReleasedEncoderConfig
from crossflow.solver import Velocity, solver_named
from crossflow.tower import TOWERS


class Batch(NamedTuple):
    """Paired items. ``caption`` numbers the captions, so that items with the same caption can be told.

    ``goal`` holds what the flow is to reach: for null items the target of another (``Draws.donor``). None means that
    the batch is whole, so that the donors are in it. ``image`` (pixels) and ``image_features`` are what some image
    towers read; None where the recipe's does not.
    """

    target: Float[Tensor, "b c h w"]
    tokens: Float[Tensor, "b n d"]
    mask: Bool[Tensor, "b n"]
    caption: Int[Tensor, " b"]
    goal: Float[Tensor, "b c h w"] | None = None
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
    kl: Float[Tensor, ""]
    posterior_sd: Float[Tensor, ""]
    posterior_mean_square: Float[Tensor, ""]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The sampling settings a model is recommended with, chosen on a validation split."""

    solver: str = "midpoint"
    steps: int = 25
    guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        solver_named(self.solver)
        check_sizes(steps=self.steps)
        check_scale(self.guidance_scale)


TextEncoderConfig = Annotated[
    Annotated[EncoderConfig, Tag(OWN)] | Annotated[ReleasedEncoderConfig, Tag("released")], Discriminator(kind)
]
AutoencoderConfig = Annotated[Annotated[PatchPCAConfig, Tag(OWN)] | Annotated[KLConfig, Tag("kl")], Discriminator(kind)]


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """A model, whole. ``encoder`` None is the baseline: noise as the source, text by cross-attention.

    ``shape`` is that of the latents, (c, h, w); texts come as ``token_count`` x ``token_width`` numbers, from the
    language model ``text``. ``null_rate`` is the share of items trained as unconditional. ``kl_weight`` multiplies the
    KL summed over latent dimensions; ``contrastive_weight`` the image-text contrast with the image tower ``tower``,
    whose cosines are multiplied by the exponential of a learned number (``exp``, as in CLIP) or, as in the authors'
    code, by the number itself (``raw``). ``stage_weights`` weigh the flow loss of each resolution.
    """

    shape: tuple[int, int, int]
    backbone: BackboneConfig
    encoder: TextEncoderConfig | None
    autoencoder: AutoencoderConfig
    token_count: int = 16
    token_width: int = 384
    text: Literal["minilm", "clip-vit-l14", "t5-v1.1-xxl"] = "minilm"
    path: Literal["linear", "sincos"] = "linear"
    null_rate: float = 0.1
    kl_form: Literal["standard", "official"] = "official"
    kl_weight: float = 1e-2
    contrastive_weight: float = 1.0
    contrastive_scale: Literal["exp", "raw"] = "exp"
    tower: Literal["latents", "siglip-l16", "features"] = "latents"
    stage_weights: tuple[float, ...] = (1.0,)
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        check_sizes(token_count=self.token_count, token_width=self.token_width)
        check_sizes(**dict(zip(("channels", "height", "width"), self.shape, strict=True)))
        if not 0 <= self.null_rate <= 1:
            raise CrossFlowError(f"null_rate is {self.null_rate}; it must be from 0 to 1.")
        stages = len(self.backbone.stages) if isinstance(self.backbone, DiMRConfig) else 1
        if len(self.stage_weights) != stages:
            raise CrossFlowError(f"There are {len(self.stage_weights)} stage_weights for {stages} stages.")


class CrossFlow(nn.Module):
    """Text to latents with no noise source and no cross-attention (Liu et al. 2025, arXiv 2412.15213).

    ``training`` False leaves out the image tower, which sampling does not need.
    """

    def __init__(self, config: FlowConfig, training: bool = True) -> None:
        super().__init__()
        self.config = config
        self.encoder = _encoder(config)
        self.backbone = build_backbone(config.backbone, config.shape)
        tower = TOWERS[config.tower] if training and config.contrastive_weight else None
        self.tower = None if tower is None else tower(config.shape, config.contrastive_scale)
        self.autoencoder = _autoencoder(config)
        self.path = PATHS[config.path]()

    def forward(self, batch: Batch, draws: Draws) -> Losses:
        """The training loss of one batch, with every random number given."""
        config = self.config
        posterior = self.encoder(batch.tokens, batch.mask)
        x0 = posterior.sample(draws.noise)
        x1 = batch.target[draws.donor] if batch.goal is None else batch.goal
        xt, velocity = self.path.sample(x0, x1, draws.t)
        predicted = self.backbone.velocities(xt, draws.t, draws.conditional)
        flow = losses.flow_matching(predicted, velocity, config.stage_weights).mean()
        kl = losses.kl(posterior.mean, posterior.log_var, config.kl_form).mean()
        contrast = flow.new_zeros(())
        if self.tower is not None:
            seen = getattr(batch, self.tower.reads)
            contrast = losses.contrastive(x0, self.tower(seen), self.tower.scale, batch.caption)
        return Losses(
            total=flow + config.kl_weight * kl + config.contrastive_weight * contrast,
            flow=flow.detach(),
            contrastive=contrast.detach(),
            kl=kl.detach(),
            posterior_sd=(0.5 * posterior.log_var).exp().mean().detach(),
            posterior_mean_square=posterior.mean.square().mean().detach(),
        )

    def loss(self, batch: Batch, generator: torch.Generator) -> Losses:
        """Draw what one step needs and return its loss."""
        draws = losses.draw(len(batch.target), self.config.shape, self.config.null_rate, generator)
        return self(batch, draws.to(batch.target.device))

    def source(
        self, tokens: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"], noise: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """The source latent x0: a sample of the text's posterior."""
        return self.encoder(tokens, mask).sample(noise)

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
        tokens: Float[Tensor, "b n d"],
        mask: Bool[Tensor, "b n"],
        noise: Float[Tensor, "b c h w"],
        sampling: Sampling,
    ) -> Float[Tensor, "b c h w"]:
        """Text to target latents."""
        x0 = self.source(tokens, mask, noise)
        return self.sample(x0, sampling.solver, sampling.steps, sampling.guidance_scale)


class StandardFlow(nn.Module):
    """The paper's baseline: flow matching from N(0, I), text by cross-attention in every block."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        if not isinstance(config.backbone, TransformerConfig):
            raise CrossFlowError("The standard flow-matching baseline is built on the plain transformer alone.")
        self.backbone = CrossAttentionTransformer(config.backbone, config.shape, config.token_width)
        self.autoencoder = _autoencoder(config)
        self.path = PATHS[config.path]()

    def forward(self, batch: Batch, draws: Draws) -> Losses:
        """The flow-matching loss; unconditional items keep their own target and lose their text."""
        xt, velocity = self.path.sample(draws.noise, batch.target, draws.t)
        predicted = self.backbone(xt, draws.t, draws.conditional, batch.tokens, batch.mask)
        flow = losses.flow_matching([predicted], velocity, [1.0]).mean()
        zero, one = flow.new_zeros(()), flow.new_ones(())
        return Losses(flow, flow.detach(), zero, zero, one, zero)

    def loss(self, batch: Batch, generator: torch.Generator) -> Losses:
        """Draw what one step needs and return its loss."""
        draws = losses.draw(len(batch.target), self.config.shape, self.config.null_rate, generator)
        return self(batch, draws.to(batch.target.device))

    def velocity(self, guidance_scale: float, tokens: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Velocity:
        """The guided velocity field for these texts, a function of (x, t)."""

        def velocity_of(x: Tensor, t: Tensor, conditional: Tensor) -> Tensor:
            copies = len(x) // len(tokens)
            return self.backbone(x, t, conditional, tokens.repeat(copies, 1, 1), mask.repeat(copies, 1))

        return indicator(velocity_of, guidance_scale)

    def generate(
        self,
        tokens: Float[Tensor, "b n d"],
        mask: Bool[Tensor, "b n"],
        noise: Float[Tensor, "b c h w"],
        sampling: Sampling,
    ) -> Float[Tensor, "b c h w"]:
        """Noise and text to target latents."""
        field = self.velocity(sampling.guidance_scale, tokens, mask)
        return solver_named(sampling.solver)(field, noise, sampling.steps)


FlowModel = CrossFlow | StandardFlow


def build_model(config: FlowConfig, training: bool = True) -> FlowModel:
    """The model that ``config`` describes; without what only training needs unless ``training``."""
    return StandardFlow(config) if config.encoder is None else CrossFlow(config, training)


def _encoder(config: FlowConfig) -> VariationalEncoder | ReleasedEncoder:
    match config.encoder:
        case EncoderConfig():
            return VariationalEncoder(config.encoder, config.shape, config.token_count, config.token_width)
        case ReleasedEncoderConfig():
            return ReleasedEncoder(config.encoder, config.shape, config.token_count, config.token_width)
        case None:
            raise CrossFlowError("This config has no encoder, so it is a StandardFlow; build_model picks the class.")


def _autoencoder(config: FlowConfig) -> PatchPCA | None:
    """The autoencoder that travels with the model; None where its weights are a file of their own."""
    return PatchPCA(config.autoencoder) if isinstance(config.autoencoder, PatchPCAConfig) else None
