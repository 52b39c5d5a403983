"""Time-dependent parameters and norms of the released networks: computed from t, or looked up after tabulation.

Time is t in [0, 1] or, after the network's ``tabulate(times)``, the index of a solver step; one per item, or one for
the batch, which is faster because each norm is then one kernel. A lookup needs no synchronisation with the device, so
a step can be captured in a CUDA graph. Tables are not saved and do not follow the weights: tabulate again when the
weights change.
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
"""t in [0, 1], or step indices."""


def look_up(table: Float[Tensor, "s d"] | None, row: Int[Tensor, " b"]) -> Float[Tensor, "b d"]:
    """Rows of a table; CrossFlowError if there is none."""
    if table is None:
        raise CrossFlowError("Time came as step numbers before tabulate(times) was called: call it, or give t.")
    return table.index_select(0, row)


class TimeDependent(nn.Module):
    """A learned vector of t: s p0 + (1 - s) p1 with s = sigmoid((1 - 2 t) (w + 1) + b), elementwise.

    It is computed in at least float32. p0 and p1 start at ``start``; w and b start at zero and have no weight decay.
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
        """The vector at each t, in the dtype of the weights."""
        if not t.is_floating_point():
            return look_up(self.table, t)
        parts = (self.param0, self.param1, self.nodecay_weight, self.nodecay_bias)
        param0, param1, weight, bias = (at_least_float32(part) for part in parts)
        share = torch.sigmoid((1 - 2 * at_least_float32(t)[:, None]) * (weight + 1) + bias)
        return torch.lerp(param1, param0, share.to(param0)).to(self.param0.dtype)

    def tabulate(self, times: Float[Tensor, " s"]) -> None:
        """Store the vector at these times."""
        self.table = self(times)


class TimeRMSNorm(nn.Module):
    """gain(t) x / sqrt(mean(x^2) + 1e-16) over channels: the authors' x / (rms + 1e-8), up to float32 rounding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = TimeDependent(width, 1.0)

    def forward(self, x: Float[Tensor, "b *places d"], t: Time) -> Float[Tensor, "b *places d"]:
        """The output has the dtype of the weights."""
        gain = self.scale(t)
        x = x.to(gain.dtype)
        if len(gain) == 1:
            return F.rms_norm(x, x.shape[-1:], gain[0], eps=1e-16)
        return _expanded(gain, x) * F.rms_norm(x, x.shape[-1:], eps=1e-16)


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
        return torch.addcmul(_expanded(bias, x), _expanded(gain, x), F.layer_norm(x, x.shape[-1:]))


def _expanded(vector: Float[Tensor, "#b d"], x: Tensor) -> Tensor:
    """[b d] -> [b 1 ... d], to broadcast with x."""
    return vector.reshape(-1, *[1] * (x.ndim - 2), x.shape[-1])


def recompute(active: bool, function: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
    """Call ``function``; if ``active``, with activation checkpointing. It must draw no random numbers."""
    if not (active and torch.is_grad_enabled()):
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
