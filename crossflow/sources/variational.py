"""The Text Variational Encoder: from token embeddings of a frozen language model to a Gaussian over source latents."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Bool, Float
from torch import Tensor

from crossflow.flow.gaussian import Gaussian
from crossflow.networks.token_encoder import TokenEncoder, TokenEncoderConfig


@dataclass(frozen=True, kw_only=True)
class VariationalConfig(TokenEncoderConfig):
    """Sizes of a variational text encoder."""

    kind: Literal["variational"] = "variational"
    accepts: ClassVar[str] = "tokens"
    variance: ClassVar[str] = "learned"

    def build(self, reads: tuple[int, ...], shape: tuple[int, int, int]) -> "VariationalEncoder":
        """The encoder from tokens of shape ``reads`` (n, d) to latents of ``shape`` (c, h, w)."""
        count, width = reads
        return VariationalEncoder(self, shape, count, width)


class VariationalEncoder(TokenEncoder):
    """Text tokens [b n d] with their mask [b n] -> Gaussian over latents of ``shape`` (c, h, w)."""

    def forward(self, tokens: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Gaussian:
        """The posterior of each text; padding has no influence on it."""
        return Gaussian(*self.moments(tokens, mask))
