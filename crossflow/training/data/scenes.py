"""Training pairs of the embedded world, made from scenes.

Pairs are computed once and cached as one safetensors file. Texts are stored as a table of the distinct ones, which
items index; everything else has one row per item.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

from crossflow.errors import named
from crossflow.files.progress import Stage, chunks
from crossflow.files.tensors import tensors_sha256
from crossflow.flow.batch import Batch, Item
from crossflow.flow.losses import Draws
from crossflow.losses.contrast import NEGATIVES
from crossflow.modalities.modality import Modality
from crossflow.modalities.patch_pca import PatchPCA
from crossflow.modalities.pixels import ImageConfig
from crossflow.modalities.tokens import TokensConfig
from crossflow.model.config import FlowModel, ModelConfig
from crossflow.networks.whitening import Whitening
from crossflow.recipes.recipe import SceneData, TrainConfig
from crossflow.scenes.caption import describe
from crossflow.scenes.depth import depth_map, low_res
from crossflow.scenes.negatives import negatives
from crossflow.scenes.render import render
from crossflow.scenes.retell import captions_of, retold
from crossflow.scenes.spec import VERSION as WORLD
from crossflow.scenes.spec import Scene
from crossflow.scenes.splits import SceneExample, example
from crossflow.training.data.pairs import kept

CHUNK = 4096
"""Scenes or captions processed at once."""
PCA_IMAGES = 4000
"""Renders that a ``PatchPCA`` is fitted to."""
PROMPT_SCENES = 2000
"""Scenes whose prompts a ``Whitening`` is fitted to."""


def scene_images(split: str, count: int, size: int) -> UInt8[Tensor, "n s s 3"]:
    """The first ``count`` renders of a split."""
    return torch.from_numpy(np.stack([render(example(split, i).scene, size) for i in range(count)]))


def scene_prompts(data: SceneData) -> list[str]:
    """The distinct prompts of the first scenes of ``data``, at most PROMPT_SCENES."""
    items = (example("train", i) for i in range(min(PROMPT_SCENES, data.count)))
    return sorted({_asked(item, data)[0] for item in items})


def fit_to_scenes(recipe: TrainConfig, model: FlowModel) -> None:
    """Fit the autoencoder of ``model`` to renders, and its whitenings to prompts, if it has any."""
    data, reads = cast(SceneData, recipe.data), recipe.model.reads
    if model.autoencoder.fits:
        cast(PatchPCA, model.autoencoder).fit(scene_images("train", min(PCA_IMAGES, data.count), data.size))
    if whitenings := [part for part in model.modules() if isinstance(part, Whitening)]:
        tokens, mask = cast(TokensConfig, reads).embedder().embed(scene_prompts(data), reads.shape[0])
        for part in whitenings:
            part.fit(tokens, mask)


def _small(scene: Scene, size: int, model: ModelConfig) -> np.ndarray:
    return low_res(scene, size, size // model.reads.shape[1])[0]


OF_SCENE: dict[str, Callable[[Scene, int, ModelConfig], Any]] = {
    "image": lambda scene, size, model: render(scene, size),
    "small image": _small,
    "depth": lambda scene, size, model: depth_map(scene, size),
    "text": lambda scene, size, model: describe(scene),
}
"""Modality name -> raw data of a scene at ``size`` pixels. Text is the description that names all objects.

Another package adds an entry for a modality of its own here."""


def of_scene(name: str, scenes: Sequence[Scene], size: int, model: ModelConfig) -> list[Any]:
    """What scenes are in a modality at ``size`` pixels; CrossFlowError for one that a scene has not, as a sound."""
    make = named("modality of scenes", name, OF_SCENE)
    return [make(scene, size, model) for scene in scenes]


@dataclass(frozen=True)
class TextPairs:
    """Texts and targets; ``captions`` are each item's rows in the tables ``tokens`` and ``mask``.

    ``negatives`` are the rows of captions that are not true of an item; ``columns`` gives those of ``captions`` that
    a step reads.
    """

    reads: str
    reaches: str
    targets: Float[Tensor, "n c h w"]
    captions: Int[Tensor, "n k"]
    tokens: Float[Tensor, "v m d"]
    mask: Bool[Tensor, "v m"]
    columns: Callable[[int], Int[Tensor, " k"]]
    negatives: Int[Tensor, "n l"] | None = None

    def pick(self, step: int, count: int, generator: torch.Generator) -> Int[Tensor, "b 2"]:
        """Sample ``count`` items with replacement, and a caption of each: row of the item, row of the caption."""
        rows = torch.randint(len(self.targets), (count,), generator=generator)
        columns = self.columns(step)
        choice = columns[torch.randint(len(columns), (count,), generator=generator)]
        return torch.stack([rows, self.captions[rows, choice]], dim=1)

    def load(self, picks: Int[Tensor, "b 2"], draws: Draws, start: int, stop: int) -> Batch:
        """The items from ``start`` to ``stop`` of a step's ``picks``, with the targets of the flow."""
        rows, caption = picks[start:stop].unbind(1)
        text = Item(self.tokens[caption].float(), self.mask[caption])
        goal = self.targets[picks[draws.donor[start:stop], 0]]
        items = {self.reads: text, self.reaches: Item(self.targets[rows])}
        if self.negatives is not None and self.negatives.shape[1]:
            others = self.negatives[rows]
            items[NEGATIVES] = Item(self.tokens[others].float(), self.mask[others])
        return Batch(items, caption, goal)


