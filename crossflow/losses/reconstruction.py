"""Source latents read back as what they were made of: the paper's reconstruction loss, in training only."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from crossflow.networks.blocks import PatchTokens, at_least_float32, initialise, unpatched


class Reconstructor(nn.Module):
    """Source latents back to the images they were made of: the paper's reconstruction loss, in training only.

    Two layers for every ``patch`` of the image by itself, so that the latent has to hold it in its place.
    """

    def __init__(self, shape: tuple[int, int, int], image: tuple[int, int, int], patch: int) -> None:
        super().__init__()
        self.image, self.patch = image, patch
        width = image[0] * patch**2
        self.patches = PatchTokens(shape, shape[1] * patch // image[1], width)
        self.out = nn.Linear(width, width)
        self.apply(initialise)

    def forward(self, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k i j"]:
        """Read the image back."""
        return unpatched(at_least_float32(self.out(F.relu(self.patches(x0)))), self.image, self.patch)
