"""What ``docs/design.md`` says of adding: each thing is made here as another package would make it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossflow.anytoany.alignment import AlignmentConfig
from crossflow.anytoany.environment import EnvironmentConfig
from crossflow.anytoany.prompts import PromptConfig
from crossflow.anytoany.system import AnyToAnyConfig
from crossflow.errors import CrossFlowError
from crossflow.flow.gaussian import Gaussian
from crossflow.flow.guidance import GUIDANCES, Indicator, NoGuidance, indicator
from crossflow.losses import KL, LOSSES
from crossflow.losses.term import Step
from crossflow.modalities import TARGETS
from crossflow.modalities.components import ComponentsConfig, PatchComponents
from crossflow.modalities.modality import Modality
from crossflow.modalities.patch_pca import PatchPCAConfig
from crossflow.modalities.text_autoencoder import TextAutoencoderConfig
from crossflow.modalities.text_embedders import EMBEDDERS
from crossflow.modalities.tokens import TokensConfig
from crossflow.model.checkpoint import load_checkpoint
from crossflow.model.crossflow import FlowConfig
from crossflow.model.settings import Sampling
from crossflow.networks import NETWORKS, TransformerConfig
from crossflow.recipes import CONFIGS, recipe_named
from crossflow.recipes.anytoany import LONGEST, member, stages
from crossflow.recipes.recipe import EventData, SceneData, TrainConfig
from crossflow.recipes.scenes import WORDS
from crossflow.sampling.any_to_any import AnyToAnySampler
from crossflow.sampling.from_image import FromImage
from crossflow.sampling.media import read_value, writers
from crossflow.scenes.events import Event, event
from crossflow.scenes.facts import FACTORS, TOLD, Facts, right, tells
from crossflow.scenes.readers import depth
from crossflow.scenes.render import object_masks, render
from crossflow.scenes.sense import SENSES, Sense, read, value
from crossflow.scenes.splits import example
from crossflow.sources import SOURCES
from crossflow.training.data.scenes import OF_SCENE
from crossflow.training.in_order import train_in_order
from crossflow.training.train import train

TINY = CONFIGS["scenes-tiny"]


TABLES = (SOURCES, LOSSES, TARGETS, NETWORKS, GUIDANCES)
NAMES = (CONFIGS, EMBEDDERS, OF_SCENE, SENSES, TOLD)


@pytest.fixture(autouse=True)
def restored():
    """What a test adds is gone after it."""
    kinds, names = [set(table) for table in TABLES], [dict(table) for table in NAMES]
    yield
    for table, before in zip(TABLES, kinds, strict=True):
        for kind in set(table) - before:
            table.remove(kind)
    for table, before in zip(NAMES, names, strict=True):
        table.clear()
        table.update(before)


def trained(recipe: TrainConfig, folder) -> FlowConfig:
    """Train two steps, and read the config back from the file."""
    recipe = replace(recipe, steps=2, batch_size=4, log_every=1, save_every=2, sample_every=9, data=SceneData(count=16))
    path = train(recipe, folder, precision="fp32", device="cpu")
    found = load_checkpoint(path).config
    assert found == recipe.model
    return found


# A source


@dataclass(frozen=True, kw_only=True)
class MeanConfig:
    """The mean of all tokens, through one linear map."""

    kind: Literal["mean-of-tokens"] = "mean-of-tokens"
    accepts: ClassVar[str] = "tokens"
    variance: ClassVar[str] = "fixed"

    def build(self, reads: tuple[int, ...], shape: tuple[int, int, int]) -> nn.Module:
        return Mean(reads[1], shape)


class Mean(nn.Module):
    def __init__(self, width: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.out = nn.Linear(width, shape[0] * shape[1] * shape[2])

    def forward(self, values: Float[Tensor, "b n d"], mask: Tensor) -> Gaussian:
        mean = self.out(values.mean(1)).unflatten(1, self.shape)
        return Gaussian(mean, torch.zeros_like(mean))


def test_a_source(tmp_path):
    SOURCES.add(MeanConfig)
    model = replace(TINY.model, source=MeanConfig(), losses=TINY.model.losses[1:])
    assert trained(replace(TINY, model=model), tmp_path).source == MeanConfig()


# A term of the loss


@dataclass(frozen=True, kw_only=True)
class Small:
    """The mean square of the source latents."""

    weight: float = 0.1
    kind: Literal["small"] = "small"
    name: ClassVar[str] = "small"
    reads: ClassVar[tuple[str, ...]] = ()

    def check(self, accepts: str, variance: str, guided: bool, learns: bool) -> None: ...

    def build(self, reads: tuple[int, ...], shape: tuple[int, int, int]) -> nn.Module:
        return SmallTerm()


class SmallTerm(nn.Module):
    def forward(self, step: Step) -> Tensor:
        return step.x0.square().mean()


def test_a_term_of_the_loss(tmp_path):
    LOSSES.add(Small)
    trained(replace(TINY, model=replace(TINY.model, losses=(KL(weight=1e-2), Small()))), tmp_path)
    assert '"small":' in (tmp_path / "log.jsonl").read_text()


# A network, and a guidance


@dataclass(frozen=True, kw_only=True)
class PointwiseConfig:
    """One linear map of every place."""

    kind: Literal["pointwise"] = "pointwise"
    resolutions: ClassVar[int] = 1

    def build(self, shape: tuple[int, int, int]) -> nn.Module:
        return Pointwise(shape[0])

    def beside(self, shape: tuple[int, int, int], channels: int) -> nn.Module:
        raise CrossFlowError("There is no such form.")

    attending = beside


class Pointwise(nn.Module):
    tabulates = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.map = nn.Conv2d(channels + 2, channels, 1)

    def velocities(self, x: Tensor, t: Tensor, conditional: Tensor) -> tuple[Tensor, ...]:
        known = torch.stack([t, conditional.to(t)], dim=1)[..., None, None].expand(-1, -1, *x.shape[2:])
        return (self.map(torch.cat([x, known], dim=1)),)


@dataclass(frozen=True, kw_only=True)
class HalfConfig(Indicator):
    """The indicator at half of the scale that is asked for."""

    kind: Literal["half"] = "half"

    def velocity(self, velocity_of, scale, weaker):
        return indicator(velocity_of, scale / 2)


def test_a_network_and_a_guidance(tmp_path):
    NETWORKS.add(PointwiseConfig)
    GUIDANCES.add(HalfConfig)
    model = replace(TINY.model, backbone=PointwiseConfig(), guidance=HalfConfig(null_rate=0.2))
    assert trained(replace(TINY, model=model), tmp_path).backbone == PointwiseConfig()


# A text encoder


class Letters:
    """A token a letter, one number each."""

    width = 1

    def embed(self, prompts: Sequence[str], count: int):
        rows = torch.zeros(len(prompts), count, 1)
        for row, prompt in zip(rows, prompts, strict=True):
            codes = torch.tensor([ord(letter) / 100 for letter in prompt[:count]])
            row[: len(codes), 0] = codes
        return rows, rows[..., 0] > 0

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        return [len(prompt) for prompt in prompts]


def test_a_text_encoder(tmp_path):
    EMBEDDERS["letters"] = lambda source, device: Letters()
    model = replace(TINY.model, reads=TokensConfig(model="letters", count=20, width=1))
    trained(replace(TINY, model=model), tmp_path)


# A modality, with a recipe that reaches it


@dataclass(frozen=True, kw_only=True)
class SilhouetteConfig:
    """Where a scene is not its background: 1 and -1."""

    name: Literal["silhouette"] = "silhouette"
    kind: Literal["silhouette"] = "silhouette"
    drawn: ClassVar[bool] = False
    external: ClassVar[bool] = False

    def build(self, shape: tuple[int, int, int]) -> "Silhouette":
        return Silhouette()


class Silhouette(Modality):
    def prepare(self, raw: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(raw)).float()[:, None] * 2 - 1

    def decode(self, latents: Float[Tensor, "b 1 h w"]) -> Tensor:
        return (latents[:, 0] > 0).float()


def silhouette(scene, size, model) -> np.ndarray:
    empty = render(replace(scene, objects=()), size)
    return (render(scene, size) != empty).any(-1)


def test_a_modality_and_its_recipe(tmp_path):
    TARGETS.add(SilhouetteConfig)
    OF_SCENE["silhouette"] = silhouette
    like = CONFIGS["scenes-depth"]
    model = replace(like.model, target=SilhouetteConfig(), sampling=Sampling(solver="euler", steps=2))
    CONFIGS["scenes-silhouette"] = replace(like, model=replace(model, guidance=NoGuidance()))
    recipe = replace(recipe_named("scenes-silhouette"), steps=2, batch_size=4, save_every=2, sample_every=2)
    path = train(replace(recipe, data=SceneData(count=16)), tmp_path, precision="fp32", device="cpu")
    found = FromImage.from_checkpoint(path)
    assert found.ends == ("image", "silhouette")
    answer = found.generate([render(example("val", 0).scene)], [0])[0]
    assert answer.shape == (32, 32)
    assert set(np.unique(answer)) <= {0.0, 1.0}
    assert (tmp_path / "samples" / "step-000002.png").is_file()


# A modality of any to any: a file in modalities/, one in scenes/readers/, and a recipe


@dataclass(frozen=True, kw_only=True)
class SilhouettePatchesConfig(ComponentsConfig):
    """Principal components of the patches of a silhouette."""

    components: int = 16
    name: Literal["silhouette"] = "silhouette"
    kind: Literal["silhouette-pca"] = "silhouette-pca"
    channels: ClassVar[int] = 1

    def build(self, shape: tuple[int, int, int]) -> "SilhouettePatches":
        self.check(shape)
        return SilhouettePatches(self)


class SilhouettePatches(PatchComponents):
    noun = "Silhouettes"

    def planes(self, raw: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w 1"]:
        return raw.to(self.mean.dtype)[..., None] - 0.5

    def raw(self, planes: Float[Tensor, "b h w 1"]) -> Float[Tensor, "b h w"]:
        return (planes[..., 0] > 0).float()


def silhouette_of(item: Event, form: int) -> np.ndarray:
    return object_masks(item.scene).any(0).astype(np.float32)


def read_silhouette(value: np.ndarray) -> Facts:
    """What a depth map would show that has one distance where the silhouette is."""
    found = depth.read(np.where(value > 0, 3.0, np.inf))
    return replace(found, things=tuple(replace(thing, depth=None) for thing in found.things))


def test_a_modality_of_any_to_any(tmp_path):
    TARGETS.add(SilhouettePatchesConfig)
    SENSES["silhouette"] = Sense(value=silhouette_of, read=read_silhouette, shape=(32, 32))
    TOLD["silhouette"] = frozenset({"count", "shape", "column", "row"})
    events = [event("test", index) for index in range(20)]
    verdicts = [
        right(read("silhouette", value(each, "silhouette")), tells(each, "silhouette"), factor)
        for each in events
        for factor in FACTORS
    ]
    assert verdicts.count(False) <= 1 and verdicts.count(True) >= 79, "its reader reads what it tells"

    prompts, network = PromptConfig(width=16, depth=1, heads=2, vector=8), TransformerConfig(width=16, depth=1, heads=2)
    words = TextAutoencoderConfig(words=WORDS, count=LONGEST, width=16, depth=1, heads=2)
    codecs = {4: words, 6: PatchPCAConfig(components=6), 16: SilhouettePatchesConfig()}
    system = AnyToAnyConfig(
        members=tuple(member(codec, channels, network, prompts, steps=1) for channels, codec in codecs.items()),
        prompts=prompts,
        alignment=AlignmentConfig(environment=EnvironmentConfig(width=16, depth=1, heads=2, vector=8)),
    )
    brief = {"data": EventData(count=16), "batch_size": 4, "steps": 2, "log_every": 2, "save_every": 2}
    recipes = stages(
        system,
        dict.fromkeys(("codecs", "prompts", "diffuser", "pair"), brief),
        seen=(("text", "image"), ("text", "silhouette"), ("image", "silhouette")),
        joined=(("text", "image"), ("image", "silhouette")),
    )
    sampler = AnyToAnySampler.from_checkpoint(train_in_order(recipes, tmp_path, precision="fp32", device="cpu"))
    given = value(events[0], "silhouette")
    [made] = sampler.generate([{"silhouette": [given]}], ["image", "silhouette"], [0])
    assert made["silhouette"].shape == (32, 32) and set(np.unique(made["silhouette"])) <= {0.0, 1.0}
    [(suffix, write)] = writers("silhouette").items()
    (tmp_path / f"x{suffix}").write_bytes(write(given))
    assert np.array_equal(read_value("silhouette", str(tmp_path / f"x{suffix}"), sampler.shape("silhouette")), given)


# What is not there


def test_a_kind_that_nothing_added_is_named(tmp_path):
    SOURCES.add(MeanConfig)
    model = replace(TINY.model, source=MeanConfig(), losses=TINY.model.losses[1:])
    trained(replace(TINY, model=model), tmp_path)
    SOURCES.remove("mean-of-tokens")
    with pytest.raises(CrossFlowError, match=r"source: .*kind is 'mean-of-tokens', and there are variational"):
        load_checkpoint(tmp_path / "model.safetensors")


def test_a_kind_is_added_once():
    SOURCES.add(MeanConfig)
    SOURCES.add(MeanConfig)
    with pytest.raises(CrossFlowError, match="a source of the kind 'mean-of-tokens' already"):
        SOURCES.add(replace_class(MeanConfig))


def replace_class(of: type) -> type:
    return type(of.__name__, (of,), {})


def test_a_recipe_that_nobody_added_is_named():
    with pytest.raises(CrossFlowError, match=r"Unknown config 'scenes-t2'\. Did you mean 'scenes-t2i'"):
        recipe_named("scenes-t2")
