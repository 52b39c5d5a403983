"""Diagonal Gaussians over latents: the posterior that a source encoder returns."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Gaussian(NamedTuple):
    """A diagonal Gaussian over source latents."""

    mean: Float[Tensor, "b c h w"]
    log_var: Float[Tensor, "b c h w"]

    def sample(self, noise: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """x0 = mean + sd * noise; the noise is given, never drawn here."""
        return self.mean + torch.exp(0.5 * self.log_var) * noise
