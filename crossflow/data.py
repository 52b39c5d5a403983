"""Cached latents and token embeddings, and the batches drawn from them.

Everything a training step reads is computed once and kept as one safetensors file: target latents, and a table of
distinct captions that items point into. A batch is a pure function of the generator it is drawn with.
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from crossflow.configs import SceneData
from crossflow.errors import CrossFlowError
from crossflow.latents import Autoencoder, TextEmbedder
from crossflow.model import Batch
from crossflow.scenes.render import render
from crossflow.scenes.splits import example


@dataclass(frozen=True)
class CachedPairs:
    """Targets, and for each item the rows of its captions in the tables ``tokens`` and ``mask``."""

    targets: Float[Tensor, "n c h w"]
    captions: Int[Tensor, "n k"]
    tokens: Float[Tensor, "v m d"]
    mask: Bool[Tensor, "v m"]

    def batch(self, count: int, generator: torch.Generator) -> Batch:
        """Draw ``count`` items with replacement, and one of the captions of each."""
        rows = torch.randint(len(self.targets), (count,), generator=generator)
        choice = torch.randint(self.captions.shape[1], (count,), generator=generator)
        caption = self.captions[rows, choice]
        return Batch(self.targets[rows], self.tokens[caption].float(), self.mask[caption], caption)

    def save(self, path: Path, note: dict[str, str]) -> None:
        """Write to a temporary name, then rename."""
        temporary = path.with_suffix(".tmp")
        tensors = {name: getattr(self, name).contiguous() for name in ("targets", "captions", "tokens", "mask")}
        save_file(tensors, temporary, metadata=note)
        temporary.replace(path)


def load_pairs(path: Path, note: dict[str, str]) -> CachedPairs:
    """Read a cache back; a file made with another ``note`` (its settings) is refused."""
    try:
        with safe_open(path, framework="pt") as file:
            found = file.metadata()
            tensors = {name: file.get_tensor(name) for name in ("targets", "captions", "tokens", "mask")}
    except (SafetensorError, OSError) as error:
        raise CrossFlowError(f"The cache {path} cannot be read ({error}); remove it to make it again.") from error
    if found != note:
        raise CrossFlowError(f"The cache {path} was made with {found}, not with {note}; remove it to make it again.")
    return CachedPairs(**tensors)


def scene_images(split: str, count: int, size: int) -> UInt8[Tensor, "n s s 3"]:
    """The first ``count`` renders of a split."""
    return torch.from_numpy(np.stack([render(example(split, i).scene, size) for i in range(count)]))


def scene_captions(split: str, count: int, per_item: tuple[int, ...]) -> list[list[str]]:
    """For each example the captions numbered ``per_item``; 0 is the prompt, and a number may come more than once."""
    return [[example(split, i).captions[k] for k in per_item] for i in range(count)]


def scene_pairs(
    data: SceneData,
    token_count: int,
    autoencoder: Autoencoder,
    embedder: TextEmbedder,
    folder: Path,
    progress: Callable[[str], None],
) -> CachedPairs:
    """The training pairs of the embedded world, from the cache in ``folder`` or made and put there."""
    note = {"settings": json.dumps(dataclasses.asdict(data) | {"token_count": token_count})}
    path = folder / "pairs.safetensors"
    if path.exists():
        return load_pairs(path, note)
    folder.mkdir(parents=True, exist_ok=True)
    progress(f"drawing {data.count} scenes")
    targets = torch.cat([autoencoder.encode(part) for part in scene_images("train", data.count, data.size).split(4096)])
    texts = scene_captions("train", data.count, data.captions)
    table = {text: row for row, text in enumerate(sorted({text for item in texts for text in item}))}
    progress(f"embedding {len(table)} captions")
    tokens, mask = embedder.embed(list(table), token_count)
    captions = torch.tensor([[table[text] for text in item] for item in texts])
    pairs = CachedPairs(targets, captions, tokens.half(), mask)
    pairs.save(path, note)
    return pairs
