"""The Text Variational Encoder: from the tokens of a frozen language model to a Gaussian over source latents."""

from jaxtyping import Bool, Float
from torch import Tensor

from crossflow.flow.gaussian import Gaussian
from crossflow.networks.token_encoder import TokenEncoder


class VariationalEncoder(TokenEncoder):
    """Text tokens [b n d] with their mask [b n] -> Gaussian over latents of ``shape`` (c, h, w)."""

    def forward(self, tokens: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Gaussian:
        """The posterior of each text; padding outside ``mask`` has no part in it."""
        return Gaussian(*self.moments(tokens, mask))
