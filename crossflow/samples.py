"""Images in folders: one PNG and one line of ``samples.jsonl`` an image, resumable, and grids of several."""

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
from PIL import Image

from crossflow.checkpoint import replacing, written
from crossflow.errors import CrossFlowError
from crossflow.model import Sampling
from crossflow.pipeline import CHUNK, TextToImage, prompt_seed


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
    settings = {**pipeline.identity, "seed": seed, **asdict(sampling)}
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
                write_image(out / row["file"], image)
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


def write_image(path: Path, image: np.ndarray) -> None:
    """Write a PNG; a file of that name that holds anything else is never overwritten."""
    png = io.BytesIO()
    Image.fromarray(image).save(png, format="PNG")
    if path.exists():
        if path.read_bytes() != png.getvalue():
            raise CrossFlowError(f"{path} is there already and holds another image: choose another --out.")
        return
    with replacing(path) as temporary:
        temporary.write_bytes(png.getvalue())
