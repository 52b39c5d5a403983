"""Source encoders: from text or an image to a Gaussian over source latents.

``VariationalEncoder`` reads the tokens of a frozen language model, ``ImageEncoder`` the pixels of an image;
``Upsample`` learns nothing: the enlarged image is the source, as it is.

Differences from the paper: blocks are pre-norm; and besides the paper's ``flat`` readout (flatten all tokens, one
linear layer to the whole latent) there is ``grid``, where one learned token for every place of the latent grid joins
the sequence and is projected to the mean and log-variance of its own place. ``grid`` has as many parameters for a large
latent as for a small one, and lets each place look up the words it needs by self-attention. Of the Image Variational
Encoder the paper says only that it answers in the shape of the target and has a reconstruction loss: ours is a plain
vision transformer, each of whose patches becomes the moments of its own part of the latent.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from crossflow.errors import CrossFlowError
from crossflow.networks.blocks import Block, PatchTokens, at_least_float32, check_sizes, initialise, unpatched


class Gaussian(NamedTuple):
    """A diagonal Gaussian over source latents."""

    mean: Float[Tensor, "b c h w"]
    log_var: Float[Tensor, "b c h w"]

    def sample(self, noise: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """x0 = mean + sd * noise; the noise is given, never drawn here."""
        return self.mean + torch.exp(0.5 * self.log_var) * noise


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Sizes of a text encoder, and how its tokens become a latent."""

    width: int
    depth: int
    heads: int
    readout: Literal["grid", "flat"] = "grid"

    def __post_init__(self) -> None:
        check_sizes(width=self.width, depth=self.depth, heads=self.heads)
        if self.readout not in ("grid", "flat"):
            raise CrossFlowError(f"readout is {self.readout!r}; it must be 'grid' or 'flat'.")


class VariationalEncoder(nn.Module):
    """Text tokens [b n d] with their mask [b n] -> Gaussian over latents of ``shape`` (c, h, w).

    n is ``token_count``, the length that token embeddings are padded to, and d is ``token_width``.
    """

    def __init__(self, config: EncoderConfig, shape: tuple[int, int, int], token_count: int, token_width: int) -> None:
        super().__init__()
        self.shape = shape
        self.readout = config.readout
        channels, height, width = shape
        self.embed = nn.Linear(token_width, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        if config.readout == "grid":
            self.places = nn.Parameter(torch.randn(1, height * width, config.width) * 0.5)
            self.head = nn.Linear(config.width, 2 * channels)
        else:
            self.head = nn.Linear(token_count * config.width, 2 * channels * height * width)
        self.apply(initialise)
        with torch.no_grad():
            self.head.weight.mul_(0.3)  # a posterior near N(0, 1), with mean and log-variance of sd about 0.3

    def forward(self, tokens: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Gaussian:
        """Padding outside ``mask`` is never attended to, and in the ``flat`` readout it is cleared."""
        x = self.embed(tokens)
        b, (channels, height, width) = x.shape[0], self.shape
        if self.readout == "grid":
            places = self.places.expand(b, -1, -1)
            x = torch.cat([places, x], dim=1)
            mask = torch.cat([mask.new_ones(b, places.shape[1]), mask], dim=1)
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        if self.readout == "grid":
            moments = self.head(x[:, : height * width]).transpose(1, 2)
        else:
            moments = self.head((x * mask[..., None]).flatten(1))
        mean, log_var = at_least_float32(moments).reshape(b, 2, channels, height, width).unbind(1)
        return Gaussian(mean, log_var)


@dataclass(frozen=True, kw_only=True)
class ImageEncoderConfig:
    """Sizes of an image encoder; ``patch`` pixels a side make one token."""

    width: int
    depth: int
    heads: int
    patch: int
    kind: Literal["image"] = "image"

    def __post_init__(self) -> None:
        check_sizes(width=self.width, depth=self.depth, heads=self.heads, patch=self.patch)


class ImageEncoder(nn.Module):
    """Images of the shape ``source`` (k, i, j) -> Gaussian over latents of ``shape`` (c, h, w)."""

    def __init__(self, config: ImageEncoderConfig, shape: tuple[int, int, int], source: tuple[int, int, int]) -> None:
        super().__init__()
        rows, columns = (side // config.patch for side in source[1:])
        self.shape, self.source, self.part = shape, source, shape[1] // max(rows, 1)
        if (rows * self.part, columns * self.part) != shape[1:]:
            raise CrossFlowError(
                f"{rows} x {columns} patches of an image do not divide latents of {shape[1]} x {shape[2]} evenly."
            )
        self.patches = PatchTokens(source, config.patch, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, 2 * shape[0] * self.part**2)
        self.apply(initialise)
        with torch.no_grad():
            self.head.weight.mul_(0.3)

    def forward(self, source: Float[Tensor, "b k i j"], mask: None = None) -> Gaussian:
        """``mask`` is for texts: an image has no padding."""
        x = self.patches(source)
        for block in self.blocks:
            x = block(x)
        moments = at_least_float32(self.head(self.norm(x)))
        mean, log_var = (unpatched(half, self.shape, self.part) for half in moments.chunk(2, dim=-1))
        return Gaussian(mean, log_var)


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


@dataclass(frozen=True, kw_only=True)
class UpsampleConfig:
    """An image enlarged ``factor`` times, bicubic, is the source: nothing is learned and nothing drawn."""

    factor: int
    kind: Literal["upsample"] = "upsample"

    def __post_init__(self) -> None:
        check_sizes(factor=self.factor)


class Upsample(nn.Module):
    """Images -> themselves, enlarged: a Gaussian without variance. Bicubic as in Pillow (a = -0.5)."""

    def __init__(self, config: UpsampleConfig) -> None:
        super().__init__()
        self.factor = config.factor

    def forward(self, source: Float[Tensor, "b c i j"], mask: None = None) -> Gaussian:
        """``mask`` is for texts: an image has no padding."""
        mean = enlarged(source, (source.shape[-2] * self.factor, source.shape[-1] * self.factor))
        return Gaussian(mean, torch.full_like(mean, -torch.inf))


def enlarged(images: Float[Tensor, "b k i j"], size: tuple[int, int]) -> Float[Tensor, "b k h w"]:
    """Images at another size (h, w), bicubic with antialiasing, whose kernel is Pillow's."""
    return F.interpolate(images, size=size, mode="bicubic", antialias=True)
