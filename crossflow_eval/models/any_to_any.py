"""Our own system of any to any, asked for several outputs together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crossflow.errors import named
from crossflow.files.devices import own_device
from crossflow.files.folders import shipped
from crossflow_eval.models.crossflow import check_sampling
from crossflow_eval.types import Ask, Outputs


class CrossFlowAny:
    """A system of any to any; without ``checkpoint`` the shipped one.

    ``steps``, ``guidance_scale``, ``context`` and ``merge`` left None are the trained ones. ``device``: "auto" (a GPU
    where there is one), "cpu", "cuda" or "cuda:N"; ``method`` and ``precision`` are those of
    ``crossflow.sampling.any_to_any.AnyToAnySampler``.
    Raises CrossFlowError for sampling that it cannot do.
    """

    def __init__(
        self,
        checkpoint: Path | None = None,
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        context: str | None = None,
        merge: str | None = None,
        method: str | None = None,
        precision: str = "auto",
        device: str = "auto",
    ) -> None:
        check_sampling(None, steps, guidance_scale)
        where = own_device(device)
        path = shipped("any") if checkpoint is None else checkpoint
        from crossflow.sampling.any_to_any import METHODS, AnyToAnySampler

        named("method", method or "together", METHODS)
        self._sampler = AnyToAnySampler.from_checkpoint(path, where, precision)
        self._sampler.wiring(context, merge)
        self._options: Mapping[str, Any] = {
            "steps": steps,
            "guidance_scale": guidance_scale,
            "context": context,
            "merge": merge,
            "method": method or "together",
        }
        self.name = path.stem
        self.identity: Mapping[str, Any] = {
            **self._sampler.identity,
            **self._options,
            "device": where.partition(":")[0],
        }

    def generate(self, sources: Sequence[Ask], seeds: Sequence[int]) -> list[Outputs]:
        """Return the outputs that each asks for, raw values by modality. What is asked for alike is made together."""
        found: list[Outputs] = [{} for _ in sources]
        for places in alike(sources):
            first = sources[places[0]]
            made = self._sampler.generate(
                [sources[place].given for place in places],
                first.wanted,
                [seeds[place] for place in places],
                mix=first.mix or None,
                **self._options,
            )
            for place, outputs in zip(places, made, strict=True):
                found[place] = outputs
        return found


def alike(sources: Sequence[Ask]) -> list[list[int]]:
    """The places of the sources that want the same, with the same weights."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place, ask in enumerate(sources):
        groups[tuple(ask.wanted), tuple(sorted(ask.mix.items()))].append(place)
    return list(groups.values())
