"""The terms of CrossFlow's training loss as pure functions of tensors, and the random numbers of a step.

L = L_FM + L_Enc + kl_weight * L_KL (paper, section 3.3). The paper uses the standard KL at weight 1e-4, the authors'
released code the ``official`` form at weight 1e-2. Both sum over latent dimensions.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

Times = Literal["logit-normal", "uniform", "source"]
"""The distribution of training times; ``source`` is t = 0 alone.

On the linear path a flow that was trained at t = 0 and takes one Euler step is a regression: it ends at the mean of the
targets given the source, up to the path's sigma_min.
"""


class Draws(NamedTuple):
    """All random numbers of one training step; row i belongs to item i of the batch.

    ``donor`` is the index, in the batch of the whole optimiser step, of the item whose target the flow is trained on:
    the item itself or, in the null subset, the next item of the subset (the authors' cyclic shift). ``target_noise``
    samples the target latents where the autoencoder has a posterior.
    """

    noise: Float[Tensor, "b c h w"]
    t: Float[Tensor, " b"]
    conditional: Bool[Tensor, " b"]
    donor: Int[Tensor, " b"]
    target_noise: Float[Tensor, "b c h w"] | None = None

    def rows(self, start: int, stop: int) -> "Draws":
        """The draws of a slice of the batch."""
        return Draws._make(None if part is None else part[start:stop] for part in self)

    def to(self, device: torch.device) -> "Draws":
        return Draws._make(None if part is None else part.to(device) for part in self)


def draw(
    count: int,
    shape: tuple[int, int, int],
    null_rate: float,
    generator: torch.Generator,
    sampled_targets: bool = False,
    times: Times = "logit-normal",
) -> Draws:
    """Draw for a batch of ``count``: t is logit-normal(0, 1), uniform or 0; a null subset of one item is left empty."""
    noise = torch.randn(count, *shape, generator=generator)
    if times == "source":
        t = torch.zeros(count)
    elif times == "uniform":
        t = torch.rand(count, generator=generator)
    else:
        t = torch.randn(count, generator=generator).sigmoid()
    null = (torch.rand(count, generator=generator) < null_rate).nonzero()[:, 0]
    conditional, donor = torch.ones(count, dtype=torch.bool), torch.arange(count)
    if len(null) > 1:
        conditional[null] = False
        donor[null] = null.roll(-1)
    target_noise = torch.randn(count, *shape, generator=generator) if sampled_targets else None
    return Draws(noise, t, conditional, donor, target_noise)


def gather(x: Shaped[Tensor, "b *dims"]) -> Shaped[Tensor, "g *dims"]:
    """Concatenate over ranks, with gradients flowing back to the rank each row came from."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    return cast(Tensor, _Gather.apply(x))


class _Gather(torch.autograd.Function):
    """All-gather whose backward sums over ranks, because the loss of each rank depends on the rows of all."""

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


def flow_matching(
    predicted: Sequence[Float[Tensor, "b c _ _"]],
    velocity: Float[Tensor, "b c h w"],
    weights: Sequence[float],
    measured: Bool[Tensor, "b 1 h w"] | None = None,
) -> Float[Tensor, " b"]:
    """Mean squared error of the velocity over the dimensions of each item, summed over resolutions with ``weights``.

    The target at 1/r of the resolution is r times the average over r x r windows, which preserves the variance of
    independent noise (the authors' DiMR). With ``measured`` the mean of an item is over the dimensions where its target
    is known; a cell of a lower resolution counts by its known share.
    """
    total = velocity.new_zeros(len(velocity))
    for each, weight in zip(predicted, weights, strict=True):
        ratio = velocity.shape[-1] // each.shape[-1]
        target = velocity if ratio == 1 else ratio * F.avg_pool2d(velocity, ratio)
        error = (each - target).square()
        if measured is None:
            total = total + weight * error.flatten(1).mean(1)
        else:
            known = F.avg_pool2d(measured.to(error.dtype), ratio).expand_as(error)
            total = total + weight * (error * known).flatten(1).sum(1) / known.flatten(1).sum(1)
    return total


def tail_weights(left: Float[Tensor, " b"], tail: float) -> Float[Tensor, " b"]:
    """The weight of each item's flow loss, 1 until the path's last part ``tail``; ``left`` is that of ``Path``.

    An error e of the target is an error e / left of the velocity, so near the end of the path the loss is made of
    details that are almost there. The weight is (left / tail)^2 in the tail, where the target's error counts alike.
    """
    return (left / tail).clamp(max=1.0).square()


def kl(
    mean: Float[Tensor, "b c h w"], log_var: Float[Tensor, "b c h w"], form: Literal["standard", "official"]
) -> Float[Tensor, " b"]:
    """KL divergence of each item's Gaussian from N(0, I), summed over latent dimensions.

    ``official`` replaces mean^2 by (0.3 mean)^6, as in the authors' code: almost free below |mean| = 3, steep above.
    """
    squared = mean.square() if form == "standard" else (0.3 * mean).pow(6)
    return 0.5 * (squared + log_var.exp() - 1.0 - log_var).flatten(1).sum(1)


def contrastive(
    source: Float[Tensor, "b *dims"],
    other: Float[Tensor, "b *dims"],
    scale: float | Float[Tensor, ""],
    caption: Int[Tensor, " b"],
    negatives: Float[Tensor, "b k *dims"] | None = None,
) -> Float[Tensor, ""]:
    """CLIP loss, a symmetric InfoNCE, between two latents of each item, with negatives gathered over ranks.

    ``scale`` is one over the temperature. Items with the same ``caption`` id are positives of one another, with equal
    weight. ``negatives`` are source latents of k hard negative captions per item, further wrong answers for its image.
    Autocast is off: bfloat16 rounds cosines too coarsely for the scale they are multiplied by.
    """
    a, b = (gather(F.normalize(x.flatten(1), dim=-1)) for x in (source, other))
    captions = gather(caption)
    with torch.autocast(a.device.type, enabled=False):
        logits = scale * a @ b.T
        same = (captions[:, None] == captions[None, :]).to(logits.dtype)
        share = same / same.sum(1, keepdim=True)
        if negatives is None:
            return 0.5 * (F.cross_entropy(logits, share) + F.cross_entropy(logits.T, share))
        harder = gather(F.normalize(negatives.flatten(2), dim=-1))
        further = scale * torch.einsum("bkd,bd->bk", harder.to(b.dtype), b)
        none = share.new_zeros(further.shape)
        of_images = F.cross_entropy(torch.cat([logits.T, further], dim=1), torch.cat([share, none], dim=1))
        return 0.5 * (F.cross_entropy(logits, share) + of_images)
