"""Blocks, and velocity networks: ``forward(x [b c h w], t [b], conditional [b] bool) -> velocity [b c h w]``.

``velocities`` takes the same and gives what training compares: a prediction for each resolution, the finest last. A
network says whether it ``tabulates`` all that depends on time alone, for the fast sampler.
"""

from typing import TYPE_CHECKING, Annotated, Any, Protocol, runtime_checkable

from crossflow.files.kinds import Kinds
from crossflow.networks.dimr import DiMR, DiMRConfig
from crossflow.networks.dit import DiT, DiTConfig
from crossflow.networks.transformer import Transformer, TransformerConfig

NETWORKS = Kinds("network", "crossflow.networks", TransformerConfig, DiMRConfig, DiTConfig)
Backbone = Transformer | DiMR | DiT


@runtime_checkable
class Network(Protocol):
    """What the config of a network has."""

    @property
    def kind(self) -> str:
        """The name by which a file holds it."""
        ...

    @property
    def resolutions(self) -> int:
        """How many velocities it gives."""
        ...

    def build(self, shape: tuple[int, int, int]) -> Any:
        """The network for latents of ``shape`` (c, h, w)."""
        ...

    def beside(self, shape: tuple[int, int, int], channels: int) -> Any:
        """The baseline's, which also reads ``channels`` beside the latents; CrossFlowError where it has none."""
        ...

    def attending(self, shape: tuple[int, int, int], token_width: int, image: tuple[int, int, int] | None) -> Any:
        """The baseline's, with cross-attention to tokens, or to an ``image``; CrossFlowError where it has none."""
        ...


if TYPE_CHECKING:  # what is here, so that types are narrowed by it; another package's is as good
    BackboneConfig = TransformerConfig | DiMRConfig | DiTConfig
else:
    BackboneConfig = Annotated[Network, NETWORKS.reader]
