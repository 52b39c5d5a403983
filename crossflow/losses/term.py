"""What a term of the loss is given, and what its config says of itself."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from crossflow.flow.batch import Batch, Item
from crossflow.flow.gaussian import Gaussian


class Step(NamedTuple):
    """One training step as the terms see it.

    ``x0`` is the sample of ``posterior`` by ``noise``, ``own`` the latent of each item's own target, ``source`` what
    was read. ``encode`` makes the posterior of further sources.
    """

    batch: Batch
    source: Item
    posterior: Gaussian
    x0: Float[Tensor, "b c h w"]
    own: Float[Tensor, "b c h w"]
    noise: Float[Tensor, "b c h w"]
    encode: Callable[[Tensor, Bool[Tensor, "b n"] | None], Gaussian]
