"""Velocity networks and their blocks: ``velocities(x [b c h w], t [b], conditional [b] bool)``.

``velocities`` returns a tuple of predictions, one per resolution, the finest last. The attribute ``tabulates`` says
whether a network can precompute everything that depends on time alone, for the fast sampler.
"""

from typing import TYPE_CHECKING, Annotated, Any, Protocol, runtime_checkable

from crossflow.files.kinds import Kinds
from crossflow.networks.dimr import DiMRConfig
from crossflow.networks.dit import DiTConfig
from crossflow.networks.transformer import TransformerConfig

NETWORKS = Kinds("network", "crossflow.networks", TransformerConfig, DiMRConfig, DiTConfig)


@runtime_checkable
class Network(Protocol):
    """The interface of a network config."""

    @property
    def kind(self) -> str:
        """Its name in checkpoints and in the registry."""
        ...

    @property
    def resolutions(self) -> int:
        """The number of resolutions at which it predicts the velocity."""
        ...

    def build(self, shape: tuple[int, int, int]) -> Any:
        """The network for latents of ``shape`` (c, h, w)."""
        ...

    def beside(self, shape: tuple[int, int, int], channels: int) -> Any:
        """The baseline's network, conditioned on ``channels`` concatenated to x; CrossFlowError if there is none."""
        ...

    def attending(self, shape: tuple[int, int, int], token_width: int, image: tuple[int, int, int] | None) -> Any:
        """The baseline's network, with cross-attention to tokens or an ``image``; CrossFlowError if there is none."""
        ...


if TYPE_CHECKING:  # the union narrows types; at run time any registered kind is accepted
    BackboneConfig = TransformerConfig | DiMRConfig | DiTConfig
else:
    BackboneConfig = Annotated[Network, NETWORKS.reader]
