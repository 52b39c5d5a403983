"""The stages of the any-to-any system: CoDi (arXiv 2305.11846) on the embedded world, small enough for one CPU core.

``STAGES`` are the recipes in the order in which each stands on those before; ``crossflow train codi`` runs them all.
"""

from collections.abc import Mapping
from typing import Any, cast

from crossflow.anytoany.diffuser import DiffuserConfig
from crossflow.anytoany.prompts import PromptConfig
from crossflow.anytoany.stages import CodecStage, DiffuserStage, PairStage, PromptStage, Stage
from crossflow.anytoany.system import AnyToAnyConfig, Member
from crossflow.modalities import TargetConfig
from crossflow.networks.transformer import TransformerConfig
from crossflow.recipes.recipe import PAIRS, EventData, TrainConfig

LONGEST = 32
"""At least the words of the longest caption of a scene: four objects with their places."""
JOINED = (("text", "image"), ("text", "audio"), ("audio", "video"), ("image", "depth"))
"""The pairs that are aligned as outputs, in this order: what an earlier pair aligned is frozen in the later ones."""


def member(codec: TargetConfig, channels: int, network: TransformerConfig, prompts: PromptConfig) -> Member:
    """A modality whose latents are 16 tokens of ``channels`` numbers."""
    own = DiffuserConfig(
        shape=(channels, 4, 4),
        backbone=network,
        prompt=prompts.vector,
        parameterisation="velocity",
        times="logit-normal",
    )
    return Member(codec=codec, diffuser=own)


def stages(system: AnyToAnyConfig, schedule: Mapping[str, Mapping[str, Any]]) -> dict[str, TrainConfig]:
    """The recipes of a system by name, in their order; ``schedule`` has the hyperparameters by the kind of the stage."""
    names = system.names
    pairs = [pair for pair in PAIRS if set(pair) <= set(names)]
    partners = {name: tuple(a if b == name else b for a, b in pairs if name in (a, b)) for name in names}
    found: dict[str, Stage] = {"codecs": CodecStage(system=system)}
    for text, name in pairs:
        if text == "text":
            found[f"prompts-{name}"] = PromptStage(system=system, pair=(text, name))
    for name in names:
        found[f"diffuser-{name}"] = DiffuserStage(system=system, modality=name, prompts=partners[name])
    for pair in JOINED:
        if pair in pairs:
            found[f"pair-{'-'.join(pair)}"] = PairStage(system=system, pair=pair)
    return {name: _recipe(stage, **schedule[stage.kind.removeprefix("any-to-any-")]) for name, stage in found.items()}


def _recipe(stage: Stage, **schedule: Any) -> TrainConfig:
    return TrainConfig(
        model=cast(Any, stage), **{"data": EventData(), "optimizer": "muon", "precision": "fp32", **schedule}
    )
