"""What depends on time alone in the released networks: computed from t, or looked up once it is tabulated.

Time comes as t in [0, 1], or as the number of a solver's step after ``tabulate(times)`` of the network; one for every
item, or one for all, which is quicker: each norm is then one kernel. A lookup reads nothing back from the device, so a
step can be captured in a CUDA graph. Tables are not saved, and do not follow the weights: tabulate again when these
change.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from crossflow.errors import CrossFlowError
from crossflow.networks.blocks import at_least_float32

Time = Float[Tensor, " #b"] | Int[Tensor, " #b"]
"""t in [0, 1], or step numbers."""


def look_up(table: Float[Tensor, "s d"] | None, row: Int[Tensor, " b"]) -> Float[Tensor, "b d"]:
    """Rows of a table; CrossFlowError where there is none."""
    if table is None:
        raise CrossFlowError("Time came as step numbers before tabulate(times) was called: call it, or give t.")
    return table.index_select(0, row)


class TimeDependent(nn.Module):
    """A vector on its way between two: s p0 + (1 - s) p1 with s = sigmoid((1 - 2 t) (w + 1) + b), by element.

    It is computed in at least float32. p0 and p1 start equal; w and b start at zero and take no weight decay.
    """

    table: Tensor | None

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.register_buffer("table", None, persistent=False)
        self.param0 = nn.Parameter(torch.full((width,), start))
        self.param1 = nn.Parameter(torch.full((width,), start))
        self.nodecay_weight = nn.Parameter(torch.zeros(width))
        self.nodecay_bias = nn.Parameter(torch.zeros(width))

    def forward(self, t: Time) -> Float[Tensor, "b d"]:
        """The vector at each time, in the dtype of the weights."""
        if not t.is_floating_point():
            return look_up(self.table, t)
        parts = (self.param0, self.param1, self.nodecay_weight, self.nodecay_bias)
        param0, param1, weight, bias = (at_least_float32(part) for part in parts)
        share = torch.sigmoid((1 - 2 * at_least_float32(t)[:, None]) * (weight + 1) + bias)
        return torch.lerp(param1, param0, share.to(param0)).to(self.param0.dtype)

    def tabulate(self, times: Float[Tensor, " s"]) -> None:
        """Keep the vector at these times."""
        self.table = self(times)


class TimeRMSNorm(nn.Module):
    """gain(t) x / sqrt(mean(x^2) + 1e-16) over channels, the authors' x / (rms + 1e-8) to float32 rounding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = TimeDependent(width, 1.0)

    def forward(self, x: Float[Tensor, "b *places d"], t: Time) -> Float[Tensor, "b *places d"]:
        """The output has the dtype of the weights."""
        gain = self.scale(t)
        x = x.to(gain.dtype)
        if len(gain) == 1:
            return F.rms_norm(x, x.shape[-1:], gain[0], eps=1e-16)
        return _spread(gain, x) * F.rms_norm(x, x.shape[-1:], eps=1e-16)


class TimeLayerNorm(nn.Module):
    """gain(t) layer_norm(x) + bias(t) over channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = TimeDependent(width, 1.0)
        self.bias = TimeDependent(width, 0.0)

    def forward(self, x: Float[Tensor, "b *places d"], t: Time) -> Float[Tensor, "b *places d"]:
        """The output has the dtype of the weights."""
        gain, bias = self.weight(t), self.bias(t)
        x = x.to(gain.dtype)
        if len(gain) == 1:
            return F.layer_norm(x, x.shape[-1:], gain[0], bias[0])
        return torch.addcmul(_spread(bias, x), _spread(gain, x), F.layer_norm(x, x.shape[-1:]))


def _spread(vector: Float[Tensor, "#b d"], x: Tensor) -> Tensor:
    """[b d] -> [b 1 ... d], to meet x."""
    return vector.reshape(-1, *[1] * (x.ndim - 2), x.shape[-1])


def recompute(active: bool, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Call the function; if ``active`` keep none of its activations, and compute them again in the backward pass.

    The function draws no random numbers.
    """
    if not (active and torch.is_grad_enabled()):
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
