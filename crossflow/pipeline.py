"""From prompts to images: text embedder, flow, autoencoder, and the noise of every image from its own seed."""

import copy
import hashlib
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from crossflow.checkpoint import file_sha256, load_model, replacing, usable_device, written
from crossflow.errors import CrossFlowError
from crossflow.latents import MiniLM, TextEmbedder
from crossflow.model import FlowModel, Sampling

CHUNK = 50
"""Images computed at once. It changes the speed and, by the float64 of the computation, nothing else."""


class TextToImage:
    """A model with its text embedder, ready to draw.

    Everything runs in float64: an image then depends on its own prompt and seed to the last bit, whatever else is
    drawn beside it, because rounding differences between batch sizes stay far below one grey level.
    """

    dtype = torch.float64

    def __init__(self, model: FlowModel, embedder: TextEmbedder, weights_sha256: str = "") -> None:
        self.device = next(model.parameters()).device
        self.model = copy.deepcopy(model).to(self.dtype).eval()
        self.embedder = embedder
        self.weights_sha256 = weights_sha256
        self.defaults: Sampling = model.config.sampling

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str = "cpu") -> "TextToImage":
        """Load a checkpoint onto auto, cpu, cuda or cuda:N; CrossFlowError where it or the device cannot be used."""
        model = load_model(path, usable_device(device))
        return cls(model, MiniLM(), file_sha256(path))

    def sampling(
        self, solver: str | None = None, steps: int | None = None, guidance_scale: float | None = None
    ) -> Sampling:
        """The sampling settings, where those left out are the checkpoint's own."""
        return Sampling(
            solver=self.defaults.solver if solver is None else solver,
            steps=self.defaults.steps if steps is None else steps,
            guidance_scale=self.defaults.guidance_scale if guidance_scale is None else guidance_scale,
        )

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        solver: str | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
    ) -> list[np.ndarray]:
        """Draw one image a prompt: uint8 RGB [h w 3]. Settings left out are the checkpoint's own defaults."""
        if len(prompts) != len(seeds):
            raise CrossFlowError(f"There are {len(prompts)} prompts but {len(seeds)} seeds; give one seed a prompt.")
        sampling = self.sampling(solver, steps, guidance_scale)
        images: list[np.ndarray] = []
        for start in range(0, len(prompts), CHUNK):
            part = slice(start, start + CHUNK)
            images.extend(self._chunk(prompts[part], seeds[part], sampling))
        return images

    @torch.inference_mode()
    def _chunk(self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling) -> Sequence[np.ndarray]:
        tokens, mask = self.embedder.embed(prompts, self.model.config.token_count)
        noise = torch.stack([seeded_noise(seed, self.model.config.shape) for seed in seeds])
        latents = self.model.generate(
            tokens.to(self.device, self.dtype), mask.to(self.device), noise.to(self.device, self.dtype), sampling
        )
        return list(self.model.autoencoder.decode(latents).cpu().numpy())


