"""Model configs: what is read, the source, the target, the backbone, the loss terms, guidance and sampling."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from crossflow.errors import CrossFlowError
from crossflow.flow.guidance import GuidanceConfig, Indicator, check_scale
from crossflow.flow.solver import solver_named
from crossflow.losses import LossConfig
from crossflow.modalities import ReadsConfig, TargetConfig
from crossflow.networks import BackboneConfig
from crossflow.networks.blocks import check_sizes
from crossflow.sources import SourceConfig

if TYPE_CHECKING:
    from crossflow.model.crossflow import CrossFlow
    from crossflow.model.standard import StandardFlow


@dataclass(frozen=True, kw_only=True)
class Override:
    """Sampling settings that replace a model's own; None keeps a setting."""

    solver: str | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    noise: float | None = None


OWN = Override()
"""All of a model's own settings."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """A model's default sampling settings, chosen on a validation split.

    ``noise`` multiplies the standard deviation of the source sample: 1 as in the paper; 0 takes the posterior mean, for
    tasks with one right answer.
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

    def but(self, override: Override) -> "Sampling":
        """These settings, replaced where ``override`` is not None."""
        return replace(self, **{name: value for name, value in vars(override).items() if value is not None})


Times = Literal["logit-normal", "uniform"]


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """A CrossFlow model: from what it ``reads``, by a ``source``, to latents of ``shape`` (c, h, w) of the ``target``.

    ``backbone`` is the velocity network, ``losses`` are the terms added to the flow loss, ``times`` is the distribution
    of training times. The ``parameterisation`` is what the network predicts: the velocity, as in the paper, or the
    target, which is converted to a velocity before the loss (arXiv 2511.13720). ``stage_weights`` weight the flow loss
    at each resolution of the backbone.
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
    sampling: Sampling = field(default_factory=Sampling)
    kind: Literal["crossflow"] = "crossflow"

    def __post_init__(self) -> None:
        _check_ends(self)
        if self.source.accepts != self.reads.kind:
            raise CrossFlowError(f"The source {self.source.kind} reads {self.source.accepts}, not {self.reads.kind}.")
        learns = self.target.drawn and not self.target.external
        for term in self.losses:
            term.check(self.source.accepts, self.source.variance, self.guidance.null_rate > 0, learns)
        if len({term.name for term in self.losses}) < len(self.losses):
            raise CrossFlowError("Two terms of the loss have one name in the log: leave one of them out.")
        if self.parameterisation == "target" and self.backbone.resolutions > 1:
            raise CrossFlowError("A network of several resolutions predicts velocities: parameterisation is velocity.")

    def build(self, training: bool = True) -> "CrossFlow":
        """The model; with ``training`` also the networks of the loss terms."""
        from crossflow.model.crossflow import CrossFlow

        return CrossFlow(self, training)

    @property
    def terms(self) -> tuple[LossConfig, ...]:
        """The terms added to the flow loss."""
        return self.losses

    @property
    def beside(self) -> tuple[str, ...]:
        """The entries of a batch that loss terms read besides source and target."""
        return tuple(name for term in self.losses for name in term.reads)


@dataclass(frozen=True, kw_only=True)
class StandardConfig:
    """The paper's baseline: flow matching from N(0, I), with what it ``reads`` as a condition.

    The ``condition`` enters the network by cross-attention or, for images only, as ``channels`` concatenated to the
    latents. The other fields are those of ``FlowConfig``; null items of ``guidance`` drop the condition.
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
    sampling: Sampling = field(default_factory=Sampling)
    kind: Literal["standard"] = "standard"

    def __post_init__(self) -> None:
        _check_ends(self)
        if self.condition == "channels" and self.reads.kind != "image":
            raise CrossFlowError(f"A condition in channels is an image, not {self.reads.kind}: let it be attention.")
        if self.parameterisation == "target" and self.backbone.resolutions > 1:
            raise CrossFlowError("A network of several resolutions predicts velocities: parameterisation is velocity.")

    def build(self, training: bool = True) -> "StandardFlow":
        """The model; ``training`` makes no difference."""
        from crossflow.model.standard import StandardFlow

        return StandardFlow(self)

    @property
    def terms(self) -> tuple[LossConfig, ...]:
        """The terms added to the flow loss: none."""
        return ()

    @property
    def beside(self) -> tuple[str, ...]:
        """The entries of a batch read besides source and target: none."""
        return ()


ModelConfig = Annotated[FlowConfig | StandardConfig, Field(discriminator="kind")]


def _check_ends(config: FlowConfig | StandardConfig) -> None:
    """CrossFlowError for what is invalid in either model."""
    check_sizes(**dict(zip(("channels", "height", "width"), config.shape, strict=True)))
    if config.reads.name == config.target.name:
        raise CrossFlowError(f"Both ends are called {config.target.name}: give what is read another name.")
    if len(config.stage_weights) != config.backbone.resolutions:
        raise CrossFlowError(
            f"There are {len(config.stage_weights)} stage_weights for {config.backbone.resolutions} stages."
        )
    if config.sampling.guidance_scale != 1 and config.guidance.kind == "none":
        raise CrossFlowError(
            f"guidance_scale is {config.sampling.guidance_scale}, and there is no guidance: let it be 1, or train some."
        )
