"""The stages of the any-to-any system: CoDi (arXiv 2305.11846) on the embedded world, small enough for one CPU core.

``stages`` makes the recipes of a system, in the order in which each stands on those before. ``SYSTEM`` is the one of
all five modalities, its recipes are ``codi-...``, and ``crossflow train codi`` runs them all.
"""

from collections.abc import Mapping
from typing import Any, cast

from crossflow.anytoany.alignment import AlignmentConfig
from crossflow.anytoany.anchor import AnchorConfig
from crossflow.anytoany.diffuser import DiffuserConfig
from crossflow.anytoany.environment import EnvironmentConfig
from crossflow.anytoany.prompts import PromptConfig
from crossflow.anytoany.rival_stages import AnchorStage, DirectStage
from crossflow.anytoany.rivals import DirectConfig
from crossflow.anytoany.stages import CodecStage, DiffuserStage, PairStage, PromptStage, Stage
from crossflow.anytoany.system import AnyToAnyConfig, Member
from crossflow.modalities import TargetConfig
from crossflow.modalities.audio import AudioConfig
from crossflow.modalities.depth import PatchDepthConfig
from crossflow.modalities.patch_pca import PatchPCAConfig
from crossflow.modalities.text_autoencoder import TextAutoencoderConfig
from crossflow.modalities.video import VideoConfig
from crossflow.model.settings import Sampling
from crossflow.networks.transformer import TransformerConfig
from crossflow.recipes.recipe import PAIRS, EventData, TrainConfig
from crossflow.recipes.scenes import WORDS

LONGEST = 32
"""At least the words of the longest caption of a scene: four objects with their places."""
JOINED = (("text", "image"), ("text", "audio"), ("audio", "video"), ("image", "depth"))
"""The pairs that are aligned as outputs, in this order: what an earlier pair aligned is frozen in the later ones."""
SPREAD = 0.35
"""The standard deviation of latents: small ones are decided in the middle of the path."""


def member(codec: TargetConfig, channels: int, network: TransformerConfig, prompts: PromptConfig) -> Member:
    """A modality whose latents are 16 tokens of ``channels`` numbers."""
    own = DiffuserConfig(
        shape=(channels, 4, 4),
        backbone=network,
        prompt=prompts.vector,
        parameterisation="target",
        times="logit-normal",
        tail=0.35,
        sampling=Sampling(solver="midpoint", steps=10, guidance_scale=2.0),
    )
    return Member(codec=codec, diffuser=own)


def stages(system: AnyToAnyConfig, schedules: Mapping[str, Mapping[str, Any]]) -> dict[str, TrainConfig]:
    """The recipes of a system by name, in their order; ``schedules`` are by name or sort of the stage."""
    names = system.names
    pairs = [pair for pair in PAIRS if set(pair) <= set(names)]
    partners = {name: tuple(a if b == name else b for a, b in pairs if name in (a, b)) for name in names}
    found: dict[str, Stage] = {"codecs": CodecStage(system=system)}
    found |= {f"prompts-{b}": PromptStage(system=system, pair=(a, b)) for a, b in pairs if a == "text"}
    found |= {f"diffuser-{each}": DiffuserStage(system=system, modality=each, prompts=partners[each]) for each in names}
    found |= {f"pair-{a}-{b}": PairStage(system=system, pair=(a, b)) for a, b in JOINED if (a, b) in pairs}
    return {name: _recipe(stage, schedules.get(name) or schedules[name.split("-")[0]]) for name, stage in found.items()}


def rivals(
    system: AnyToAnyConfig, network: TransformerConfig, schedules: Mapping[str, Mapping[str, Any]]
) -> dict[str, TrainConfig]:
    """The recipes of the rivals on a system's codecs by name; direct flows stand on those before them."""
    pairs = tuple(pair for pair in PAIRS if set(pair) <= set(system.names))
    shape = max(member.shape for member in system.members)
    anchor = AnchorConfig(shape=shape, modalities=system.names, backbone=network)
    direct = DirectConfig(shape=shape, backbone=network, sd=0.2 * SPREAD)
    found: dict[str, Stage] = {"anchor": AnchorStage(system=system, anchor=anchor, paired=pairs)}
    found |= {f"direct-{a}-{b}": DirectStage(system=system, direct=direct, pair=(a, b)) for a, b in pairs}
    return {name: _recipe(stage, schedules[name.split("-")[0]]) for name, stage in found.items()}


def _recipe(stage: Stage, schedule: Mapping[str, Any]) -> TrainConfig:
    common = {"data": EventData(), "optimizer": "muon", "precision": "fp32"}
    return TrainConfig(model=cast(Any, stage), **{**common, **schedule})


_PROMPTS = PromptConfig(width=96, depth=2, heads=4)
_NETWORK = TransformerConfig(width=96, depth=4, heads=4, modulated=True, pooled=True)
_WORDS = TextAutoencoderConfig(words=WORDS, count=LONGEST, width=96, depth=1, heads=4, scale=SPREAD)
SYSTEM = AnyToAnyConfig(
    members=(
        member(_WORDS, 8, _NETWORK, _PROMPTS),
        member(PatchPCAConfig(components=48, sd=SPREAD), 48, _NETWORK, _PROMPTS),
        member(PatchDepthConfig(components=32, sd=SPREAD), 32, _NETWORK, _PROMPTS),
        member(AudioConfig(components=32, sd=SPREAD), 32, _NETWORK, _PROMPTS),
        member(VideoConfig(components=64, sd=SPREAD), 64, _NETWORK, _PROMPTS),
    ),
    prompts=_PROMPTS,
    alignment=AlignmentConfig(environment=EnvironmentConfig(width=64, depth=2, heads=4)),
)
"""Text, image, depth, audio and video, each as 16 tokens."""
SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "codecs": {"steps": 2_000, "batch_size": 64},
    "prompts": {"steps": 600, "batch_size": 128},
    "prompts-image": {"steps": 800, "batch_size": 128},
    "diffuser": {"steps": 5_000, "batch_size": 32, "learning_rate": 5e-3},
    "pair": {"steps": 1_800, "batch_size": 32},
    "anchor": {"steps": 8_000, "batch_size": 64},
    "direct": {"steps": 4_000, "batch_size": 64},
}
"""Hyperparameters by the sort of a stage or by its name: a seed takes about 75 minutes on one core."""
IN_ORDER: Mapping[str, Mapping[str, TrainConfig]] = {"codi": stages(SYSTEM, SCHEDULES)}
"""Recipes that are trained one after the other, under one name."""
ANY_TO_ANY: Mapping[str, TrainConfig] = {
    f"{name}-{stage}": recipe
    for name, recipes in {**IN_ORDER, "rival": rivals(SYSTEM, _NETWORK, SCHEDULES)}.items()
    for stage, recipe in recipes.items()
}
"""Recipe name -> recipe."""
