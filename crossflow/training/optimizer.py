"""The optimiser: AdamW for all parameters, or Muon for the matrices inside blocks and AdamW for the rest.

Frozen parameters are skipped. Parameters named ``nodecay_*`` have no weight decay, as in the authors' code. The state
is a dict of named tensors, so that a training state is a safetensors file and not a pickle.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from crossflow.errors import CrossFlowError
from crossflow.training.sharding import share_like

KEPT: Mapping[type, tuple[str, ...]] = {
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
    torch.optim.Muon: ("momentum_buffer",),
}
"""The state tensors of each optimiser, per parameter."""
NO_DECAY = "nodecay_"
"""Marks the names of parameters without weight decay."""


class Optimizer:
    """One or two PyTorch optimisers that step together; the learning rate is passed to every step."""

    def __init__(
        self, kind: Literal["adamw", "muon"], model: nn.Module, betas: tuple[float, float], weight_decay: float
    ) -> None:
        if kind not in ("adamw", "muon"):
            raise CrossFlowError(f"optimizer is {kind!r}; it must be 'adamw' or 'muon'.")
        self.names = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
        inside = {part for part, name in self.names.items() if "blocks." in name and part.ndim == 2}
        matrices = [part for part in self.names if kind == "muon" and part in inside]
        rest = [part for part in self.names if kind == "adamw" or part not in inside]
        free = {part for part in rest if NO_DECAY in self.names[part]}
        groups: list[dict[str, Any]] = [{"params": [part for part in rest if part not in free]}]
        if free:
            groups.append({"params": [part for part in rest if part in free], "weight_decay": 0.0})
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=0.0, betas=betas, weight_decay=weight_decay, fused=True)
        ]
        if matrices:
            muon = torch.optim.Muon(matrices, lr=0.0, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            self.parts.append(muon)

    def step(self, rate: float) -> None:
        """Step with learning rate ``rate``, and clear the gradients."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
            part.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """The state tensors, named after their parameters; zero for a parameter that was never stepped."""
        kept = {}
        for slot in self._slots():
            found = slot.part.state.get(slot.parameter, {})
            kept[slot.name] = found[slot.key] if slot.key in found else self._zero(slot)
        return kept

    @staticmethod
    def _zero(slot: "_Slot") -> Tensor:
        """The initial state tensor."""
        return torch.zeros((), dtype=torch.float32) if slot.key == "step" else torch.zeros_like(slot.parameter)

    def blank_state(self) -> dict[str, Tensor]:
        """Meta tensors with the names, shapes and dtypes that ``load_state`` expects."""
        shapes = {slot.name: () if slot.key == "step" else slot.parameter.shape for slot in self._slots()}
        with torch.device("meta"):
            return {slot.name: torch.empty(shapes[slot.name], dtype=slot.parameter.dtype) for slot in self._slots()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what ``state`` returned; sharded parameters take their own shard of it."""
        for part in self.parts:
            kept: dict[int, dict[str, Tensor]] = {}
            for slot in self._slots():
                if slot.part is part:
                    found = state[slot.name]
                    own = found if slot.key == "step" else share_like(found, slot.parameter)
                    kept.setdefault(slot.place, {})[slot.key] = own
            part.load_state_dict({"state": kept, "param_groups": part.state_dict()["param_groups"]})

    def _slots(self) -> list["_Slot"]:
        return [
            _Slot(part, place, parameter, key, f"optimizer.{self.names[parameter]}.{key}")
            for part in self.parts
            for place, parameter in enumerate(parameter for group in part.param_groups for parameter in group["params"])
            for key in KEPT[type(part)]
        ]


class _Slot(NamedTuple):
    """One state tensor: ``key`` of the ``parameter`` at index ``place`` in the optimiser ``part``, and its name."""

    part: torch.optim.Optimizer
    place: int
    parameter: nn.Parameter
    key: str
    name: str
