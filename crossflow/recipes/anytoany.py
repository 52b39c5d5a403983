"""The stages of the any-to-any system: CoDi (arXiv 2305.11846) on the embedded world, small enough for one CPU core.

``stages`` makes the recipes of a system, in the order in which each stands on those before. ``SYSTEM`` is the one of
all five modalities, its recipes are ``codi-...``, and ``crossflow train codi`` runs them all. ``variants`` change one
thing of a system: ``crossflow train codi-VARIANT`` trains the stages from that thing on.
"""

from collections.abc import Mapping
from dataclasses import replace
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
ONCE = ("codecs", "prompts")
"""The sorts of stages that are trained once, whatever the seed of those after them."""
TOKENS = 4
"""Vectors of a prompt where there is more than one."""
GIVEN = (0, 0, 0, 0, 1, 2, 3, 4)
"""The forms of captions that rivals are given, each as likely: half are bare prompts, which suites ask with most."""
READ = (0, 1, 2, 3, 3, 3, 4)
"""The forms of captions that prompts are aligned by: one alone tells places, which no other contrast teaches."""
SPREAD = 0.35
"""The standard deviation of latents: small ones are decided in the middle of the path."""


def member(
    codec: TargetConfig, channels: int, network: TransformerConfig, prompts: PromptConfig, steps: int = 20
) -> Member:
    """A modality whose latents are 16 tokens of ``channels`` numbers, sampled in ``steps``."""
    own = DiffuserConfig(
        shape=(channels, 4, 4),
        backbone=network,
        prompt=prompts.vector,
        parameterisation="target",
        times="logit-normal",
        tail=0.35,
        sampling=Sampling(solver="euler_ancestral", steps=steps, guidance_scale=1.5),
    )
    return Member(codec=codec, diffuser=own)


def stages(
    system: AnyToAnyConfig,
    schedules: Mapping[str, Mapping[str, Any]],
    seen: tuple[tuple[str, str], ...] = PAIRS,
    joined: tuple[tuple[str, str], ...] = JOINED,
) -> dict[str, TrainConfig]:
    """The recipes of a system by name, in their order; ``schedules`` are by name or sort of the stage.

    Of the system's modalities the pairs ``seen`` are trained, text being in one with each, and of these ``joined`` are
    aligned as outputs.
    """
    names = system.names
    pairs = [pair for pair in seen if set(pair) <= set(names)]
    partners = {name: tuple(a if b == name else b for a, b in pairs if name in (a, b)) for name in names}
    found: dict[str, Stage] = {"codecs": CodecStage(system=system)}
    found |= {f"prompts-{b}": PromptStage(system=system, pair=(a, b), forms=READ) for a, b in pairs if a == "text"}
    found |= {f"diffuser-{each}": DiffuserStage(system=system, modality=each, prompts=partners[each]) for each in names}
    found |= {f"pair-{a}-{b}": PairStage(system=system, pair=(a, b)) for a, b in joined if (a, b) in pairs}
    return {
        name: _recipe(stage, schedules.get(name) or schedules[sort_of(name)], seen) for name, stage in found.items()
    }


def rivals(
    system: AnyToAnyConfig, network: TransformerConfig, schedules: Mapping[str, Mapping[str, Any]]
) -> dict[str, TrainConfig]:
    """The recipes of the rivals on a system's codecs by name; direct flows stand on those before them.

    Texts are given in other forms than they are made in, so direct flows of a text are not run backward: one leads each
    way.
    """
    pairs = tuple(pair for pair in PAIRS if set(pair) <= set(system.names))
    shape = max(member.shape for member in system.members)
    ways = (*pairs, *((b, a) for a, b in pairs if a == "text"))
    anchor = AnchorConfig(shape=shape, modalities=system.names, backbone=network, given=("text",))
    direct = DirectConfig(shape=shape, backbone=network, sd=0.2 * SPREAD)
    found: dict[str, Stage] = {
        "anchor": AnchorStage(system=system, anchor=anchor, paired=pairs, captions=GIVEN),
        **{f"direct-{a}-{b}": DirectStage(system=system, direct=direct, pair=(a, b), captions=GIVEN) for a, b in ways},
    }
    return {name: _recipe(stage, schedules[sort_of(name)]) for name, stage in found.items()}


def variants(system: AnyToAnyConfig, schedules: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, TrainConfig]]:
    """All stages of systems that differ from ``system`` in one thing, by the name of that.

    Stages before it are the system's own, and so are their files.
    """
    base, align = stages(system, schedules), system.alignment
    noise = tuple(
        replace(each, diffuser=replace(each.diffuser, parameterisation="eps", tail=0.0)) for each in system.members
    )
    one = replace(align.environment, local=False)
    changed = {
        "self": ("pair", replace(system, alignment=replace(align, context="self"))),
        "no-contrast": ("pair", replace(system, alignment=replace(align, contrast=0.0))),
        "no-reconstruction": ("pair", replace(system, alignment=replace(align, reconstruction=0.0))),
        "env-vector": ("pair", replace(system, alignment=replace(align, environment=one))),
        "eps": ("diffuser", replace(system, members=noise)),
        "cond-tokens": ("prompts", replace(system, prompts=replace(system.prompts, tokens=TOKENS))),
    }
    found: dict[str, dict[str, TrainConfig]] = {}
    for name, (since, other) in changed.items():
        first = next(place for place, stage in enumerate(base) if sort_of(stage) == since)
        own = list(stages(other, schedules).items())[first:]
        found[name] = {**dict(list(base.items())[:first]), **dict(own)}
    return found


