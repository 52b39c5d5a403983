"""Image towers of the contrastive loss: encoders whose output has the shape of the source latent.

They exist in training only; no checkpoint holds one. The paper says "image encoder"; the authors' code trains a
SigLIP-L/16 on the pixels from random weights (``siglip-l16``). ``features`` reads image features precomputed by a
frozen network instead, and ``latents`` and ``places`` read the target latents. These three depart from the paper's
recipe.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from crossflow.errors import CrossFlowError
from crossflow.files.pretrained import load_tensors
from crossflow.networks.adaptor import Adaptor
from crossflow.networks.blocks import Block, Patches, Positions, at_least_float32, initialise

SIGLIP = "vit_large_patch16_siglip_256"
SIGLIP_SIDE = 256
SIGLIP_WIDTH = 1024
"""Width of that network's features, and so of precomputed ones."""
HEAD_WIDTH = 4096
LARGEST_PLAIN = 4096
"""Latents of more dimensions than this get an ``Adaptor`` as the head, smaller ones an MLP, as in the authors' code."""


class LearnedScale(nn.Module):
    """The learned logit scale of a contrastive loss."""

    def __init__(self, scale_form: Literal["exp", "raw"]) -> None:
        super().__init__()
        self.scale_form = scale_form
        self.log_scale = nn.Parameter(torch.full((1,), math.log(1 / 0.07)))

    @property
    def scale(self) -> Float[Tensor, ""]:
        """1/tau in the paper, learned in the log domain and clamped to at most 100.

        In the form ``raw`` it is the logarithm itself, unclamped, as in the authors' code.
        """
        scale = self.log_scale if self.scale_form == "raw" else self.log_scale.exp().clamp(max=100.0)
        return scale.squeeze()


class Tower(LearnedScale):
    """The base of the towers. ``checkpointing`` recomputes activations in the backward pass where supported."""

    checkpointing: bool = False

    def __init__(self, shape: tuple[int, int, int], scale_form: Literal["exp", "raw"]) -> None:
        super().__init__(scale_form)
        self.shape = shape


class LatentTower(Tower):
    """A small transformer over the target latents themselves."""

    def __init__(
        self, shape: tuple[int, int, int], scale_form: Literal["exp", "raw"], positions: Positions = "small"
    ) -> None:
        super().__init__(shape, scale_form)
        width, depth, heads = 96, 2, 4
        self.patches = Patches(shape, 1, width, start=positions)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.apply(initialise)

    def forward(self, target: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        tokens = self.patches.tokens(target)
        for block in self.blocks:
            tokens = block(tokens)
        return self.patches.maps(tokens)


class PlaceTower(Tower):
    """A network of two layers at every place of the target latents, the same at all: no place sees another.

    The source is then compared with the image place by place, so what it learns to say of a place stands at that place.
    """

    def __init__(self, shape: tuple[int, int, int], scale_form: Literal["exp", "raw"]) -> None:
        super().__init__(shape, scale_form)
        width = 4 * shape[0]
        self.places = nn.Sequential(nn.Linear(shape[0], width), nn.ReLU(), nn.Linear(width, shape[0]))
        self.apply(initialise)

    def forward(self, target: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return at_least_float32(self.places(target.movedim(1, -1)).movedim(-1, 1))


class FeatureTower(Tower):
    """A head over precomputed image features of width 1024: cheap, but not the paper's recipe."""

    def __init__(self, shape: tuple[int, int, int], scale_form: Literal["exp", "raw"]) -> None:
        super().__init__(shape, scale_form)
        self.head = _head(shape)

    def forward(self, image_features: Float[Tensor, "b f"]) -> Float[Tensor, "b c h w"]:
        return at_least_float32(self.head(image_features)).unflatten(1, self.shape)


class SiglipTower(Tower):
    """SigLIP-L/16 at 256 pixels through open_clip, from random weights, with its head: 336 million parameters."""

    def __init__(self, shape: tuple[int, int, int], scale_form: Literal["exp", "raw"]) -> None:
        super().__init__(shape, scale_form)
        self.visual: Any = _siglip()
        self.head = _head(shape)

    def forward(self, image: UInt8[Tensor, "b s s 3"]) -> Float[Tensor, "b c h w"]:
        self.visual.set_grad_checkpointing(self.checkpointing)
        return at_least_float32(self.head(self.visual(_pixels(image)))).unflatten(1, self.shape)


class FrozenSiglip:
    """A pretrained, frozen SigLIP-L/16 at 256 pixels, which computes the features for a ``FeatureTower``.

    ``weights`` is open_clip's file of ViT-L-16-SigLIP-256, .safetensors or a pickle of tensors. CrossFlowError if it
    cannot be read, or does not hold exactly the weights of this image encoder.
    """

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        state = load_tensors(weights)
        visual = _siglip()
        inside = {name.removeprefix("visual."): part for name, part in state.items() if name.startswith("visual.")}
        try:
            visual.load_state_dict(inside)
        except RuntimeError as error:
            raise CrossFlowError(
                f"{weights} does not hold the image side of {SIGLIP}: give open_clip's file of ViT-L-16-SigLIP-256."
            ) from error
        self._visual = visual.to(device).eval().requires_grad_(False)
        self._device = device

    def features(self, images: UInt8[Tensor, "b s s 3"]) -> Float[Tensor, "b f"]:
        """Features of width 1024, float32 on the CPU."""
        with torch.inference_mode():
            return self._visual(_pixels(images.to(self._device))).float().cpu()


def _pixels(image: UInt8[Tensor, "b s s 3"]) -> Float[Tensor, "b 3 t t"]:
    """SigLIP's input: 256 pixels a side, in [-1, 1]."""
    pixels = image.permute(0, 3, 1, 2).float()
    if pixels.shape[-1] != SIGLIP_SIDE:
        pixels = F.interpolate(pixels, SIGLIP_SIDE, mode="bilinear", antialias=True)
    return pixels / 127.5 - 1


def _siglip() -> nn.Module:
    """The image encoder of open_clip's ViT-L-16-SigLIP-256."""
    try:
        from open_clip.timm_model import TimmModel
    except ImportError as error:
        raise CrossFlowError("The image tower siglip-l16 needs the package open_clip_torch: install it.") from error
    return TimmModel(SIGLIP, embed_dim=SIGLIP_WIDTH, image_size=SIGLIP_SIDE, pool="map", proj="none")


def _head(shape: tuple[int, int, int]) -> nn.Module:
    """The head from features of width 1024 to a flattened latent."""
    channels, side, _ = shape
    if math.prod(shape) > LARGEST_PLAIN:
        return Adaptor(SIGLIP_WIDTH, channels, side)
    return nn.Sequential(
        nn.Linear(SIGLIP_WIDTH, HEAD_WIDTH),
        nn.GELU(),
        nn.LayerNorm(HEAD_WIDTH),
        nn.Linear(HEAD_WIDTH, math.prod(shape)),
    )


TOWERS: dict[str, type[LatentTower] | type[PlaceTower] | type[FeatureTower] | type[SiglipTower]] = {
    "latents": LatentTower,
    "places": PlaceTower,
    "features": FeatureTower,
    "siglip-l16": SiglipTower,
}
PIXELS, IMAGE_FEATURES = "pixels", "image_features"
"""The entries of a batch with images, uint8 [b s s 3], and their features [b f], for towers that read these."""
READS: Mapping[str, tuple[str, ...]] = {
    "latents": (),
    "places": (),
    "features": (IMAGE_FEATURES,),
    "siglip-l16": (PIXELS,),
}
"""The entry of a batch that each tower reads; none means the target latent."""
