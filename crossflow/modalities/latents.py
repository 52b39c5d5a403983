"""Latents of a modality's codec, as what a flow reads or ends in; the codec is fitted beforehand, and elsewhere."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from crossflow.errors import CrossFlowError
from crossflow.modalities.modality import Modality
from crossflow.networks.blocks import check_sizes


@dataclass(frozen=True, kw_only=True)
class LatentsConfig:
    """Latents of ``shape`` (c, h, w); ``name`` is their modality's key in a batch."""

    shape: tuple[int, int, int]
    name: str
    kind: Literal["latents"] = "latents"
    drawn: ClassVar[bool] = False
    external: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_sizes(**dict(zip(("channels", "height", "width"), self.shape, strict=True)))

    def build(self, shape: tuple[int, int, int]) -> Modality:
        """An empty module; CrossFlowError unless ``shape``, that of the flow, is these latents' own."""
        if shape != self.shape:
            raise CrossFlowError(
                f"The flow ends in {list(shape)}, and the latents are {list(self.shape)}: make them equal."
            )
        return Modality()
