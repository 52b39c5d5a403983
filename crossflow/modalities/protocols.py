"""Between raw data and the tensors a flow sees: images <-> latents, prompts -> token embeddings."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, UInt8
from torch import Tensor


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
