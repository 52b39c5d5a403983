"""Fast sampling of the released networks: everything that can be precomputed is, before the first step.

Time-dependent parameters are tabulated in at least float32 from the weights at their own precision; then the weights
are cast once. The conditional and unconditional halves run as one batch, and a step does not synchronise with the
device, so on a GPU an evaluation is captured once as a CUDA graph and replayed. The arithmetic is that of
``CrossFlow.sample``.
"""

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.flow.guidance import GuidanceConfig, Indicator, IndicatorVelocity, indicator
from crossflow.flow.solver import Solver, solver_named
from crossflow.model.settings import Sampling
from crossflow.networks.dimr import DiMR
from crossflow.networks.dit import DiT

ADAPTIVE = ("dopri5",)
"""Solvers with adaptive times, for which nothing can be tabulated."""
INDICATOR = Indicator()
WARM_UP = 3
"""Evaluations before capture, in which libraries choose their kernels and compilers compile."""


class Sampler:
    """One network with one fixed-step solver, from t = 0 to 1 or ``backward``.

    ``guidance`` makes the guided velocity of the network's, and of the network ``weaker`` for autoguidance.

    ``dtype`` is that of weights and activations; latents between steps are float32. A network that already has this
    dtype is used in place and its tables are replaced; otherwise a copy is used. ``compiled`` puts the blocks through
    torch.compile, which takes about a minute at the first call. On a GPU, a change of batch size captures a new graph.
    """

    def __init__(
        self,
        backbone: DiMR | DiT,
        sampling: Sampling,
        guidance: GuidanceConfig = INDICATOR,
        weaker: DiMR | DiT | None = None,
        *,
        backward: bool = False,
        dtype: torch.dtype = torch.float32,
        compiled: bool = False,
    ) -> None:
        if sampling.solver in ADAPTIVE:
            raise CrossFlowError(
                f"{sampling.solver} chooses its times on the way: use float32, or a fixed-step solver."
            )
        self.solver, self.steps, self.backward = solver_named(sampling.solver), sampling.steps, backward
        times = evaluation_times(self.solver, self.steps, backward)
        if compiled:
            torch.compiler.reset()  # each table length is a recompilation, and PyTorch limits these
        self.backbone = _tabulated(backbone, times, dtype, compiled)
        self._row = torch.zeros(1, dtype=torch.long, device=next(backbone.parameters()).device)
        weak = None if weaker is None else indicator(self._at_row(_tabulated(weaker, times, dtype, compiled)), 1.0)
        self._velocity = guidance.velocity(self._at_row(self.backbone), sampling.guidance_scale, weak)
        self._recorded: _Recorded | None = None

    def _at_row(self, network: DiMR | DiT) -> IndicatorVelocity:
        """The velocity of a network at the tabulated time with the index in ``_row``."""
        return lambda x, _, conditional: network(x, self._row, conditional)

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Integrate latents to the other end of the path; returns float32."""
        count = 0

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            nonlocal count
            self._row.fill_(count)
            count += 1
            return self._evaluate(x)

        return self.solver(velocity, x.float(), self.steps, self.backward)

    def _evaluate(self, x: Tensor) -> Tensor:
        if x.device.type != "cuda":
            return self._guided(x)
        if self._recorded is None or self._recorded.input.shape != x.shape:
            self._recorded = _Recorded(self._guided, x)
        return self._recorded(x)

    def _guided(self, x: Tensor) -> Tensor:
        """The guided velocity; the time comes from ``_row``, so the one passed here is a dummy."""
        return self._velocity(x, x.new_zeros(len(x)))


def _tabulated(network: DiMR | DiT, times: Float[Tensor, " s"], dtype: torch.dtype, compiled: bool) -> DiMR | DiT:
    """The network, or a copy, with ``dtype`` and the tables of these times."""
    own = next(network.parameters())
    ready = network if own.dtype == dtype and not compiled else copy.deepcopy(network)
    ready.tabulate(times.to(own.device, torch.promote_types(own.dtype, torch.float32)))
    ready.to(dtype)
    if compiled:
        compile_blocks(ready)
    return ready


def evaluation_times(solver: Solver, steps: int, backward: bool) -> Float[Tensor, " s"]:
    """The times at which a fixed-step solver evaluates the velocity, in order, float64."""
    times: list[Tensor] = []

    def still(x: Tensor, t: Tensor) -> Tensor:
        times.append(t)
        return torch.zeros_like(x)

    solver(still, torch.zeros(1, dtype=torch.float64), steps, backward)
    return torch.cat(times)


def compile_blocks(backbone: DiMR | DiT) -> None:
    """Compile the repeated blocks in place: they share code, so this is faster than compiling the whole."""
    for module in backbone.modules():
        for block in getattr(module, "blocks", ()):
            block.compile(fullgraph=True, dynamic=False)


class _Recorded:
    """A function of one tensor, captured as a CUDA graph on the first input; later inputs must have its shape."""

    def __init__(self, function: Callable[[Tensor], Tensor], first: Tensor) -> None:
        self.input = first.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(first.device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    function(self.input)
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(self.graph):
                self.output = function(self.input)

    def __call__(self, x: Tensor) -> Tensor:
        self.input.copy_(x)
        self.graph.replay()
        return self.output.clone()
