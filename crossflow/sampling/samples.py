"""Folders of samples: a PNG and a line of ``samples.jsonl`` per image, resumable; and image grids."""

import hashlib
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from crossflow.errors import CrossFlowError
from crossflow.files.images import read_image
from crossflow.files.locks import writing_in
from crossflow.files.plain_json import read_json
from crossflow.files.writing import replacing, written
from crossflow.model.settings import Override, Sampling
from crossflow.sampling.text_to_image import TextToImage, prompt_seed


def grid(images: Sequence[np.ndarray], columns: int, scale: int = 3) -> Image.Image:
    """Tile images of one size row by row on white, each pixel enlarged ``scale`` times."""
    height, width, _ = images[0].shape
    rows = -(-len(images) // columns)
    canvas = np.full((rows * (height + 2) - 2, columns * (width + 2) - 2, 3), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + 2), i % columns * (width + 2)
        canvas[top : top + height, left : left + width] = image
    return Image.fromarray(canvas).resize((canvas.shape[1] * scale, canvas.shape[0] * scale), Image.Resampling.NEAREST)


PIXELS = "pixels_sha256"
"""The entry of a row that tells whether its image is still the one that was drawn, however it is compressed."""


class Drawn(NamedTuple):
    """What ``draw_into`` did: new images, images kept from before, and truncated prompts."""

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
    advance: Callable[[int, int], None] = lambda drawn, kept: None,
) -> Drawn:
    """Sample every prompt into the folder ``out``: a PNG and a line of ``samples.jsonl`` per image.

    ``prompts`` may be a stream of any length. The same call again resumes, with the same result as without the
    interruption: images that are missing or cannot be read are drawn again, in their positions in a batch. A thread
    writes one batch while the next is sampled. CrossFlowError for a folder with samples of other prompts, settings or
    weights, or with an image that was altered, which is left unchanged; and if another process samples into it.
    ``advance`` is told how many of each batch were drawn, and how many kept.
    """
    settings = {**pipeline.identity, "seed": seed, **asdict(sampling)}
    rows = _rows(prompts, per_prompt, seed, settings)
    new = kept = truncated = 0
    with (
        writing_in(out, "sampling"),
        closing(_Record(out / "samples.jsonl")) as record,
        closing(_Writer(record)) as writer,
    ):
        while part := list(itertools.islice(rows, pipeline.batch_size)):
            recorded = list(_until_none(map(record.next, part)))
            new_rows = part[len(recorded) :]
            lost = [row for row in recorded if not _is_whole(out / row["file"], row.get(PIXELS))]
            todo = [*lost, *new_rows]
            images = _draw(pipeline, part if pipeline.filled else todo, sampling) if todo else {}
            for row in lost:
                _check_same(out / row["file"], images[row["file"]], row.get(PIXELS))
            drawn_rows = [row | {PIXELS: _sha256(images[row["file"]])} for row in new_rows]
            writer.put({out / row["file"]: images[row["file"]] for row in todo}, drawn_rows)
            lengths = pipeline.embedder.lengths([row["prompt"] for row in part if row["copy"] == 0])
            truncated += sum(length > pipeline.model.config.reads.shape[0] for length in lengths)
            new, kept = new + len(todo), kept + len(part) - len(todo)
            advance(len(todo), len(part) - len(todo))
    return Drawn(new, kept, truncated)


def _draw(pipeline: TextToImage, rows: Sequence[dict[str, Any]], sampling: Sampling) -> dict[str, np.ndarray]:
    """The image of every row, by file name."""
    chosen = Override(**asdict(sampling))
    images = pipeline.generate([row["prompt"] for row in rows], [row["seed"] for row in rows], chosen)
    return {row["file"]: image for row, image in zip(rows, images, strict=True)}


