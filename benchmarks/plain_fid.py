"""Inception features the way clean-fid 0.1.35 makes them, written out: for machines that it is not installed on.

Each worker decodes a file and resizes its channels by Pillow as 32-bit floats; batches of 32 go through the network as
it was trained, its batch norms as layers of their own, in the layout and precision that PyTorch has by default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from crossflow_eval.judges.inception import BLOCKS, STEM, Step

BATCH = 32
"""What clean-fid's ``compute_fid`` takes by default."""
WORKERS = 12
"""How many processes it reads in by default."""
SIDE = 299
NORM = ("running_mean", "running_var", "weight", "bias")


class ResizedFiles(Dataset[Tensor]):
    """Images of files as float32 [3 299 299], from 0 to 255."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        pixels = np.array(Image.open(self.paths[index]).convert("RGB"))
        bands = [Image.fromarray(pixels[:, :, band].astype(np.float32)) for band in range(3)]
        resized = [np.asarray(band.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).clip(0, 255) for band in bands]
        return torch.from_numpy(np.stack(resized))


def features(state: Mapping[str, Tensor], device: torch.device, workers: int) -> Callable[[Sequence[Path]], np.ndarray]:
    """From files to the last average pool, float32 [n 2048]; ``state`` has pytorch-fid's names."""
    held = {name: part.to(device) for name, part in state.items()}

    @torch.no_grad()
    def of(paths: Sequence[Path]) -> np.ndarray:
        batches = DataLoader(ResizedFiles(paths), BATCH, shuffle=False, num_workers=workers)
        found = (forward(held, batch.to(device)).cpu().numpy() for batch in batches)
        return np.concatenate(list(found))

    return of


def forward(state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """The network on pixels from 0 to 255."""
    x = (x - 128) / 128
    for step in STEM:
        x = _step(state, "", step, x)
    for block, branches in BLOCKS.items():
        x = torch.cat([_chain(state, f"{block}.", branch, x) for branch in branches], dim=1)
    return x.mean((2, 3))


def _chain(state: Mapping[str, Tensor], prefix: str, steps: Sequence[Step], x: Tensor) -> Tensor:
    for step in steps:
        x = _step(state, prefix, step, x)
    return x


def _step(state: Mapping[str, Tensor], prefix: str, step: Step, x: Tensor) -> Tensor:
    if isinstance(step, tuple):
        return torch.cat([_step(state, prefix, each, x) for each in step], dim=1)
    name, _, stride = step.partition("/")
    if name == "average":
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    if name == "max":
        return F.max_pool2d(x, 3, stride=int(stride or 1), padding=0 if stride else 1)
    weight = state[f"{prefix}{name}.conv.weight"]
    same = not stride and (bool(prefix) or name == "Conv2d_2b_3x3")
    padding = tuple(size // 2 if same else 0 for size in weight.shape[2:])
    x = F.conv2d(x, weight, stride=int(stride or 1), padding=cast(tuple[int, int], padding))
    mean, variance, gain, shift = (state[f"{prefix}{name}.bn.{each}"] for each in NORM)
    return F.relu(F.batch_norm(x, mean, variance, gain, shift, eps=1e-3))
