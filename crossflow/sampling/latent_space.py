"""Interpolation and arithmetic on source latents, as in the authors' ``demo_t2i_arith``.

The source latent of a prompt has the shape of an image latent, so points between two prompts, and sums of prompts, are
source latents too, which the flow maps to images.
"""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.files.locks import writing_in
from crossflow.files.writing import refuse_existing, replacing
from crossflow.model.settings import Sampling
from crossflow.sampling.samples import grid, write_image
from crossflow.sampling.text_to_image import TextToImage, prompt_seed


def interpolate(
    first: Float[Tensor, "c h w"], last: Float[Tensor, "c h w"], frames: int
) -> Float[Tensor, "{frames} c h w"]:
    """Linear interpolation between two source latents: ``frames`` points, both ends included, without rescaling."""
    if frames < 2:
        raise CrossFlowError(f"An interpolation has at least its two ends; frames is {frames}.")
    return torch.stack([first + (last - first) * (k / (frames - 1)) for k in range(frames)])


def arithmetic(
    base: Float[Tensor, "c h w"],
    add: Sequence[Float[Tensor, "c h w"]] = (),
    subtract: Sequence[Float[Tensor, "c h w"]] = (),
    scale: float = 1.0,
) -> Float[Tensor, "c h w"]:
    """base + scale (sum of ``add`` - sum of ``subtract``), normalised to mean 0 and unbiased standard deviation 1.

    Mean and deviation are over all dimensions of the latent. ``scale`` is the factor of the paper's Figure 9 (0.25 to
    3). CrossFlowError where nothing is left, as of a prompt that is subtracted from itself.
    """
    if not math.isfinite(scale):
        raise CrossFlowError(f"scale is {scale}; it must be a finite number.")
    total = base
    for each in add:
        total = total + scale * each
    for each in subtract:
        total = total - scale * each
    deviation = total.std()
    if not deviation > 0:
        raise CrossFlowError("Nothing is left of the sum, which has one number everywhere: subtract another prompt.")
    return (total - total.mean()) / deviation


@dataclass(frozen=True, kw_only=True)
class Sum:
    """The terms of prompt arithmetic: base + scale (add - subtract)."""

    base: str
    add: tuple[str, ...] = ()
    subtract: tuple[str, ...] = ()
    scale: float = 1.0

    @classmethod
    def of_text(cls, text: str, scale: float = 1.0) -> "Sum":
        """The sum that ``text`` writes out, as in "a photo of a ball + a photo of a box - a photo of a ring"."""
        base, *rest = re.split(r" ([+-]) ", text)
        terms = list(zip(rest[::2], rest[1::2], strict=True))
        add, subtract = (tuple(prompt for sign, prompt in terms if sign == which) for which in "+-")
        return cls(base=base, add=add, subtract=subtract, scale=scale)

    @property
    def prompts(self) -> list[str]:
        """All prompts, in the order of their images."""
        return [self.base, *self.add, *self.subtract]

    def of(self, sources: Float[Tensor, "n c h w"]) -> Float[Tensor, "c h w"]:
        """The sum of the source latents of ``prompts``."""
        last = 1 + len(self.add)
        return arithmetic(sources[0], list(sources[1:last]), list(sources[last:]), self.scale)


def draw_walk(
    pipeline: TextToImage, ends: tuple[str, str], frames: int, sampling: Sampling, seed: int, out: Path
) -> Path:
    """Sample an interpolation between two prompts into ``frame-000.png`` …, ``grid.png`` and ``walk.gif``.

    CrossFlowError if one of these files is there already.
    """
    names = [f"frame-{k:03d}" for k in range(frames)]
    with _writing(out, [*names, "grid"], "walk.gif"):
        first, last = pipeline.source(ends, [prompt_seed(seed, prompt) for prompt in ends], sampling.noise)
        images = pipeline.from_source(interpolate(first, last, frames), sampling)
        _write(images, names, out, columns=min(frames, 10))
        pictures = [Image.fromarray(image) for image in images]
        with replacing(out / "walk.gif") as temporary:
            there_and_back = [*pictures[1:], *pictures[-2:0:-1]]
            pictures[0].save(temporary, format="GIF", save_all=True, append_images=there_and_back, duration=80, loop=0)
    return out / "grid.png"


def draw_sum(pipeline: TextToImage, terms: Sum, sampling: Sampling, seed: int, out: Path) -> Path:
    """Sample each prompt alone, then their sum, into ``base.png``, ``add-0.png`` …, ``sum.png`` and ``grid.png``.

    CrossFlowError if one of these files is there already.
    """
    names = [f"{kind}-{k}" for kind, of in (("add", terms.add), ("subtract", terms.subtract)) for k in range(len(of))]
    names = ["base", *names, "sum"]
    with _writing(out, [*names, "grid"]):
        seeds = [prompt_seed(seed, prompt) for prompt in terms.prompts]
        sources = pipeline.source(terms.prompts, seeds, sampling.noise)
        images = pipeline.from_source(torch.cat([sources, terms.of(sources)[None]]), sampling)
        _write(images, names, out, columns=len(images))
    return out / "grid.png"


def before_and_after(
    pipeline: TextToImage, sums: Sequence[Sum], seeds: Sequence[int], sampling: Sampling
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The image of each sum's base alone and that of the sum, uint8 RGB [h w 3], from one source latent of the base.

    Of one sum, equal prompts have equal noise, as in ``draw_sum``.
    """
    prompts = [prompt for terms in sums for prompt in terms.prompts]
    drawn = [prompt_seed(seed, prompt) for terms, seed in zip(sums, seeds, strict=True) for prompt in terms.prompts]
    parts = pipeline.source(prompts, drawn, sampling.noise).split([len(terms.prompts) for terms in sums])
    pairs = [torch.stack([part[0], terms.of(part)]) for part, terms in zip(parts, sums, strict=True)]
    images = pipeline.from_source(torch.cat(pairs), sampling)
    return list(zip(images[::2], images[1::2], strict=True))


@contextmanager
def _writing(out: Path, images: Sequence[str], *others: str) -> Iterator[None]:
    """Lock a folder in which none of the files to be written is there."""
    with writing_in(out, "writing"):
        refuse_existing(out / name for name in (*(f"{image}.png" for image in images), *others))
        yield


def _write(images: Sequence[np.ndarray], names: Sequence[str], out: Path, columns: int) -> None:
    for name, image in zip(names, images, strict=True):
        write_image(out / f"{name}.png", image)
    with replacing(out / "grid.png") as temporary:
        grid(images, columns, scale=max(1, 96 // images[0].shape[1])).save(temporary, format="PNG")