def _rows(prompts: Iterable[str], per_prompt: int, seed: int, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One row of ``samples.jsonl`` per image. File names have indices, and the letters and digits of the prompt."""
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
    """``samples.jsonl``: checked line by line up to its end or to a truncated last line, then appended to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with written(path):
            path.touch()
            self.file = path.open("r+b")

    def close(self) -> None:
        """Close the file; what could not be written before is tried once more, and may fail again."""
        with written(self.path):
            self.file.close()

    def next(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """The next line, which is ``row`` with the hash of its image; None at the end, or at
        a line that was cut short, which is taken away. CrossFlowError for another."""
        start = self.file.tell()
        line = self.file.readline()
        begins = _line(row).rstrip(b"}\n")
        if line.startswith(begins) and line.endswith(b"\n"):
            found = read_json(line, f"{self.path} at byte {start}")
            if {name: value for name, value in found.items() if name != PIXELS} == row:
                return found
        torn = line.rstrip(b"\0")
        if line.endswith(b"\n") or not (begins.startswith(torn) or torn.startswith(begins)):
            raise CrossFlowError(
                f"{self.path} holds samples of other prompts, settings or weights: choose another --out."
            )
        self.file.seek(start)
        self.file.truncate()
        return None

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add lines at the end."""
        if not rows:
            return
        with written(self.path):
            self.file.write(b"".join(map(_line, rows)))
            self.file.flush()


class _Writer:
    """Writes one batch in a thread while the next is sampled, then appends its rows to the record."""

    def __init__(self, record: "_Record") -> None:
        self._record = record
        self._thread = ThreadPoolExecutor(1)
        self._last: tuple[Future[None], Sequence[dict[str, Any]]] | None = None

    def put(self, images: Mapping[Path, np.ndarray], rows: Sequence[dict[str, Any]]) -> None:
        """Wait for the previous batch, then start to write images; ``rows`` are those not yet in the record."""
        self._settle()
        self._last = self._thread.submit(_write_all, images), rows

    def close(self) -> None:
        """Wait for the last batch."""
        try:
            self._settle()
        finally:
            self._thread.shutdown()

    def _settle(self) -> None:
        if self._last is not None:
            (writing, rows), self._last = self._last, None
            writing.result()
            self._record.append(rows)


def _write_all(images: Mapping[Path, np.ndarray]) -> None:
    for path, image in images.items():
        write_image(path, image)


def _until_none(rows: Iterator[dict[str, Any] | None]) -> Iterator[dict[str, Any]]:
    for row in rows:
        if row is None:
            return
        yield row


def _is_whole(path: Path, sha256: str | None) -> bool:
    """Whether a recorded image is there; one that cannot be read is removed. CrossFlowError for another image."""
    if not path.exists():
        return False
    try:
        image = np.asarray(read_image(path))
    except CrossFlowError:
        path.unlink()
        return False
    if sha256 not in (None, _sha256(image)):
        raise CrossFlowError(f"{path} is not the image that was drawn: move it away, and it is drawn again.")
    return True


def _check_same(path: Path, image: np.ndarray, sha256: str | None) -> None:
    """CrossFlowError if an image that was lost is now drawn otherwise, as on another machine."""
    if sha256 not in (None, _sha256(image)):
        raise CrossFlowError(f"{path} is lost, and other pixels are drawn now: choose another --out.")


def _sha256(image: np.ndarray) -> str:
    """The sha256 of an image's size and pixels."""
    return hashlib.sha256(f"{image.shape} ".encode() + image.tobytes()).hexdigest()


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def write_image(path: Path, image: np.ndarray) -> None:
    """Write uint8 RGB [h w 3] as a PNG. CrossFlowError if the file exists with other pixels."""
    if path.exists():
        if not _holds(path, image):
            raise CrossFlowError(f"{path} is there already and holds another image: choose another --out.")
        return
    with replacing(path) as temporary:
        temporary.write_bytes(png(image))


def png(image: np.ndarray) -> bytes:
    """uint8 RGB [h w 3] as a PNG, by fpng or, many times slower, by Pillow if fpng is not installed."""
    try:
        import fpng
    except ImportError:
        content = io.BytesIO()
        Image.fromarray(image).save(content, format="PNG")
        return content.getvalue()
    return fpng.from_ndarray(image)


def _holds(path: Path, image: np.ndarray) -> bool:
    try:
        return np.array_equal(np.asarray(read_image(path)), image)
    except CrossFlowError:
        return False
