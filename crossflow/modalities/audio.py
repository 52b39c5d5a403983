"""Sounds, as log-mel spectrograms, as principal components of patches of 8 bands x 8 frames.

In the embedded world a row of tokens is a quarter of the bands, and a column the quarter of the second in which the
objects of one column of the image sound.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from crossflow.modalities.components import ComponentsConfig, PatchComponents


@dataclass(frozen=True, kw_only=True)
class AudioConfig(ComponentsConfig):
    """Principal components of patches of bands x frames."""

    components: int = 32
    name: Literal["audio"] = "audio"
    kind: Literal["audio-pca"] = "audio-pca"
    channels: ClassVar[int] = 1

    def build(self, shape: tuple[int, int, int]) -> "PatchAudio":
        """The modality for latents of ``shape``; CrossFlowError if the channels are not the components."""
        self.check(shape)
        return PatchAudio(self)


class PatchAudio(PatchComponents):
    """Log-mel spectrograms [b bands frames] to latents [b c bands/8 frames/8] and back."""

    noun = "Spectrograms"

    def planes(self, raw: Float[Tensor, "b bands frames"]) -> Float[Tensor, "b bands frames 1"]:
        return raw.to(self.mean.dtype)[..., None]

    def raw(self, planes: Float[Tensor, "b bands frames 1"]) -> Float[Tensor, "b bands frames"]:
        return planes[..., 0].float()
