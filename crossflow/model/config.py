"""What a model is, as data: the networks, the two ends, the weights of the loss, and how it is best sampled."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from pydantic import Discriminator, Tag

from crossflow.errors import CrossFlowError
from crossflow.flow.guidance import check_scale
from crossflow.flow.solver import solver_named
from crossflow.modalities.depth import DepthConfig
from crossflow.modalities.kl_autoencoder import KLConfig
from crossflow.modalities.patch_pca import PatchPCAConfig
from crossflow.modalities.pixels import PixelsConfig
from crossflow.modalities.text_autoencoder import TextAutoencoderConfig
from crossflow.networks import BackboneConfig
from crossflow.networks.blocks import OWN, check_sizes, kind
from crossflow.networks.dimr import DiMRConfig
from crossflow.networks.token_encoder import TokenEncoderConfig
from crossflow.sources.image import ImageEncoderConfig
from crossflow.sources.released import ReleasedEncoderConfig
from crossflow.sources.upsample import UpsampleConfig


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The sampling settings a model is recommended with, chosen on a validation split.

    ``noise`` multiplies the standard deviation of what is drawn for the source: 1 is the paper's, 0 takes the middle of
    a posterior, for tasks with one answer rather than many.
    """

    solver: str = "midpoint"
    steps: int = 25
    guidance_scale: float = 1.0
    noise: float = 1.0

    def __post_init__(self) -> None:
        solver_named(self.solver)
        check_sizes(steps=self.steps)
        check_scale(self.guidance_scale)
        if not 0 <= self.noise <= 1:
            raise CrossFlowError(f"noise is {self.noise}; it must be from 0 to 1.")

    def but(
        self, solver: str | None = None, steps: int | None = None, guidance_scale: float | None = None
    ) -> "Sampling":
        """These settings with those that are given in their place."""
        given = {"solver": solver, "steps": steps, "guidance_scale": guidance_scale}
        return replace(self, **{name: value for name, value in given.items() if value is not None})


SourceEncoderConfig = Annotated[
    Annotated[TokenEncoderConfig, Tag(OWN)]
    | Annotated[ReleasedEncoderConfig, Tag("released")]
    | Annotated[ImageEncoderConfig, Tag("image")]
    | Annotated[UpsampleConfig, Tag("upsample")],
    Discriminator(kind),
]
AutoencoderConfig = Annotated[
    Annotated[PatchPCAConfig, Tag(OWN)]
    | Annotated[KLConfig, Tag("kl")]
    | Annotated[PixelsConfig, Tag("pixels")]
    | Annotated[DepthConfig, Tag("depth")]
    | Annotated[TextAutoencoderConfig, Tag("text")],
    Discriminator(kind),
]
Task = Literal["t2i", "caption", "depth", "sr"]
_TASKS: dict[type, Task] = {DepthConfig: "depth", TextAutoencoderConfig: "caption", PixelsConfig: "sr"}


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """A model, whole. ``encoder`` None is the baseline: noise as the source, what it is made from as a condition.

    ``shape`` is that of the latents, (c, h, w), which ``autoencoder`` makes of the targets. Sources are images of the
    shape ``image``, (k, i, j), or, where that is None, texts: ``token_count`` x ``token_width`` numbers, from the
    language model ``text``. The baseline sees its ``condition`` by cross-attention or, images only, as further
    ``channels`` beside its latents. ``times`` is how the times of training are drawn, ``null_rate`` the share of items
    trained as unconditional. ``kl_weight`` multiplies the KL summed over latent dimensions; ``contrastive_weight`` the
    image-text contrast with the image tower ``tower``, whose cosines are multiplied by the exponential of a learned
    number (``exp``, as in CLIP) or, as in the authors' code, by the number itself (``raw``); ``reconstruction_weight``
    the squared error of an image read back from its source latent. ``stage_weights`` weigh the flow loss of each
    resolution.
    """

    shape: tuple[int, int, int]
    backbone: BackboneConfig
    encoder: SourceEncoderConfig | None
    autoencoder: AutoencoderConfig
    image: tuple[int, int, int] | None = None
    condition: Literal["attention", "channels"] = "attention"
    token_count: int = 16
    token_width: int = 384
    text: Literal["minilm", "clip-vit-l14", "t5-v1.1-xxl"] = "minilm"
    path: Literal["linear", "sincos"] = "linear"
    times: Literal["logit-normal", "uniform"] = "logit-normal"
    null_rate: float = 0.1
    kl_form: Literal["standard", "official"] = "official"
    kl_weight: float = 1e-2
    contrastive_weight: float = 1.0
    contrastive_scale: Literal["exp", "raw"] = "exp"
    tower: Literal["latents", "siglip-l16", "features"] = "latents"
    reconstruction_weight: float = 0.0
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
        reads_image = isinstance(self.encoder, ImageEncoderConfig | UpsampleConfig)
        if self.encoder is not None and reads_image != (self.image is not None):
            raise CrossFlowError("An image encoder needs the shape of its images, and a text encoder has none.")
        if self.image is None and self.condition == "channels":
            raise CrossFlowError("A text is no condition in channels: condition must be attention.")
        if self.reconstruction_weight and not isinstance(self.encoder, ImageEncoderConfig):
            raise CrossFlowError("Only what an image encoder made is reconstructed: reconstruction_weight must be 0.")
        text = isinstance(self.autoencoder, TextAutoencoderConfig)
        if text and self.contrastive_weight and (self.null_rate or self.tower != "latents"):
            raise CrossFlowError("A contrast with texts is with their latents, and has no null items: null_rate is 0.")

    @property
    def task(self) -> Task:
        """What the model does, as its two ends tell."""
        return _TASKS.get(type(self.autoencoder), "t2i")

    @property
    def draws_targets(self) -> bool:
        """Whether targets are sampled from the autoencoder's Gaussians, afresh at every step."""
        return isinstance(self.autoencoder, KLConfig | TextAutoencoderConfig)
