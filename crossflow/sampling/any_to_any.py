"""The pipeline from any inputs to any outputs, which are generated together. Each item has its own seed."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from crossflow.anytoany.alignment import AlignmentConfig, Context, Merge, check_aligned
from crossflow.anytoany.joint import check_weights, mixed, sample_jointly
from crossflow.anytoany.rivals import DirectConfig, along, padded, route, sample_in_turn
from crossflow.anytoany.system import AnyToAny, load_system
from crossflow.errors import CrossFlowError, named
from crossflow.files.devices import usable_device
from crossflow.files.hashes import file_sha256
from crossflow.model.settings import Override, Sampling
from crossflow.networks.blocks import check_sizes
from crossflow.sampling.from_image import Decoder, raw_values
from crossflow.sampling.text_to_image import BATCH, finite, prompt_seed, seeded_noises

Given = Mapping[str, Sequence[Any]]
"""The inputs of one item: raw values by modality, several of a kind if need be."""
Weights = Mapping[str, float | Sequence[float]]
"""What inputs weigh, by modality: of several of a kind a number that they share, or one each in their order."""
CONTRADICTING = 0.25
"""Inputs contradict each other where the cosine of their prompts is smaller. Of one event of the embedded world no two
of 840 had less than 0.28; of two events that share no shape and no colour 63 % had less than 0.2."""
PRECISIONS = {"auto": torch.float64, "float64": torch.float64, "float32": torch.float32}


Method = Literal["together", "in-turn", "chain", "anchor", "direct"]
METHODS: Mapping[str, Method] = {each: each for each in get_args(Method)}
"""Outputs that see one another; one after another, each prompted by the inputs and those before it; each of a text
alone (the system's first modality) that is made of the inputs; decoded from one shared latent; carried from the one
input by direct flows, forward and backward, each output by the fewest."""
_PROMPTED = {"mix": 1, "guidance_scale": 1, "steps": 1, "solver": 1}
TAKES: Mapping[Method, Mapping[str, int]] = {
    "together": {**_PROMPTED, "context": 2, "merge": 3},
    "in-turn": _PROMPTED,
    "chain": _PROMPTED,
    "anchor": {"mix": 1, "steps": 1},
    "direct": {"steps": 1},
}
"""The options that each method takes, with the fewest outputs to which they make a difference."""


def check_used(method: str, outputs: int | None = None, **options: Any) -> None:
    """CrossFlowError for an option, not None, that changes nothing of so many ``outputs``, or of any: see ``TAKES``."""
    takes = TAKES[named("method", method, METHODS)]
    for name, value in options.items():
        if value is not None and name not in takes:
            raise CrossFlowError(
                f"The method {method} does not use {name}, but {', '.join(takes)}: leave it out, or choose another "
                "method."
            )
        if value is not None and outputs is not None and outputs < takes[name]:
            raise CrossFlowError(f"{name} changes nothing of fewer than {takes[name]} outputs: leave it out.")


class AnyToAnySampler:
    """A trained any-to-any system.

    In float64 (auto) the outputs of an item depend on its own inputs and seed: rounding differences between batch sizes
    are far too small to show. ``reads`` and ``makes`` are the modalities that the system was trained to read and to
    make, ``hub`` the one that all others were aligned with. ``identity`` is everything here that can change an output,
    as plain JSON.
    """

    def __init__(
        self, system: AnyToAny, weights_sha256: str = "", precision: str = "auto", batch_size: int = BATCH
    ) -> None:
        check_sizes(batch_size=batch_size)
        self.batch_size = batch_size
        self.dtype = named("precision", precision, PRECISIONS)
        self.device = next(system.parameters()).device
        self.system = copy.deepcopy(system).to(self.dtype).eval()
        config = system.config
        self.hub = config.names[0]
        self.reads = tuple(name for name in config.names if name in config.prompted)
        self.makes = tuple(name for name in config.names if name in config.diffused)
        self.identity: dict[str, str] = {
            "weights_sha256": weights_sha256,
            "precision": str(self.dtype).removeprefix("torch."),
        }
        with torch.no_grad():
            self._blank = {name: self._decoded(name, self._zeros(name))[0] for name in config.coded}

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, device: str = "auto", precision: str = "auto", batch_size: int = BATCH
    ) -> "AnyToAnySampler":
        """Load a system onto auto, cpu, cuda or cuda:N; CrossFlowError if it or the device cannot be used."""
        return cls(load_system(Path(path), usable_device(device)), file_sha256(path), precision, batch_size)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a modality's raw values, () for text; CrossFlowError for what this system has no codec of."""
        self._check_names((name,), self.system.config.coded, "read")
        blank = self._blank[name]
        return () if isinstance(blank, str) else blank.shape

    @torch.no_grad()
    def generate(
        self,
        given: Sequence[Given],
        wanted: Sequence[str],
        seeds: Sequence[int],
        *,
        mix: Weights | None = None,
        guidance_scale: float | None = None,
        steps: int | None = None,
        solver: str | None = None,
        context: str | None = None,
        merge: str | None = None,
        method: str = "together",
    ) -> list[dict[str, Any]]:
        """Raw values of the ``wanted`` modalities for each item, generated together.

        ``mix`` are the weights of the inputs, 1 a modality where it says nothing. None keeps the system's own
        settings: of each diffuser its guidance scale, and of those that are wanted the solver and steps of the one that
        takes most. ``context`` and ``merge`` are those of ``AlignmentConfig``. The ``method`` is one of
        ``METHODS``, each with the settings that apply to it.

        CrossFlowError for a modality that the system was not trained for, and for an input that is no value of its own.
        """
        alignment, own = self.wiring(context, merge), named("method", method, METHODS)
        prompting: dict[str, Any] = {
            "mix": mix or None,
            "guidance_scale": guidance_scale,
            "steps": steps,
            "solver": solver,
        }
        check_used(own, **prompting, context=context, merge=merge)
        if len(given) != len(seeds):
            raise CrossFlowError(f"There are {len(given)} items but {len(seeds)} seeds; give one seed an item.")
        self.check({}, wanted, own, context)
        for item in given:
            self.check({name: len(values) for name, values in item.items()}, wanted, own, context)
            self._check_item(item, mix or {})
        if own == "chain":
            return self._by_hub(given, wanted, seeds, prompting)
        outputs: list[dict[str, Any]] = []
        for start in range(0, len(given), self.batch_size):
            rows = slice(start, start + self.batch_size)
            if own == "anchor":
                latents = self._anchored(given[rows], wanted, seeds[rows], mix or {}, steps)
            elif own == "direct":
                latents = self._carried(given[rows], wanted, seeds[rows], steps)
            else:
                sampling, scales = self.settings(wanted, guidance_scale, steps, solver)
                prompts = self._mixed(given[rows], mix or {}, self._vectors)
                shapes = {name: self.system.config.member(name).shape for name in wanted}
                draws = {name: self._draws(name, shape, seeds[rows]) for name, shape in shapes.items()}
                parts = self.system.parts(wanted)
                if own == "in-turn":
                    latents = sample_in_turn(parts, prompts, draws, sampling, self._told(wanted), scales)
                else:
                    latents = sample_jointly(parts, prompts, draws, sampling, alignment, scales)
            values = [self._decoded(name, latents[name]) for name in wanted]
            outputs += [dict(zip(wanted, each, strict=True)) for each in zip(*values, strict=True)]
        return outputs

    def able(self, method: Method) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The modalities that a method can make, and those that it can read."""
        config = self.system.config
        if method == "chain" and (self.hub not in self.makes or self.hub not in self.reads):
            return (), ()
        if method == "anchor":
            both = () if config.anchor is None else config.anchor.modalities
        elif method == "direct":
            both = tuple(
                dict.fromkeys(name for pair in (config.direct.pairs if config.direct else ()) for name in pair)
            )
        else:
            return self.makes, self.reads
        return both, both

    def check(
        self, given: Mapping[str, int], wanted: Sequence[str], method: Method = "together", context: str | None = None
    ) -> None:
        """CrossFlowError where ``wanted`` cannot be made of any so many inputs by modality in this way."""
        makes, reads = self.able(method)
        if method in ("anchor", "direct") and not makes:
            raise CrossFlowError(
                f"This system has no networks for the method {method}: give one of crossflow train codi-{method}, or "
                "choose another method."
            )
        self._check_names(wanted, makes, "make")
        if not wanted or len(set(wanted)) < len(wanted):
            raise CrossFlowError(f"The outputs are {', '.join(wanted) or 'none'}: name at least one, and each once.")
        self._check_names(tuple(given), reads, "read")
        config = self.system.config
        if method == "in-turn":
            self._check_names(wanted[:-1], reads, "read")
        if method == "together" and len(wanted) > 1 and (context or config.alignment.context) != "none":
            check_aligned(wanted, config.aligned)
        if method == "direct" and config.direct is not None:
            if sum(given.values()) > 1:
                raise CrossFlowError("Direct flows start at one input: give one, or choose another method.")
            for source in given:
                for name in wanted:
                    route(config.direct.pairs, source, name)

    def settings(
        self,
        wanted: Sequence[str],
        guidance_scale: float | None = None,
        steps: int | None = None,
        solver: str | None = None,
    ) -> tuple[Sampling, dict[str, float]]:
        """The sampling settings of these outputs, and the guidance scale of each; see ``generate``."""
        own = {name: part.diffuser.config.sampling for name, part in self.system.parts(wanted).items()}
        sampling = max(own.values(), key=lambda each: each.steps).but(Override(steps=steps, solver=solver))
        override = Override(guidance_scale=guidance_scale)
        return sampling, {name: each.but(override).guidance_scale for name, each in own.items()}

    @torch.no_grad()
    def agreement(self, item: Given) -> float:
        """The smallest cosine between the prompt vectors of any two inputs of an item; 1 for a single one."""
        vectors = torch.cat([self._vectors(name, values) for name, values in item.items()]).flatten(1)
        return float(torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=-1).min())

    def wiring(self, context: str | None = None, merge: str | None = None) -> AlignmentConfig:
        """How outputs see one another, None as trained; CrossFlowError for a context or merge that there is not."""
        own = self.system.config.alignment
        contexts: dict[str, Context] = {each: each for each in get_args(Context)}
        merges: dict[str, Merge] = {each: each for each in get_args(Merge)}
        found = replace(
            own,
            context=named("context", context or own.context, contexts),
            merge=named("merge", merge or own.merge, merges),
        )
        if merge is not None and found.context != "others":
            raise CrossFlowError(
                f"merge says how others are read, and with the context {found.context} none are: leave it out."
            )
        return found

    def _check_names(self, names: Sequence[str], able: Sequence[str], verb: str) -> None:
        for name in names:
            self.system.config.member(name)
            if name not in able:
                can = ", ".join(able) or "nothing"
                raise CrossFlowError(f"This system was not trained to {verb} {name} in this way: it can {verb} {can}.")

    def _check_item(self, item: Given, mix: Weights) -> None:
        if not any(item.values()):
            raise CrossFlowError("There is an item without any input: give each at least one.")
        for name, weight in mix.items():
            count = len(item.get(name, ()))
            if not count:
                raise CrossFlowError(
                    f"The mix gives {name} a weight, and there is no {name} among the inputs: leave it out."
                )
            if isinstance(weight, Sequence) and len(weight) != count:
                raise CrossFlowError(
                    f"The mix gives {name} {len(weight)} weights, and the inputs of {name} are {count}: give one each, "
                    "or one that they share."
                )
        if mix:
            check_weights([each for name, values in item.items() if values for each in _several(mix.get(name, 1.0))])
            if sum(map(bool, item.values())) == 1 and max(len(_several(weight)) for weight in mix.values()) == 1:
                raise CrossFlowError("The mix weighs inputs of several kinds, and there is one kind: leave it out.")
        for name, values in item.items():
            if isinstance(values, str):
                raise CrossFlowError(f"{name} is one text, and a list is expected, of several if need be: give a list.")
            for value in values:
                self._check_value(name, value)

    def _check_value(self, name: str, value: Any) -> None:
        blank = self._blank[name]
        if isinstance(blank, str):
            if not isinstance(value, str):
                raise CrossFlowError(f"A {name} is {value!r}: give words.")
            return
        found = np.asarray(value)
        if found.shape != blank.shape or found.dtype != blank.dtype or np.isnan(found).any():
            raise CrossFlowError(
                f"An input of {name} is {found.dtype} {list(found.shape)}, and this system reads {blank.dtype} "
                f"{list(blank.shape)} without NaN: convert it first."
            )

    def _mixed(
        self, given: Sequence[Given], mix: Weights, encode: Callable[[str, Sequence[Any]], Tensor]
    ) -> Float[Tensor, "b *dims"]:
        """The mixed codes of each item's inputs; all inputs of a modality are encoded together."""
        codes = {}
        for name in {name: None for item in given for name in item}:
            if values := [value for item in given for value in item.get(name, ())]:
                codes[name] = iter(encode(name, values).split(1))
        mixes = []
        for item in given:
            weights = [weight for name, values in item.items() for weight in _shares(mix.get(name, 1.0), len(values))]
            mixes.append(mixed([next(codes[name]) for name, values in item.items() for _ in values], weights))
        return torch.cat(mixes)

    def _by_hub(
        self, given: Sequence[Given], wanted: Sequence[str], seeds: Sequence[int], prompting: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Outputs each of the hub alone, which is made of the inputs first, unless it is all that is given."""
        hub = self.hub
        places = [place for place, item in enumerate(given) if any(item[name] for name in item if name != hub)]
        hubs = self.generate([given[place] for place in places], [hub], [seeds[place] for place in places], **prompting)
        items = list(given)
        for place, made in zip(places, hubs, strict=True):
            items[place] = {hub: [made[hub]]}
        found = self.generate(items, wanted, seeds, **{**prompting, "mix": None}, context="none")
        for place, made in zip(places, hubs, strict=True):
            found[place] |= {hub: made[hub]} if hub in wanted else {}
        return found

    def _vectors(self, name: str, values: Sequence[Any]) -> Float[Tensor, "b k d"]:
        return self.system.prompts[name](self._code(name, self.system.read(name, values)))

    def _told(self, names: Sequence[str]) -> dict[str, Callable[[Tensor], Tensor]]:
        """What turns latents into prompt vectors: they are decoded, and read as any input is."""
        return {name: lambda x, name=name: self._vectors(name, self._decoded(name, x)) for name in names}

    def _anchored(
        self,
        given: Sequence[Given],
        wanted: Sequence[str],
        seeds: Sequence[int],
        mix: Weights,
        steps: int | None,
    ) -> dict[str, Float[Tensor, "b c h w"]]:
        anchor = self.system.anchor
        sampling = anchor.config.sampling.but(Override(steps=steps))
        shared = self._mixed(
            given,
            mix,
            lambda name, values: anchor.encode(name, self._wide(name, values, anchor.config.shape), sampling),
        )
        found = anchor.generate(shared, next(self._draws("anchor", anchor.config.shape, seeds)), wanted, sampling)
        return {name: self._narrow(name, x) for name, x in found.items()}

    def _carried(
        self, given: Sequence[Given], wanted: Sequence[str], seeds: Sequence[int], steps: int | None
    ) -> dict[str, Float[Tensor, "b c h w"]]:
        config = cast(DirectConfig, self.system.config.direct)
        sampling = config.sampling.but(Override(steps=steps))
        rows: dict[str, list[Tensor]] = {name: [] for name in wanted}
        for item, seed in zip(given, seeds, strict=True):
            [(source, values)] = [(name, values) for name, values in item.items() if values]
            start = self._wide(source, values, config.shape)
            for name in wanted:
                legs = route(config.pairs, source, name)
                flows = [(self.system.direct["-".join(pair)], backward) for pair, backward in legs]
                noise = [next(self._draws(" to ".join(pair), config.shape, [seed])) for pair, _ in legs]
                rows[name].append(self._narrow(name, along(flows, start, noise, sampling)))
        return {name: torch.cat(each) for name, each in rows.items()}

    def _wide(self, name: str, values: Sequence[Any], shape: tuple[int, int, int]) -> Float[Tensor, "b c h w"]:
        """The latents of raw values, padded to a rival's ``shape``."""
        return padded(self._code(name, self.system.latents(name, values)), shape[0])

    def _narrow(self, name: str, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        return padded(latents, self.system.config.member(name).shape[0])

    def _code(self, name: str, code: Shaped[Tensor, "b *dims"]) -> Shaped[Tensor, "b *dims"]:
        """What the networks read of values; CrossFlowError for values that are infinite, or as good as that."""
        if not code.isfinite().all():
            raise CrossFlowError(f"An input of {name} has numbers that are infinite or too large: give ordinary ones.")
        return self._placed(code)

    def _placed(self, values: Tensor) -> Tensor:
        return values.to(self.device, self.dtype if values.is_floating_point() else values.dtype)

    def _draws(
        self, name: str, shape: tuple[int, int, int], seeds: Sequence[int]
    ) -> Iterator[Float[Tensor, "b c h w"]]:
        """Draws of noise by seed and name: an output's do not depend on what else is wanted."""
        return map(self._placed, seeded_noises([prompt_seed(seed, name) for seed in seeds], shape))

    def _zeros(self, name: str) -> Float[Tensor, "1 c h w"]:
        return torch.zeros(1, *self.system.config.member(name).shape, device=self.device, dtype=self.dtype)

    def _decoded(self, name: str, latents: Float[Tensor, "b c h w"]) -> list[Any]:
        return raw_values(cast(Decoder, self.system.codec(name)).decode(finite(latents, name)))


def _several(weight: float | Sequence[float]) -> Sequence[float]:
    return weight if isinstance(weight, Sequence) else (weight,)


def _shares(weight: float | Sequence[float], count: int) -> Sequence[float]:
    """The weights of so many inputs of a kind."""
    return weight if isinstance(weight, Sequence) else [weight / count] * count
