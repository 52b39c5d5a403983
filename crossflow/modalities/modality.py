"""The base class of target modalities, and the protocols of autoencoders and text embedders.

Raw data pass through three forms: what training data store (``prepare``), the values in a batch (``values``), and the
latents that the flow is trained to reach (``reach``).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor, nn


class Reached(NamedTuple):
    """Target latents, detached, and the loss of an autoencoder that is trained jointly with the flow, else 0."""

    latents: Float[Tensor, "b c h w"]
    loss: Float[Tensor, ""]


class Modality(nn.Module):
    """Conversion between raw data and latents. The base class itself is for latents that are precomputed.

    ``learns`` says whether it is trained jointly with the flow, ``fits`` whether it is fitted to data beforehand, and
    ``unit`` what its raw numbers are in, where that needs saying.
    """

    learns = False
    fits = False
    unit = ""

    def prepare(self, raw: Sequence[Any]) -> Tensor:
        """Raw data as stored with the training pairs, one row per item."""
        raise TypeError(f"{type(self).__name__} keeps latents that were made beforehand, and prepares no raw data.")

    def values(self, kept: Shaped[Tensor, "b *dims"]) -> Shaped[Tensor, "b *dims"]:
        """Stored rows as the values of a batch."""
        return kept

    def reach(self, values: Tensor, noise: Float[Tensor, "b c h w"] | None) -> Reached:
        """The latents of target values; ``noise`` samples them if they have a posterior."""
        return Reached(values, values.new_zeros(()))


@runtime_checkable
class Autoencoder(Protocol):
    """uint8 RGB images, channels last, to latents and back."""

    def encode(self, images: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b c i j"]:
        """Latents, scaled as the flow is trained on them."""
        ...

    def decode(self, latents: Float[Tensor, "b c i j"]) -> UInt8[Tensor, "b h w 3"]:
        """Images, rounded and clipped to [0, 255]."""
        ...


@runtime_checkable
class TextEmbedder(Protocol):
    """Prompts to token embeddings of width ``width`` from a frozen language model."""

    width: int

    def embed(self, prompts: Sequence[str], count: int) -> tuple[Float[Tensor, "b n d"], Bool[Tensor, "b n"]]:
        """Embeddings of ``count`` tokens per prompt and the mask, False at padding; truncation keeps the end token."""
        ...

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        """The number of tokens of each prompt before truncation."""
        ...
