"""Whitening of token embeddings: every direction in which they differ gets about the same scale.

The last layer of a language model tells words apart by large directions and what a word is bound to by small ones:
between "left of" and "right of", or "a red box and a blue ring" and its swap, nouns move by a tenth of what divides two
nouns. A small network trained for minutes reads the large directions first.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

DAMPING = 0.003
"""Added to every direction's standard deviation, as a fraction of the largest: what is smaller stays small."""


class Whitening(nn.Module):
    """A fixed affine map of tokens of ``width``, the identity until ``fit``; it is saved with the weights."""

    mean: Tensor
    matrix: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("matrix", torch.eye(width))

    def fit(self, tokens: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> None:
        """Fit to the tokens where ``mask`` is True; their mean square stays what it is."""
        real = tokens[mask].double()
        mean = real.mean(0)
        _, spread, directions = torch.linalg.svd(real - mean, full_matrices=False)
        matrix = directions.T / (spread + DAMPING * spread[0])
        white = (real - mean) @ matrix
        matrix = matrix * (real.square().mean() / white.square().mean()).sqrt()
        with torch.no_grad():
            self.mean.copy_(mean)
            self.matrix[:, : matrix.shape[1]].copy_(matrix)
            self.matrix[:, matrix.shape[1] :] = 0.0

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return (tokens - self.mean) @ self.matrix


def embedding(token_width: int, width: int, whitened: bool) -> nn.Module:
    """The map of tokens to a network's ``width``: linear, after a ``Whitening`` if ``whitened``."""
    linear = nn.Linear(token_width, width)
    return nn.Sequential(Whitening(token_width), linear) if whitened else linear
