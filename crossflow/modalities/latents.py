"""Latents of another modality's codec, as what a flow reads."""

from dataclasses import dataclass
from typing import Literal

from crossflow.networks.blocks import check_sizes


@dataclass(frozen=True, kw_only=True)
class LatentsConfig:
    """Latents of ``shape`` (c, h, w); ``name`` is their modality's key in a batch."""

    shape: tuple[int, int, int]
    name: str
    kind: Literal["latents"] = "latents"

    def __post_init__(self) -> None:
        check_sizes(**dict(zip(("channels", "height", "width"), self.shape, strict=True)))
