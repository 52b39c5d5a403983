"""A tiny any-to-any system of random weights over four modalities, for tests of what samples from it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from crossflow.anytoany.alignment import AlignmentConfig
from crossflow.anytoany.diffuser import DiffuserConfig
from crossflow.anytoany.environment import EnvironmentConfig
from crossflow.anytoany.prompts import PromptConfig
from crossflow.anytoany.system import AnyToAny, AnyToAnyConfig, Member
from crossflow.modalities import TARGETS
from crossflow.modalities.modality import Modality
from crossflow.modalities.text_autoencoder import TextAutoencoderConfig
from crossflow.model.settings import Sampling
from crossflow.networks import TransformerConfig

WORDS = ("a", "red", "ball", "box", "blue")
RAW = {"image": (32, 32, 3), "audio": (32, 32), "video": (8, 32, 32, 3)}


@TARGETS.add
@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """Numbers as they are, 16 tokens of them: uint8 are pixels from -1 to 1."""

    name: str
    kind: Literal["test-grid"] = "test-grid"
    drawn: ClassVar[bool] = False
    external: ClassVar[bool] = False

    def build(self, shape: tuple[int, int, int]) -> "Grid":
        return Grid(self.name, shape)


class Grid(Modality):
    def __init__(self, name: str, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.raw, self.shape = RAW[name], shape

    def prepare(self, raw: Sequence[Any]) -> Tensor:
        values = torch.from_numpy(np.stack(raw))
        values = values / 127.5 - 1 if values.dtype == torch.uint8 else values
        return values.reshape(-1, *self.shape)

    def decode(self, latents: Tensor) -> Tensor:
        values = latents.reshape(-1, *self.raw)
        return values if len(self.raw) == 2 else ((values + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)


def tiny_system() -> AnyToAny:
    """Text, image, audio and video; all are read, and all are made but video, which only has a codec and a prompt."""
    torch.manual_seed(0)
    network = TransformerConfig(width=8, depth=1, heads=2, modulated=True)
    texts = TextAutoencoderConfig(words=WORDS, count=4, width=8, depth=1, heads=2)
    shapes = {name: (int(np.prod(raw)) // 16, 4, 4) for name, raw in RAW.items()}
    codecs = {"text": (texts, (2, 4, 4)), **{name: (GridConfig(name=name), shape) for name, shape in shapes.items()}}
    few = Sampling(solver="euler", steps=2, guidance_scale=2.0)
    own = DiffuserConfig(shape=(2, 4, 4), backbone=network, prompt=6, parameterisation="velocity", sampling=few)
    made = ("text", "image", "audio")
    system = AnyToAnyConfig(
        members=tuple(Member(codec=codec, diffuser=replace(own, shape=shape)) for codec, shape in codecs.values()),
        prompts=PromptConfig(width=8, depth=1, heads=2, vector=6),
        alignment=AlignmentConfig(environment=EnvironmentConfig(width=8, depth=1, heads=2, vector=6)),
        coded=tuple(codecs),
        prompted=tuple(codecs),
        diffused=made,
        aligned=made[1:],
    ).build()
    for weight in (*system.diffusers.parameters(), *system.connections.parameters()):
        torch.nn.init.normal_(weight, std=0.1)
    return system
