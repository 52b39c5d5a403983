"""The Text Variational Encoder: from the tokens of a frozen language model to a Gaussian over source latents."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Bool, Float
from torch import Tensor

from crossflow.flow.gaussian import Gaussian
from crossflow.networks.token_encoder import TokenEncoder, TokenEncoderConfig


@dataclass(frozen=True, kw_only=True)
class VariationalConfig(TokenEncoderConfig):
    """Sizes of a text encoder that answers with mean and variance."""

    kind: Literal["variational"] = "variational"
    accepts: ClassVar[str] = "tokens"
    variance: ClassVar[str] = "learned"

    def build(self, reads: tuple[int, ...], shape: tuple[int, int, int]) -> "VariationalEncoder":
        """The encoder of tokens (n, d), ``reads``, to latents of ``shape`` (c, h, w)."""
        count, width = reads
        return VariationalEncoder(self, shape, count, width)


class VariationalEncoder(TokenEncoder):
    """Text tokens [b n d] with their mask [b n] -> Gaussian over latents of ``shape`` (c, h, w)."""

    def forward(self, tokens: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Gaussian:
        """The posterior of each text; padding outside ``mask`` has no part in it."""
        return Gaussian(*self.moments(tokens, mask))
