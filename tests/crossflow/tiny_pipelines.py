"""Tiny pipelines whose images are not flat, which the tests of drawing share."""

import zlib
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cache

import torch
from torch import Tensor, nn

from crossflow.modalities.modality import TextEmbedder
from crossflow.model.config import FlowModel, ModelConfig
from crossflow.model.crossflow import FlowConfig
from crossflow.model.settings import Sampling
from crossflow.model.standard import StandardConfig
from crossflow.networks.dimr import DiMRConfig, Stage
from crossflow.networks.dit import DiTConfig
from crossflow.networks.transformer import TransformerConfig
from crossflow.recipes import CONFIGS
from crossflow.sampling.text_to_image import TextToImage
from crossflow.training.data.scenes import scene_images

LOW = Stage(block="transformer", width=16, hidden=24, depth=3, patch=2, heads=2)
HIGH = Stage(block="convnext", width=8, hidden=12, depth=1, patch=1)
CHANGES = {
    "crossflow": {},
    "baseline": {"backbone": TransformerConfig(width=32, depth=1, heads=1)},
    "dimr": {"backbone": DiMRConfig(stages=(LOW, HIGH)), "stage_weights": (0.25, 1.0)},
    "dit": {"backbone": DiTConfig(width=16, depth=2, heads=2, patch=2)},
}
"""What a model has that scenes-tiny, or its baseline, has not."""


def baseline_of(config: FlowConfig) -> StandardConfig:
    """The baseline with the ends, the network and the settings of a CrossFlow model."""
    shared = {field.name for field in fields(StandardConfig)} - {"condition", "kind"}
    return StandardConfig(**{name: getattr(config, name) for name in shared})


def config_of(name: str) -> ModelConfig:
    """The config of one of CHANGES."""
    tiny = replace(CONFIGS["scenes-tiny"].model, sampling=Sampling(solver="midpoint", steps=3))
    return replace(baseline_of(tiny) if name == "baseline" else tiny, **CHANGES[name])


@cache
def model_of(name: str) -> FlowModel:
    """One of CHANGES: its velocity is not zero, its latents are those of scenes."""
    torch.manual_seed(0)
    model = config_of(name).build()
    if name in ("dimr", "dit"):
        move(model.backbone)
    else:
        nn.init.normal_(model.backbone.patches.out.weight, std=0.1)
    model.autoencoder.fit(scene_images("train", 30, 32))
    return model


def move(network: nn.Module) -> None:
    """Move every weight off its initial value, so that time and indicator matter everywhere."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))


class Words:
    """A language model that costs nothing: a word's embedding is noise seeded by the word; two tokens stand around."""

    width = 384

    def embed(self, prompts: Sequence[str], count: int) -> tuple[Tensor, Tensor]:
        """[b count 384], float32."""
        rows = [["<", *prompt.split()[: count - 2], ">"] for prompt in prompts]
        tokens = torch.stack([torch.stack([_noise(word) for word in row + [""] * (count - len(row))]) for row in rows])
        return tokens, torch.arange(count) < torch.tensor([[len(row)] for row in rows])

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        """Words, and the two around them."""
        return [2 + len(prompt.split()) for prompt in prompts]


@cache
def _noise(word: str) -> Tensor:
    return torch.randn(384, generator=torch.Generator().manual_seed(zlib.crc32(word.encode())))


def drawer(name: str, embedder: TextEmbedder | None = None, **options: object) -> TextToImage:
    """The pipeline of ``model_of``."""
    return TextToImage(model_of(name), embedder or Words(), weights_sha256=name, **options)
