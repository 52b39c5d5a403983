"""The pipeline from any inputs to any outputs, which are generated together. Each item has its own seed."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crossflow.anytoany.alignment import AlignmentConfig, Context, Merge
from crossflow.anytoany.joint import mixed, sample_jointly
from crossflow.anytoany.rivals import sample_in_turn
from crossflow.anytoany.system import AnyToAny, load_system
from crossflow.errors import CrossFlowError, named
from crossflow.files.devices import usable_device
from crossflow.files.hashes import file_sha256
from crossflow.model.settings import Override, Sampling
from crossflow.networks.blocks import check_sizes
from crossflow.sampling.from_image import Decoder, raw_values
from crossflow.sampling.text_to_image import BATCH, prompt_seed, seeded_noise

Given = Mapping[str, Sequence[Any]]
"""The inputs of one item: raw values by modality, several of a kind if need be."""
PRECISIONS = {"auto": torch.float64, "float64": torch.float64, "float32": torch.float32}


class AnyToAnySampler:
    """A trained any-to-any system.

    In float64 (auto) the outputs of an item depend on its own inputs and seed: rounding differences between batch sizes
    are far too small to show. ``reads`` and ``makes`` are the modalities that the system was trained to read and to
    make. ``identity`` is everything here that can change an output, as plain JSON.
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
        self.reads = tuple(name for name in config.names if name in config.prompted)
        self.makes = tuple(name for name in config.names if name in config.diffused)
        self.identity: dict[str, str] = {
            "weights_sha256": weights_sha256,
            "precision": str(self.dtype).removeprefix("torch."),
        }
        self._blank = {name: self._decoded(name, self._zeros(name))[0] for name in config.coded}

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, device: str = "auto", precision: str = "auto", batch_size: int = BATCH
    ) -> "AnyToAnySampler":
        """Load a system onto auto, cpu, cuda or cuda:N; CrossFlowError if it or the device cannot be used."""
        return cls(load_system(Path(path), usable_device(device)), file_sha256(path), precision, batch_size)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a modality's raw values, () for text; CrossFlowError for what this system does not read."""
        self._check_names((name,), self.reads, "read")
        blank = self._blank[name]
        return () if isinstance(blank, str) else blank.shape

    @torch.no_grad()
    def generate(
        self,
        given: Sequence[Given],
        wanted: Sequence[str],
        seeds: Sequence[int],
        *,
        mix: Mapping[str, float] | None = None,
        guidance_scale: float | None = None,
        steps: int | None = None,
        context: str | None = None,
        merge: str | None = None,
        in_turn: bool = False,
    ) -> list[dict[str, Any]]:
        """Raw values of the ``wanted`` modalities for each item, generated together.

        ``mix`` are weights of the inputs by modality, which several of a kind share; 1 where it says nothing. None
        keeps what the system was trained with: of each diffuser its guidance scale, and of those that are wanted the
        solver and steps of the one that takes most. ``context`` and ``merge`` are those of ``AlignmentConfig``. With
        ``in_turn`` outputs come one after another, each prompted by the inputs and those before it.

        CrossFlowError for a modality that the system was not trained for, and for an input that is no value of its own.
        """
        alignment = self._wiring(context, merge)
        self._check_names(wanted, self.makes, "make")
        if not wanted or len(set(wanted)) < len(wanted):
            raise CrossFlowError(f"The outputs are {', '.join(wanted) or 'none'}: name at least one, and each once.")
        if len(given) != len(seeds):
            raise CrossFlowError(f"There are {len(given)} items but {len(seeds)} seeds; give one seed an item.")
        for item in given:
            self._check_item(item, mix or {})
        sampling, scales = self.settings(wanted, guidance_scale, steps)
        parts, outputs = self.system.parts(wanted), list[dict[str, Any]]()
        for start in range(0, len(given), self.batch_size):
            rows = slice(start, start + self.batch_size)
            prompts = self._prompts(given[rows], mix or {})
            noise = {name: self._noise(name, seeds[rows]) for name in wanted}
            if in_turn:
                encode = {
                    name: lambda x, name=name: self._vectors(name, self._decoded(name, x)) for name in wanted[:-1]
                }
                self._check_names(wanted[:-1], self.reads, "read")
                latents = sample_in_turn(parts, prompts, noise, sampling, encode, scales)
            else:
                latents = sample_jointly(parts, prompts, noise, sampling, alignment, scales)
            values = [self._decoded(name, latents[name]) for name in wanted]
            outputs += [dict(zip(wanted, each, strict=True)) for each in zip(*values, strict=True)]
        return outputs

    def settings(
        self, wanted: Sequence[str], guidance_scale: float | None = None, steps: int | None = None
    ) -> tuple[Sampling, dict[str, float]]:
        """The sampling settings of these outputs, and the guidance scale of each; see ``generate``."""
        own = {name: part.diffuser.config.sampling for name, part in self.system.parts(wanted).items()}
        sampling = max(own.values(), key=lambda each: each.steps).but(Override(steps=steps))
        override = Override(guidance_scale=guidance_scale)
        return sampling, {name: each.but(override).guidance_scale for name, each in own.items()}

    @torch.no_grad()
    def agreement(self, item: Given) -> float:
        """The smallest cosine between the prompt vectors of any two inputs of an item; 1 for a single one."""
        vectors = torch.cat([self._vectors(name, values) for name, values in item.items()]).flatten(1)
        return float(torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=-1).min())

    def _wiring(self, context: str | None, merge: str | None) -> AlignmentConfig:
        own = self.system.config.alignment
        contexts: dict[str, Context] = {each: each for each in get_args(Context)}
        merges: dict[str, Merge] = {each: each for each in get_args(Merge)}
        return replace(
            own,
            context=named("context", context or own.context, contexts),
            merge=named("merge", merge or own.merge, merges),
        )

    def _check_names(self, names: Sequence[str], able: Sequence[str], verb: str) -> None:
        for name in names:
            self.system.config.member(name)
            if name not in able:
                raise CrossFlowError(f"This system was not trained to {verb} {name}: it can {verb} {', '.join(able)}.")

    def _check_item(self, item: Given, mix: Mapping[str, float]) -> None:
        self._check_names(tuple(item), self.reads, "read")
        if not any(item.values()):
            raise CrossFlowError("There is an item without any input: give each at least one.")
        for name in mix:
            if not item.get(name):
                raise CrossFlowError(
                    f"The mix gives {name} a weight, and there is no {name} among the inputs: leave it out."
                )
        for name, values in item.items():
            for value in values:
                self._check_value(name, value)

    def _check_value(self, name: str, value: Any) -> None:
        blank = self._blank[name]
        if isinstance(blank, str):
            if not isinstance(value, str) or not value.strip():
                raise CrossFlowError(f"A {name} is {value!r}: give words.")
            return
        found = np.asarray(value)
        if found.shape != blank.shape or found.dtype != blank.dtype or np.isnan(found).any():
            raise CrossFlowError(
                f"An input of {name} is {found.dtype} {list(found.shape)}, and this system reads {blank.dtype} "
                f"{list(blank.shape)} without NaN: convert it first."
            )

    def _prompts(self, given: Sequence[Given], mix: Mapping[str, float]) -> Float[Tensor, "b k d"]:
        """The mixed prompt vectors of each item; all inputs of a modality are encoded together."""
        vectors = {}
        for name in {name: None for item in given for name in item}:
            if values := [value for item in given for value in item.get(name, ())]:
                vectors[name] = iter(self._vectors(name, values).split(1))
        prompts = []
        for item in given:
            own = [(next(vectors[name]), mix.get(name, 1.0) / len(item[name])) for name in item for _ in item[name]]
            prompts.append(mixed([vector for vector, _ in own], [weight for _, weight in own]))
        return torch.cat(prompts)

    def _vectors(self, name: str, values: Sequence[Any]) -> Float[Tensor, "b k d"]:
        read = self.system.read(name, values)
        return self.system.prompts[name](read.to(self.device, self.dtype if read.is_floating_point() else read.dtype))

    def _noise(self, name: str, seeds: Sequence[int]) -> Float[Tensor, "b c h w"]:
        """Noise by seed and modality: an output's does not depend on what else is wanted."""
        shape = self.system.config.member(name).shape
        return torch.stack([seeded_noise(prompt_seed(seed, name), shape) for seed in seeds]).to(self.device, self.dtype)

    def _zeros(self, name: str) -> Float[Tensor, "1 c h w"]:
        return torch.zeros(1, *self.system.config.member(name).shape, device=self.device, dtype=self.dtype)

    def _decoded(self, name: str, latents: Float[Tensor, "b c h w"]) -> list[Any]:
        return raw_values(cast(Decoder, self.system.codec(name)).decode(latents))
