"""Measure what codecs and files leave of every modality: ``python -m benchmarks.codecs --ckpt FILE``.

The codecs are those of an any-to-any system, after its first stage or any other. Each of ``n`` test events is made a
value of each modality, as the system generates it; the exact reader reads it as it is, encoded and decoded, and out of
the files that are made for people, and every factor that it tells is judged. Writes results/scenes/codecs.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.scenes_reader import START
from benchmarks.scenes_senses import shares
from crossflow.anytoany.system import AnyToAny, load_system
from crossflow.files.hashes import file_sha256
from crossflow.files.mel import RATE, log_mel, wave_of
from crossflow.files.sounds import read_wav, write_wav
from crossflow.files.videos import read_video, write_video
from crossflow.sampling.from_image import raw_values
from crossflow.scenes.events import FRAMES, Event, event
from crossflow.scenes.facts import FACTORS, tells
from crossflow.scenes.sense import read
from crossflow.training.data.events import target
from crossflow_eval.environment import hardware

GOAL, GOALS = 95, {"video": 90}
"""Percent right in every factor that is asked of a codec, and of those of which less is asked."""
TELLS = {"text": "text-1"}
"""What a value tells, where it is not all that its modality can: a text is the full description."""
SIZE = 32
"""Pixels a side of a film."""
BATCH = 50
Row = tuple[str, str, dict[str, float]]


@torch.no_grad()
def coded(system: AnyToAny, modality: str, values: Sequence[Any]) -> Iterable[Any]:
    """Values that were encoded and decoded."""
    for start in range(0, len(values), BATCH):
        yield from raw_values(system.codec(modality).decode(system.latents(modality, values[start : start + BATCH])))


def as_wav(mel: np.ndarray, folder: Path) -> np.ndarray:
    """A log-mel spectrogram that was made a wave, kept as WAV, and heard again."""
    write_wav(folder / "a.wav", wave_of(mel), rate=RATE)
    return log_mel(read_wav(folder / "a.wav", rate=RATE, samples=RATE))


def as_film(suffix: str, film: np.ndarray, folder: Path) -> np.ndarray:
    """A film that was kept in a file of that suffix."""
    write_video(folder / f"a.{suffix}", film)
    return read_video(folder / f"a.{suffix}", frames=FRAMES, size=SIZE)


FILES: Mapping[str, Mapping[str, Callable[[np.ndarray, Path], np.ndarray]]] = {
    "audio": {"WAV": as_wav},
    "video": {name: partial(as_film, name.lower()) for name in ("WebP", "GIF", "MP4")},
}
"""Ways through a file, by modality."""


def measure(system: AnyToAny, modality: str, events: list[Event], few: int) -> list[Row]:
    """The shares right, by what was read: the values, those decoded, and the first ``few`` out of files."""
    told = TELLS.get(modality, modality)

    def right(values: Iterable[Any]) -> dict[str, float]:
        return shares((read(modality, each), tells(item, told)) for each, item in zip(values, events, strict=False))

    values = [target(item, modality) for item in events]
    channels, height, width = system.config.member(modality).shape
    rows: list[Row] = [(modality, "as it is", right(values))]
    rows.append(("", f"{height * width} tokens of {channels} numbers", right(coded(system, modality, values))))
    with tempfile.TemporaryDirectory() as folder:
        for name, through in FILES.get(modality, {}).items():
            rows.append(("", f"{name}, n = {few}", right(through(each, Path(folder)) for each in values[:few])))
    return rows


def report(tables: Mapping[str, list[Row]], command: str, sha256: str, n: int) -> str:
    """The Markdown page."""
    lines = [
        "# What the codecs and the files leave of every modality",
        "",
        f"`{command}`: {n:,} events of `test` from index {START:,}; the file has the sha256 {sha256[:12]}….",
        f"{hardware()}. Percent of events that the exact reader has right in a factor, of those in which the modality "
        "tells it; of objects, all must be right.",
        "",
        "A codec makes of every value 16 tokens. Those of a text, the full description that the system generates, are",
        "learnt; the others are the principal components of a patch of 8 x 8: of an image, of the logarithm of depth,",
        "of 8 bands x 8 frames of a log-mel spectrogram, of all 8 frames of a film. Sounds and films are scored as",
        "their npy and lossless WebP; WAV, GIF and MP4 are for people.",
        "",
        f"| | | {' | '.join(FACTORS)} |",
        f"|---|---|{'---:|' * len(FACTORS)}",
    ]
    for rows in tables.values():
        for modality, what, right in rows:
            cells = [f"{right[factor]:.1f}" if factor in right else "" for factor in FACTORS]
            lines.append(f"| {modality} | {what} | {' | '.join(cells)} |")
    said = []
    for modality, rows in tables.items():
        least, goal = min(rows[1][2].values()), GOALS.get(modality, GOAL)
        said.append(f"{modality} {least:.1f} ({'reaches' if least >= goal else 'is below'} {goal})")
    return "\n".join([*lines, "", f"The least share after the codec, and the goal: {', '.join(said)}.", ""])


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ckpt", type=Path, required=True, help="an any-to-any system")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--few", type=int, default=200, help="events that go through files")
    parser.add_argument("--out", type=Path, default=Path("results/scenes/codecs.md"))
    args = parser.parse_args()
    system = load_system(args.ckpt)
    events = [event("test", START + i) for i in range(args.n)]
    tables = {modality: measure(system, modality, events, args.few) for modality in system.config.coded}
    command = f"python -m benchmarks.codecs --ckpt {args.ckpt} --n {args.n} --few {args.few}"
    page = report(tables, command, file_sha256(args.ckpt), args.n)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page, encoding="utf-8")
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
