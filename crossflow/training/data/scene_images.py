"""The embedded world's pairs whose source is an image: with its caption, its depth, or itself at four times the size.

As those of ``crossflow.training.data.scenes`` they are computed once and kept as one safetensors file.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.flow.losses import Draws
from crossflow.modalities.depth import LogDepth
from crossflow.modalities.pixels import Pixels
from crossflow.modalities.text_autoencoder import TextAutoencoder
from crossflow.model.crossflow import Batch, FlowModel, Target
from crossflow.recipes.recipe import SceneData, TrainConfig
from crossflow.scenes.caption import describe
from crossflow.scenes.depth import depth_map, low_res
from crossflow.scenes.render import render
from crossflow.scenes.spec import VERSION as WORLD
from crossflow.scenes.spec import Scene
from crossflow.scenes.splits import example
from crossflow.training.data.pairs import kept
from crossflow.training.data.scenes import CHUNK


@dataclass(frozen=True)
class ImagePairs:
    """Sources, and for each its target: tokens, the latent of a depth map, or an image."""

    sources: UInt8[Tensor, "n s s 3"]
    targets: Int[Tensor, "n m"] | Float[Tensor, "n 1 h w"] | UInt8[Tensor, "n h w 3"]

    def pick(self, step: int, count: int, generator: torch.Generator) -> Int[Tensor, "b 1"]:
        """Draw ``count`` items with replacement."""
        return torch.randint(len(self.sources), (count, 1), generator=generator)

    def load(self, picks: Int[Tensor, "b 1"], draws: Draws, start: int, stop: int) -> Batch:
        """The items from ``start`` to ``stop`` of a step's ``picks``, each with what the flow is to carry it to."""
        rows = picks[start:stop, 0]
        goal = self._target(picks[draws.donor[start:stop], 0])
        return Batch(self._target(rows), Pixels().encode(self.sources[rows]), None, rows, goal)

    def _target(self, rows: Int[Tensor, " b"]) -> Target:
        found = self.targets[rows]
        return Pixels().encode(found) if found.dtype == torch.uint8 else found


def scene_image_pairs(
    config: TrainConfig, model: FlowModel, folder: Path, progress: Callable[[str], None]
) -> ImagePairs:
    """The training pairs of a recipe whose sources are images, from the cache in ``folder`` or made and put there."""
    settings = {
        "world": WORLD,
        "data": dataclasses.asdict(config.data),
        "image": config.model.image,
        "autoencoder": dataclasses.asdict(config.model.autoencoder),
    }
    return kept(folder, settings, ImagePairs, partial(_drawn, config, model, progress))


def _drawn(config: TrainConfig, model: FlowModel, progress: Callable[[str], None]) -> ImagePairs:
    if not isinstance(config.data, SceneData):
        raise CrossFlowError("Pairs of an image and its target are drawn from scenes alone.")
    sources, targets = [], []
    for start in range(0, config.data.count, CHUNK):
        stop = min(start + CHUNK, config.data.count)
        scenes = [example("train", i).scene for i in range(start, stop)]
        sources.append(torch.from_numpy(np.stack([scene_source(config, scene) for scene in scenes])))
        targets.append(_targets(config, model, scenes))
        progress(f"drew {stop} of {config.data.count} scenes")
    return ImagePairs(torch.cat(sources), torch.cat(targets))


def scene_source(config: TrainConfig, scene: Scene) -> UInt8[np.ndarray, "s s 3"]:
    """What a recipe's model is shown of a scene: a render, or for super-resolution the small image of a pair."""
    size, image = config.data.size, config.model.image
    if config.model.task == "sr" and image is not None:
        return low_res(scene, size, size // image[1])[0]
    return render(scene, size)


def _targets(config: TrainConfig, model: FlowModel, scenes: list[Scene]) -> Tensor:
    size = config.data.size
    match model.autoencoder:
        case TextAutoencoder() as autoencoder:
            return autoencoder.tokenize([describe(scene) for scene in scenes])
        case LogDepth() as autoencoder:
            return autoencoder.encode(torch.from_numpy(np.stack([depth_map(scene, size) for scene in scenes])))
        case _:
            return torch.from_numpy(np.stack([render(scene, size) for scene in scenes]))
