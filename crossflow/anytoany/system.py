"""The any-to-any system: the parts of every modality, as far as they are trained, in one file.

A modality has a codec, a prompt encoder, a diffuser, and for joint generation an environment encoder with the
connections of the diffuser. Stages train them one after another (``stages``); each adds its parts to the file of the
stage before.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from crossflow.anytoany.alignment import AlignmentConfig, Part
from crossflow.anytoany.anchor import AnchorConfig
from crossflow.anytoany.diffuser import DiffuserConfig
from crossflow.anytoany.prompts import PromptConfig
from crossflow.anytoany.rivals import DirectConfig
from crossflow.errors import CrossFlowError, named
from crossflow.files.tensors import read_header
from crossflow.files.writing import refuse_existing
from crossflow.modalities import TargetConfig
from crossflow.model.checkpoint import (
    VERSION,
    check_tensors,
    config_from_json,
    is_system,
    read_checkpoint,
    save_checkpoint,
    shipped,
)
from crossflow.model.settings import Override

PARTS = {"coded": "codec", "prompted": "prompt encoder", "diffused": "diffuser", "aligned": "environment encoder"}
"""The parts of a modality by the field of the config that says who has them."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One modality: the ``codec`` between its raw data and latents, and the ``diffuser`` of these, with their shape."""

    codec: TargetConfig
    diffuser: DiffuserConfig

    @property
    def name(self) -> str:
        """What the modality is called."""
        return self.codec.name

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (c, h, w) of its latents."""
        return self.diffuser.shape


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A note of what a ``stage`` trained: the ``pairs`` of modalities that it saw together."""

    stage: Literal["prompts", "diffuser", "pair", "anchor", "direct"]
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class AnyToAnyConfig:
    """The sizes of all parts, and which of them are there, by the name of the modality.

    ``coded`` have a codec, ``prompted`` a prompt encoder, ``diffused`` a diffuser, ``aligned`` an environment encoder
    and connections. ``trained`` says which pairs were trained, and in which stage, in their order. ``anchor`` and
    ``direct`` are rivals on the same codecs, None without.
    """

    members: tuple[Member, ...]
    prompts: PromptConfig = field(default_factory=PromptConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    coded: tuple[str, ...] = ()
    prompted: tuple[str, ...] = ()
    diffused: tuple[str, ...] = ()
    aligned: tuple[str, ...] = ()
    trained: tuple[Trained, ...] = ()
    anchor: AnchorConfig | None = None
    direct: DirectConfig | None = None
    kind: Literal["any-to-any"] = "any-to-any"

    def __post_init__(self) -> None:
        names = self.names
        if len(set(names)) < len(names):
            raise CrossFlowError(f"Two modalities of the system have one name: they are {', '.join(names)}.")
        for member in self.members:
            if member.diffuser.prompt != self.prompts.vector:
                raise CrossFlowError(
                    f"The prompt vectors have {self.prompts.vector} numbers, and the diffuser of {member.name} reads "
                    f"{member.diffuser.prompt}: let them be equal."
                )
        for name in (*self.coded, *self.prompted, *self.diffused, *self.aligned):
            self.member(name)

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities, in their order."""
        return tuple(member.name for member in self.members)

    def member(self, name: str) -> Member:
        """The modality of that name; CrossFlowError for another."""
        return named("modality", name, {member.name: member for member in self.members})

    def needing(self, part: Literal["coded", "prompted", "diffused", "aligned"], names: Sequence[str]) -> None:
        """CrossFlowError, with what to do, unless each of ``names`` has this ``part``."""
        for name in names:
            if name not in getattr(self, part):
                raise CrossFlowError(
                    f"There is no {PARTS[part]} of {name} yet: give the file of the stage that trains it as --init."
                )

    def build(self) -> "AnyToAny":
        """The system, with random weights in the parts that it has."""
        return AnyToAny(self)


class AnyToAny(nn.Module):
    """All parts that ``config`` names, by modality."""

    codecs: Any
    prompts: Any
    diffusers: Any
    environments: Any
    connections: Any
    anchor: Any
    direct: Any

    def __init__(self, config: AnyToAnyConfig) -> None:
        super().__init__()
        self.config = config
        members = {member.name: member for member in config.members}
        shapes = {name: member.shape for name, member in members.items()}
        align = config.alignment.environment
        self.codecs = nn.ModuleDict({name: members[name].codec.build(shapes[name]) for name in config.coded})
        self.prompts = nn.ModuleDict(
            {name: config.prompts.build(members[name].codec, shapes[name]) for name in config.prompted}
        )
        self.diffusers = nn.ModuleDict({name: members[name].diffuser.build() for name in config.diffused})
        self.environments = nn.ModuleDict({name: align.build(shapes[name]) for name in config.aligned})
        self.connections = nn.ModuleDict({name: align.connections(members[name].diffuser) for name in config.aligned})
        self.anchor = None if config.anchor is None else config.anchor.build()
        self.direct = None if config.direct is None else config.direct.build()

    def codec(self, name: str) -> Any:
        """The codec of a modality, a ``Modality``; CrossFlowError if the system has none."""
        self.config.needing("coded", [name])
        return self.codecs[name]

    def latents(self, name: str, raw: Sequence[Any]) -> Float[Tensor, "b c h w"]:
        """Raw values of one modality as latents."""
        codec = self.codec(name)
        return codec.reach(codec.values(self._here(codec.prepare(raw))), None).latents

    def read(self, name: str, raw: Sequence[Any]) -> Shaped[Tensor, "b *dims"]:
        """Raw values as their prompt encoder reads them: token ids of a text, or latents."""
        self.config.needing("prompted", [name])
        return self._here(self.codec(name).prepare(raw)) if self.prompts[name].words else self.latents(name, raw)

    def parts(self, names: Sequence[str]) -> dict[str, Part]:
        """The networks that generate these modalities; CrossFlowError for one that has no diffuser."""
        self.config.needing("diffused", names)
        aligned = [name in self.config.aligned for name in names]
        return {
            name: Part(
                self.diffusers[name],
                self.environments[name] if connected else None,
                self.connections[name] if connected else None,
            )
            for name, connected in zip(names, aligned, strict=True)
        }

    def _here(self, values: Tensor) -> Tensor:
        """On the device of the weights."""
        return values.to(next(self.parameters()).device)


def system_config(path: Path) -> AnyToAnyConfig:
    """The config in the header of a system's file; CrossFlowError for any other file."""
    return _config(read_header(path), path)


def load_system(path: Path, device: str = "cpu") -> AnyToAny:
    """Read a system, in eval mode, on ``device``.

    CrossFlowError for a file that is missing, truncated, of another version or kind of model, and for a weight that is
    missing, unknown or of the wrong shape; the message names it.
    """
    header, tensors = read_checkpoint(path)
    with torch.device("meta"):
        system = _config(header, path).build()
    check_tensors(path, tensors, shipped(system))
    system.load_state_dict(tensors, assign=True)
    return system.to(device).eval()


def export_system(path: Path, out: Path, override: Override, *, half: bool = False) -> None:
    """Copy a system with other default sampling settings of all its diffusers, or in ``half`` precision.

    Weights and notes are kept. CrossFlowError if ``out`` is there already.
    """
    refuse_existing([out])
    system: Any = load_system(path)
    system.config = replace(system.config, members=tuple(_sampled(each, override) for each in system.config.members))
    save_checkpoint(out, system, read_header(path), half=half)


def _sampled(member: Member, override: Override) -> Member:
    sampling = member.diffuser.sampling.but(override)
    return replace(member, diffuser=replace(member.diffuser, sampling=sampling))


def _config(header: Mapping[str, Any], path: Path) -> AnyToAnyConfig:
    if not is_system(header):
        raise CrossFlowError(f"{path} is not the file of an any-to-any system: give the one of crossflow train codi.")
    if header.get("version") != VERSION:
        raise CrossFlowError(f"{path} is of format version {header.get('version')}, not {VERSION}: train again.")
    return config_from_json(json.dumps(header["config"]), path, AnyToAnyConfig)