def sort_of(stage: str) -> str:
    """The sort of a stage by its name: "pair" of "pair-text-image"."""
    return stage.partition("-")[0]


def in_order(
    name: str, system: AnyToAnyConfig, network: TransformerConfig, schedules: Mapping[str, Mapping[str, Any]]
) -> dict[str, Mapping[str, TrainConfig]]:
    """A system called ``name``, its variants, and its rivals on the same codecs: the stages of each, in their order."""
    base = stages(system, schedules)
    codecs = {"codecs": base["codecs"]}
    found: dict[str, Mapping[str, TrainConfig]] = {name: base}
    found |= {f"{name}-{each}": own for each, own in variants(system, schedules).items()}
    for stage, recipe in rivals(system, network, schedules).items():
        rival = f"{name}-{sort_of(stage)}"
        found[rival] = {**found.get(rival, codecs), stage: recipe}
    return found


def of_base(name: str) -> str | None:
    """The last stage that recipes in order have from the system that they are a variant of; None of a system itself."""
    own, base = IN_ORDER[name], IN_ORDER[base_of(name)]
    shared = [stage for stage, recipe in own.items() if base.get(stage) == recipe]
    return None if len(shared) == len(own) else shared[-1]


def base_of(name: str) -> str:
    """The system that recipes in order are a variant of, or themselves."""
    return next(base for base in BASES if name == base or name.startswith(f"{base}-"))


def _recipe(stage: Stage, schedule: Mapping[str, Any], seen: tuple[tuple[str, str], ...] = PAIRS) -> TrainConfig:
    data = replace(schedule.get("data", EventData()), pairs=seen)
    common = {"optimizer": "muon", "precision": "fp32"}
    return TrainConfig(model=cast(Any, stage), **{**common, **schedule, "data": data})


_PROMPTS = PromptConfig(width=96, depth=2, heads=4, positions="unit")
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
    alignment=AlignmentConfig(
        environment=EnvironmentConfig(width=64, depth=2, heads=4, local=True, positions="unit"), reconstruction=1.0
    ),
)
"""Text, image, depth, audio and video, each as 16 tokens."""
SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "codecs": {"steps": 2_000, "batch_size": 64},
    "prompts": {"steps": 800, "batch_size": 128, "learning_rate": 5e-3},
    "prompts-image": {"steps": 1_200, "batch_size": 128, "learning_rate": 5e-3},
    "diffuser": {"steps": 7_000, "batch_size": 32, "learning_rate": 5e-3},
    "pair": {"steps": 2_000, "batch_size": 32, "learning_rate": 5e-3},
    "anchor": {"steps": 6_000, "batch_size": 64},
    "direct": {"steps": 2_400, "batch_size": 64},
}
"""Hyperparameters by the sort of a stage or by its name; results/scenes/any_cost.md has the minutes of each."""
_BRIEF = {"steps": 2, "batch_size": 8, "data": EventData(count=64), "log_every": 1, "save_every": 2}
_SMALL_PROMPTS = PromptConfig(width=16, depth=1, heads=2, positions="unit")
_SMALL_NETWORK = TransformerConfig(width=16, depth=1, heads=2, modulated=True, pooled=True)
SMALLEST = AnyToAnyConfig(
    members=tuple(
        member(each.codec, each.shape[0], _SMALL_NETWORK, _SMALL_PROMPTS, steps=1) for each in SYSTEM.members
    ),
    prompts=_SMALL_PROMPTS,
    alignment=AlignmentConfig(
        environment=EnvironmentConfig(width=16, depth=1, heads=2, local=True, positions="unit"), reconstruction=1.0
    ),
)
"""The same with networks as small as they go, which proves the way and learns nothing."""
BASES = ("codi", "tiny-codi", "smoke-codi")
"""The systems; ``tiny-codi`` is the first, by the name of a scale."""
IN_ORDER: Mapping[str, Mapping[str, TrainConfig]] = {
    **in_order("codi", SYSTEM, _NETWORK, SCHEDULES),
    **in_order("tiny-codi", SYSTEM, _NETWORK, SCHEDULES),
    **in_order("smoke-codi", SMALLEST, _SMALL_NETWORK, dict.fromkeys(map(sort_of, SCHEDULES), _BRIEF)),
}
"""Recipes that are trained one after the other, under one name."""
ANY_TO_ANY: Mapping[str, TrainConfig] = {
    f"{name}-{stage}": recipe
    for name, recipes in {"codi": IN_ORDER["codi"], "rival": rivals(SYSTEM, _NETWORK, SCHEDULES)}.items()
    for stage, recipe in recipes.items()
}
"""Recipe name -> recipe."""