@dataclass(frozen=True)
class ImagePairs:
    """Images and targets, as prepared by their modalities."""

    reads: str
    reaches: str
    read: Modality
    target: Modality
    sources: UInt8[Tensor, "n s s 3"]
    targets: Shaped[Tensor, "n *dims"]

    def pick(self, step: int, count: int, generator: torch.Generator) -> Int[Tensor, "b 1"]:
        """Sample ``count`` items with replacement."""
        return torch.randint(len(self.sources), (count, 1), generator=generator)

    def load(self, picks: Int[Tensor, "b 1"], draws: Draws, start: int, stop: int) -> Batch:
        """The items from ``start`` to ``stop`` of a step's ``picks``, with the targets of the flow."""
        rows = picks[start:stop, 0]
        goal = self.target.values(self.targets[picks[draws.donor[start:stop], 0]])
        items = {
            self.reads: Item(self.read.values(self.sources[rows])),
            self.reaches: Item(self.target.values(self.targets[rows])),
        }
        return Batch(items, rows, goal)


def text_pairs(recipe: TrainConfig, model: FlowModel, folder: Path, stage: Stage) -> TextPairs:
    """The training pairs of a model that reads texts, cached in ``folder``."""
    made = partial(_texts, recipe, model, stage)
    found = kept(folder, _settings(recipe, model), made)
    columns = partial(_columns, recipe)
    return TextPairs(recipe.model.reads.name, recipe.model.target.name, columns=columns, **found)


def _columns(recipe: TrainConfig, step: int) -> Int[Tensor, " k"]:
    """Where the captions that a step reads stand among those of the data."""
    held, wanted = recipe.data.captions, recipe.stage(step).captions
    return torch.tensor([held.index(each) for each in wanted] if wanted else range(len(held)))


def image_pairs(recipe: TrainConfig, model: FlowModel, folder: Path, stage: Stage) -> ImagePairs:
    """The training pairs of a model that reads images, cached in ``folder``."""
    reads = cast(ImageConfig, recipe.model.reads)
    found = kept(folder, _settings(recipe, model), partial(_images, recipe, model, stage))
    return ImagePairs(reads.name, recipe.model.target.name, reads.build(), model.autoencoder, **found)


def answered_scenes(recipe: TrainConfig, count: int) -> tuple[list[np.ndarray], list[Any]]:
    """The first scenes of the validation split as a model of images reads them, and what it is to make of each."""
    scenes = [example("val", index).scene for index in range(count)]
    size, model = cast(SceneData, recipe.data).size, recipe.model
    sources, truths = (of_scene(end.name, scenes, size, model) for end in (model.reads, model.target))
    return sources, truths


def _settings(recipe: TrainConfig, model: FlowModel) -> dict[str, Any]:
    """Everything that determines the pairs; an autoencoder that was fitted encodes them."""
    config = recipe.model
    return {
        "world": WORLD,
        "data": asdict(recipe.data),
        "reads": asdict(config.reads),
        "target": asdict(config.target),
        "shape": config.shape,
        **({"autoencoder": tensors_sha256(model.autoencoder.state_dict())} if model.autoencoder.fits else {}),
    }


def _texts(recipe: TrainConfig, model: FlowModel, stage: Stage) -> dict[str, Tensor]:
    config, data = recipe.model, cast(SceneData, recipe.data)
    embedder = cast(TokensConfig, config.reads).embedder()
    targets: list[Tensor] = []
    texts: list[list[str]] = []
    others: list[tuple[str, ...]] = []
    for start in chunks(stage, "drawing", "scenes", data.count, CHUNK):
        examples = [example("train", i) for i in range(start, min(start + CHUNK, data.count))]
        targets.append(_prepared(model.autoencoder, [each.scene for each in examples], data, config))
        asked = [_asked(each, data) for each in examples]
        told = (captions_of(each, prompt) for each, (prompt, _) in zip(examples, asked, strict=True))
        texts.extend([every[k] for k in data.captions] for every in told)
        others.extend(untrue for _, untrue in asked)
    table = {text: row for row, text in enumerate(sorted({text for item in (*texts, *others) for text in item}))}
    captions, tokens, masks = list(table), [], []
    for start in chunks(stage, "embedding", "captions", len(captions), CHUNK):
        part, mask = embedder.embed(captions[start : start + CHUNK], config.reads.shape[0])
        tokens.append(part.half())
        masks.append(mask)
    rows, other_rows = ([[table[text] for text in item] for item in each] for each in (texts, others))
    return {
        "targets": torch.cat(targets),
        "captions": torch.tensor(rows),
        "negatives": torch.tensor(other_rows, dtype=torch.long).reshape(len(others), data.negatives),
        "tokens": torch.cat(tokens),
        "mask": torch.cat(masks),
    }


def _asked(item: SceneExample, data: SceneData) -> tuple[str, tuple[str, ...]]:
    """The prompt of a scene, and those that are not true of it."""
    return retold(item, data.negatives, data.sides) if data.retold else (item.prompt, negatives(item, data.negatives))


def _images(recipe: TrainConfig, model: FlowModel, stage: Stage) -> dict[str, Tensor]:
    config, data = recipe.model, cast(SceneData, recipe.data)
    sources, targets = [], []
    for start in chunks(stage, "drawing", "scenes", data.count, CHUNK):
        stop = min(start + CHUNK, data.count)
        scenes = [example("train", i).scene for i in range(start, stop)]
        sources.append(torch.from_numpy(np.stack(of_scene(config.reads.name, scenes, data.size, config))))
        targets.append(_prepared(model.autoencoder, scenes, data, config))
    return {"sources": torch.cat(sources), "targets": torch.cat(targets)}


def _prepared(target: Modality, scenes: Sequence[Scene], data: SceneData, config: ModelConfig) -> Tensor:
    """The targets of scenes, as prepared by their modality."""
    return target.prepare(of_scene(config.target.name, scenes, data.size, config))