def seeded_noise(seed: int, shape: tuple[int, int, int]) -> Float[Tensor, "c h w"]:
    """Standard normal noise of one image; always drawn on the CPU, so that devices agree."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def prompt_seed(seed: int, prompt: str, copy: int = 0) -> int:
    """A seed for the ``copy``-th image of ``prompt``: a hash, so that it does not depend on what else is drawn."""
    text = f"{seed}\n{copy}\n{prompt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def grid(images: Sequence[np.ndarray], columns: int, scale: int = 3) -> Image.Image:
    """Tile images of one size row by row, each pixel enlarged ``scale`` times, on white."""
    height, width, _ = images[0].shape
    rows = -(-len(images) // columns)
    canvas = np.full((rows * (height + 2) - 2, columns * (width + 2) - 2, 3), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + 2), i % columns * (width + 2)
        canvas[top : top + height, left : left + width] = image
    return Image.fromarray(canvas).resize((canvas.shape[1] * scale, canvas.shape[0] * scale), Image.Resampling.NEAREST)


class Drawn(NamedTuple):
    """What ``draw_into`` did: images drawn now, images kept from before, and prompts that were too long."""

    new: int
    kept: int
    truncated: int


def draw_into(
    out: Path,
    pipeline: TextToImage,
    prompts: Iterable[str],
    sampling: Sampling,
    *,
    seed: int = 0,
    per_prompt: int = 1,
    advance: Callable[[int], None] = lambda count: None,
) -> Drawn:
    """Draw every prompt into the folder ``out``: one PNG an image, and one line an image in ``samples.jsonl``.

    ``prompts`` may be a stream of any length. Call it again to go on where it was stopped; the result is the same.
    A folder that holds samples of other prompts, settings or weights raises CrossFlowError, and nothing is changed.
    """
    settings = {"weights_sha256": pipeline.weights_sha256, "seed": seed, **asdict(sampling)}
    rows = _rows(prompts, per_prompt, seed, settings)
    new = kept = truncated = 0
    with written(out):
        out.mkdir(parents=True, exist_ok=True)
        record = _Record(out / "samples.jsonl")
    with closing(record):
        while part := list(itertools.islice(rows, CHUNK)):
            recorded = [record.next_is(row) for row in part]
            fresh = part[sum(recorded) :]
            todo = [row for row in part[: sum(recorded)] if not (out / row["file"]).exists()] + fresh
            images = pipeline.generate(
                [row["prompt"] for row in todo], [row["seed"] for row in todo], *astuple(sampling)
            )
            for row, image in zip(todo, images, strict=True):
                _write_image(out / row["file"], image)
            record.append(fresh)
            lengths = pipeline.embedder.lengths([row["prompt"] for row in part if row["copy"] == 0])
            truncated += sum(length > pipeline.model.config.token_count for length in lengths)
            new, kept = new + len(todo), kept + len(part) - len(todo)
            advance(len(part))
    return Drawn(new, kept, truncated)


def _rows(prompts: Iterable[str], per_prompt: int, seed: int, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One line of ``samples.jsonl`` an image. File names hold a number and the letters and digits of the prompt."""
    for index, prompt in enumerate(prompts):
        try:
            slug = re.sub("[^a-z0-9]+", "-", prompt.encode().decode().lower())[:60].strip("-")
        except UnicodeEncodeError as error:
            raise CrossFlowError(f"Prompt {index + 1} is not valid text: write it in UTF-8.") from error
        for number in range(per_prompt):
            name = f"{index:06d}-{number}-{slug}".rstrip("-") + ".png"
            own_seed = prompt_seed(seed, prompt, number)
            yield {"file": name, "prompt": prompt, "copy": number, "seed": own_seed, "settings": settings}


class _Record:
    """``samples.jsonl``: read line by line up to its end, or to a line that a kill cut in half, then appended to."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self.path = path
        self.file = path.open("r+b")
        self.close = self.file.close

    def next_is(self, row: dict[str, Any]) -> bool:
        """Whether the next line is ``row``; False at the end. Another line raises CrossFlowError."""
        start = self.file.tell()
        line = self.file.readline()
        if line == _line(row):
            return True
        if line.endswith(b"\n"):
            raise CrossFlowError(
                f"{self.path} holds samples of other prompts, settings or weights: choose another --out."
            )
        self.file.seek(start)
        return False

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add lines at the end."""
        if not rows:
            return
        with written(self.path):
            self.file.truncate()
            self.file.write(b"".join(map(_line, rows)))
            self.file.flush()


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def _write_image(path: Path, image: np.ndarray) -> None:
    """Write a PNG; a file of that name that holds anything else is never overwritten."""
    png = io.BytesIO()
    Image.fromarray(image).save(png, format="PNG")
    if path.exists():
        if path.read_bytes() != png.getvalue():
            raise CrossFlowError(f"{path} is there already and holds another image: choose another --out.")
        return
    with replacing(path) as temporary:
        temporary.write_bytes(png.getvalue())
