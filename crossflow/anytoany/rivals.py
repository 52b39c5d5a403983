"""What stands beside generating together, on the same parts: one output after the other, and direct flows in a chain.

Independent outputs are ``sample_jointly`` with the context ``none``; the flows through a shared latent are ``anchor``.
"""

from collections.abc import Callable, Mapping, Sequence

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from crossflow.anytoany.alignment import Part
from crossflow.anytoany.joint import Latents, mixed
from crossflow.flow.guidance import Indicator
from crossflow.modalities.latents import LatentsConfig
from crossflow.model.crossflow import CrossFlow, FlowConfig
from crossflow.model.settings import Override, Sampling
from crossflow.networks import BackboneConfig
from crossflow.sources.codec import CodecConfig

Encode = Mapping[str, Callable[[Tensor], Tensor]]
"""Latents [b c h w] to prompt vectors [b k d], by modality."""


def sample_in_turn(
    parts: Mapping[str, Part],
    prompts: Float[Tensor, "b k d"],
    noise: Latents,
    sampling: Sampling,
    encode: Encode,
    scales: Mapping[str, float] | None = None,
    remember: bool = True,
) -> dict[str, Float[Tensor, "b c h w"]]:
    """Latents of every modality of ``noise``, in its order, each prompted by what is there already.

    The prompt of each is the mean of ``prompts`` and the vectors of all outputs before it. Without ``remember`` it is
    the vectors of the last output alone: a chain, whose middle outputs are its hubs.
    """
    said, latents = [prompts], dict[str, Tensor]()
    for name, x in noise.items():
        if latents:
            last = next(reversed(latents))
            said = [*(said if remember else ()), encode[last](latents[last])]
        own = sampling.but(Override(guidance_scale=(scales or {}).get(name)))
        latents[name] = parts[name].diffuser.generate(mixed(said), x, own)
    return latents


def direct(
    source: str, target: str, shape: tuple[int, int, int], backbone: BackboneConfig, sd: float = 0.2
) -> FlowConfig:
    """A CrossFlow model from the latents of one modality to those of another, both padded to ``shape`` (c, h, w).

    It starts at the source's latents with noise of the deviation ``sd``: what ends run backward can be decoded.
    """
    return FlowConfig(
        shape=shape,
        reads=LatentsConfig(shape=shape, name=source),
        source=CodecConfig(sd=sd),
        target=LatentsConfig(shape=shape, name=target),
        backbone=backbone,
        guidance=Indicator(null_rate=0.1),
        times="uniform",
        sampling=Sampling(solver="midpoint", steps=10),
    )


def along(
    flows: Sequence[tuple[CrossFlow, bool]],
    latents: Float[Tensor, "b c h w"],
    noise: Sequence[Float[Tensor, "b c h w"]],
    sampling: Sampling,
) -> Float[Tensor, "b c h w"]:
    """Latents carried along direct flows, each forward or, where its flag is True, backward.

    Every flow's model begins at its source latents with new ``noise``, one a flow, which one run backward has no use
    for: it ends at source latents, their noise in them. Guided fields are not reversible, so backward is without.
    """
    for (flow, backward), drawn in zip(flows, noise, strict=True):
        if backward:
            latents = flow.sample(latents, sampling.solver, sampling.steps, 1.0, backward=True)
        else:
            latents = flow.generate(latents, None, drawn, sampling)
    return latents


def padded(latents: Float[Tensor, "b c h w"], channels: int) -> Float[Tensor, "b k h w"]:
    """Latents with zeros for what they lack of ``channels``, or cut to so many."""
    return F.pad(latents, (0, 0, 0, 0, 0, channels - latents.shape[1]))
