"""The parts of CrossFlow's training loss, each a pure function of tensors, and the image tower that one of them needs.

L = L_FM + L_Enc + kl_weight * L_KL (paper, section 3.3). The paper's KL is the ordinary one at weight 1e-4; the
authors' released code uses the ``official`` form at weight 1e-2. Both sum over latent dimensions.
"""

from typing import Any, Literal, NamedTuple, cast

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from crossflow.blocks import Block, Patches, initialise


class Draws(NamedTuple):
    """Every random number of one training step. Row i of each belongs to item i of the batch.

    ``donor`` is the index, in the batch of the whole optimiser step, of the item whose target the flow is trained on:
    its own, or for the items of the null subset that of the next item of the subset (the authors' cyclic shift).
    """

    noise: Float[Tensor, "b c h w"]
    t: Float[Tensor, " b"]
    conditional: Bool[Tensor, " b"]
    donor: Int[Tensor, " b"]

    def rows(self, start: int, stop: int) -> "Draws":
        """The draws of one share of the batch."""
        return Draws(*(part[start:stop] for part in self))


def draw(count: int, shape: tuple[int, int, int], null_rate: float, generator: torch.Generator) -> Draws:
    """Draw for a batch of ``count``: t is logit-normal(0, 1); a null subset of fewer than two is emptied."""
    noise = torch.randn(count, *shape, generator=generator)
    t = torch.sigmoid(torch.randn(count, generator=generator))
    null = (torch.rand(count, generator=generator) < null_rate).nonzero()[:, 0]
    conditional, donor = torch.ones(count, dtype=torch.bool), torch.arange(count)
    if len(null) > 1:
        conditional[null] = False
        donor[null] = null.roll(-1)
    return Draws(noise, t, conditional, donor)


def gather(x: Shaped[Tensor, "b *dims"]) -> Shaped[Tensor, "g *dims"]:
    """Concatenate over ranks, with gradients flowing back to the rank each row came from."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    return cast(Tensor, _Gather.apply(x))


class _Gather(torch.autograd.Function):
    """Each rank's loss depends on the rows of all, so a row's gradient is the sum over the ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def flow_matching(predicted: Float[Tensor, "b c h w"], velocity: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Mean squared error of the velocity over all dimensions and items."""
    return F.mse_loss(predicted, velocity)


def kl(
    mean: Float[Tensor, "b c h w"], log_var: Float[Tensor, "b c h w"], form: Literal["standard", "official"]
) -> Float[Tensor, ""]:
    """KL to N(0, I), summed over latent dimensions, averaged over items.

    ``official`` replaces mean^2 by (0.3 mean)^6, as in the authors' code: almost free below |mean| = 3, steep above.
    """
    squared = mean.square() if form == "standard" else (0.3 * mean).pow(6)
    return 0.5 * (squared + log_var.exp() - 1.0 - log_var).flatten(1).sum(1).mean()


def contrastive(
    source: Float[Tensor, "b c h w"],
    other: Float[Tensor, "b c h w"],
    scale: Float[Tensor, ""],
    caption: Int[Tensor, " b"],
) -> Float[Tensor, ""]:
    """CLIP loss between source latents and image-tower latents, with negatives gathered over ranks.

    Items with the same ``caption`` number are positives of one another, each with an equal share. Never in bfloat16,
    whose rounding of a cosine, times the scale, is no longer small.
    """
    a, b = (gather(F.normalize(x.flatten(1), dim=-1)) for x in (source, other))
    captions = gather(caption)
    with torch.autocast(a.device.type, enabled=False):
        logits = scale * a @ b.T
        same = (captions[:, None] == captions[None, :]).to(logits.dtype)
        share = same / same.sum(1, keepdim=True)
        return 0.5 * (F.cross_entropy(logits, share) + F.cross_entropy(logits.T, share))


class ImageTower(nn.Module):
    """The image side of the I-T contrast: a small transformer over target latents. Training only, never shipped.

    The authors train a SigLIP-L/16 over pixels; here the target latents already are the pixels, so the tower reads
    those, and answers in the shape of the source latent.
    """

    def __init__(self, shape: tuple[int, int, int], width: int = 96, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.patches = Patches(shape, 1, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.log_scale = nn.Parameter(torch.tensor(14.3).log())
        self.apply(initialise)

    @property
    def scale(self) -> Float[Tensor, ""]:
        """Multiplier of the cosines, 1/tau in the paper, learned in the log domain and kept at 100 or below."""
        return self.log_scale.exp().clamp(max=100.0)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Embed target latents."""
        tokens = self.patches.tokens(x)
        for block in self.blocks:
            tokens = block(tokens)
        return self.patches.maps(tokens)
