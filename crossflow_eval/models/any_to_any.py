"""Our own system of any to any, asked for several outputs together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossflow.errors import named
from crossflow.files.devices import own_device
from crossflow.files.folders import shipped
from crossflow_eval.models.crossflow import called, check_sampling
from crossflow_eval.types import Ask, Example, Outputs

if TYPE_CHECKING:
    from crossflow.sampling.any_to_any import Method


class CrossFlowAny:
    """A system of any to any; without ``checkpoint`` the shipped one.

    ``steps``, ``guidance_scale``, ``solver``, ``context`` and ``merge`` left None are the system's own. ``device``:
    "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N"; ``method`` and ``precision`` are those of
    ``crossflow.sampling.any_to_any.AnyToAnySampler``.
    Raises CrossFlowError for sampling that it cannot do.
    """

    def __init__(
        self,
        checkpoint: Path | None = None,
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        solver: str | None = None,
        context: str | None = None,
        merge: str | None = None,
        method: str | None = None,
        precision: str = "auto",
        device: str = "auto",
    ) -> None:
        check_sampling(solver, steps, guidance_scale)
        where = own_device(device)
        path = shipped("any") if checkpoint is None else checkpoint
        from crossflow.sampling.any_to_any import METHODS, AnyToAnySampler, check_used

        self._method: Method = named("method", method or "together", METHODS)
        check_used(
            self._method, steps=steps, guidance_scale=guidance_scale, solver=solver, context=context, merge=merge
        )
        self._sampler = AnyToAnySampler.from_checkpoint(path, where, precision)
        self._sampler.wiring(context, merge)
        self._options: Mapping[str, Any] = {
            "steps": steps,
            "guidance_scale": guidance_scale,
            "solver": solver,
            "context": context,
            "merge": merge,
            "method": self._method,
        }
        self.name = called(path)
        self.identity: Mapping[str, Any] = {
            **self._sampler.identity,
            **self._options,
            "device": where.partition(":")[0],
        }

    def check(self, needed: Sequence[Example], known: Sequence[Example], outputs_per_example: int) -> None:
        """Raise CrossFlowError where the system was not trained to make what is asked for, by this method.

        So it does for an option that changes no output of any example.
        """
        from crossflow.sampling.any_to_any import check_used

        asks = [example.source for example in needed if isinstance(example.source, Ask)]
        given = {name: self._options[name] for name in ("context", "merge")}
        check_used(self._method, max((len(ask.wanted) for ask in asks), default=0), **given)
        steps = {step: None for ask in asks for step in _steps(ask)}
        for inputs, wanted in steps:
            self._sampler.check(dict(inputs), wanted, self._method, self._options["context"])

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


def _steps(ask: Ask) -> list[tuple[tuple[tuple[str, int], ...], tuple[str, ...]]]:
    """What is made of what, one after another: how many inputs of each modality, and the outputs."""
    through = [(each,) for each in ask.via]
    starts = [tuple((name, len(values)) for name, values in ask.given.items()), *(((hub, 1),) for hub in ask.via)]
    return list(zip(starts, [*through, tuple(ask.wanted)], strict=True))


def alike(sources: Sequence[Ask]) -> list[list[int]]:
    """The places of the sources that want the same, with the same weights."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place, ask in enumerate(sources):
        groups[tuple(ask.wanted), tuple(sorted(ask.mix.items()))].append(place)
    return list(groups.values())
