"""Sampling any set of outputs together, by one solver over their packed state, and mixing prompts."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from crossflow.anytoany.alignment import AlignmentConfig, Part, connected, environments
from crossflow.errors import CrossFlowError
from crossflow.flow.guidance import indicator
from crossflow.flow.path import LinearPath
from crossflow.model.settings import Override, Sampling, sample_noise

Latents = Mapping[str, Float[Tensor, "b c h w"]]
"""Latents of the same items by modality."""
Draws = Mapping[str, Iterator[Float[Tensor, "b c h w"]]]
"""Draw after draw of standard normal noise for the same items, by modality."""


def sample_jointly(
    parts: Mapping[str, Part],
    prompts: Float[Tensor, "b k d"],
    draws: Draws,
    sampling: Sampling,
    config: AlignmentConfig,
    scales: Mapping[str, float] | None = None,
) -> dict[str, Float[Tensor, "b c h w"]]:
    """Latents of every modality that ``draws`` are given for: the noise it starts at, and that of ancestral steps.

    One output alone is its diffuser's, and so is each with the context ``none``. Otherwise all are one state, whose
    velocity is guided as a whole: what a modality sees of the others is the same with the prompt and without.
    ``scales`` are guidance scales by modality in place of the one of ``sampling``.
    """
    scales = {name: (scales or {}).get(name, sampling.guidance_scale) for name in draws}
    noise = {name: next(each) for name, each in draws.items()}
    if len(noise) == 1 or config.context == "none":
        own = {name: sampling.but(Override(guidance_scale=scale)) for name, scale in scales.items()}
        return {name: parts[name].diffuser.generate(prompts, x, own[name], draws[name]) for name, x in noise.items()}
    shapes = {name: x.shape[1:] for name, x in noise.items()}

    def velocity(packed: Tensor, t: Tensor, conditional: Tensor) -> Tensor:
        state = unpack(packed, shapes)
        vectors = environments(parts, state, t)
        fields = {
            name: parts[name].diffuser.field(prompts, connected(parts[name], name, vectors, config)) for name in state
        }
        return pack({name: fields[name](x, t, conditional) for name, x in state.items()})

    start = pack(noise)
    one = len(set(scales.values())) == 1
    each = [start.new_full((math.prod(shape),), scales[name]) for name, shape in shapes.items()]
    guided = indicator(velocity, next(iter(scales.values())) if one else torch.cat(each))
    further = (pack({name: next(each) for name, each in draws.items()}) for _ in range(sampling.steps))
    return unpack(sample_noise(guided, LinearPath(), start, sampling, further), shapes)


def pack(latents: Latents) -> Float[Tensor, "b n"]:
    """All latents of an item as one vector, in the order of the mapping."""
    return torch.cat([x.flatten(1) for x in latents.values()], dim=1)


def unpack(packed: Float[Tensor, "b n"], shapes: Mapping[str, Sequence[int]]) -> dict[str, Float[Tensor, "b c h w"]]:
    """The latents of shapes (c, h, w) that were packed in this order."""
    parts = packed.split([math.prod(shape) for shape in shapes.values()], dim=1)
    return {name: part.unflatten(1, tuple(shape)) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def mixed(
    vectors: Sequence[Float[Tensor, "b *dims"]], weights: Sequence[float] | None = None
) -> Float[Tensor, "b *dims"]:
    """A convex mix of prompt vectors, by default their mean; weights are normalised, and the result is not, as CoDi's.

    CrossFlowError for weights that are negative or all 0, or whose sum is not finite.
    """
    weights = [1.0] * len(vectors) if weights is None else weights
    whole = check_weights(weights)
    terms = [weight / whole * each for weight, each in zip(weights, vectors, strict=True) if weight]
    return torch.stack(terms).sum(0)


def check_weights(weights: Sequence[float]) -> float:
    """The sum of weights; CrossFlowError for those that are negative or all 0, or whose sum is not finite."""
    whole = sum(weights)
    if not (all(each >= 0 for each in weights) and 0 < whole < math.inf):
        raise CrossFlowError(
            f"The weights of the prompts are {', '.join(f'{each:g}' for each in weights) or 'none'}; they must be "
            "numbers of at least 0, with a finite sum above 0."
        )
    return whole
