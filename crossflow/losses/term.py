"""The input of a loss term."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from crossflow.flow.batch import Batch, Item
from crossflow.flow.gaussian import Gaussian


class Step(NamedTuple):
    """One training step, as loss terms get it.

    ``source`` is the source data, ``x0`` the sample of its ``posterior`` with ``noise``, and ``own`` the latent of each
    item's own target, also for null items. ``encode`` returns the posterior of other source data.
    """

    batch: Batch
    source: Item
    posterior: Gaussian
    x0: Float[Tensor, "b c h w"]
    own: Float[Tensor, "b c h w"]
    noise: Float[Tensor, "b c h w"]
    encode: Callable[[Tensor, Bool[Tensor, "b n"] | None], Gaussian]
