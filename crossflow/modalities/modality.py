"""What the kinds of data have in common, as the end of a flow: raw data, what is kept of them, latents.

A config names its ``kind`` and the ``name`` of the modality, by which a batch is read, and builds the modality by
``config.build(shape)``. ``drawn`` says whether the latents of a target are drawn afresh at every step from Gaussians,
``external`` whether the weights are a file of their own.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor, nn


class Reached(NamedTuple):
    """The latents that a flow is to reach, without a gradient, and the loss of a modality that learns along, else 0."""

    latents: Float[Tensor, "b c h w"]
    loss: Float[Tensor, ""]


class Modality(nn.Module):
    """Raw data <-> latents of one shape. Without methods of its own: latents that were made beforehand.

    ``learns`` says whether it is trained along with the flow, ``fits`` whether it is fitted to images before.
    """

    learns = False
    fits = False

    def prepare(self, raw: Sequence[Any]) -> Tensor:
        """What training data keep of raw data, one row an item."""
        raise TypeError(f"{type(self).__name__} keeps latents that were made beforehand, and prepares no raw data.")

    def values(self, kept: Shaped[Tensor, "b *dims"]) -> Shaped[Tensor, "b *dims"]:
        """What a batch holds of what is kept."""
        return kept

    def reach(self, values: Tensor, noise: Float[Tensor, "b c h w"] | None) -> Reached:
        """The latents of a target."""
        return Reached(values, values.new_zeros(()))


@runtime_checkable
class Autoencoder(Protocol):
    """Images in uint8 RGB, channels last, to latents and back."""

    def encode(self, images: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b c i j"]:
        """Latents of about unit variance."""
        ...

    def decode(self, latents: Float[Tensor, "b c i j"]) -> UInt8[Tensor, "b h w 3"]:
        """Images, rounded and clipped to [0, 255]."""
        ...


@runtime_checkable
class TextEmbedder(Protocol):
    """Prompts to the token embeddings of a frozen language model, ``width`` numbers a token."""

    width: int

    def embed(self, prompts: Sequence[str], count: int) -> tuple[Float[Tensor, "b n d"], Bool[Tensor, "b n"]]:
        """``count`` tokens a prompt: longer prompts lose their last words but keep the end token."""
        ...

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        """How many tokens each prompt has before any is lost."""
        ...
