"""Measure what codecs and files leave of every modality: ``python -m benchmarks.codecs``.

The codecs are fitted to events of the training split. Each of ``n`` test events is made a value of each modality; the
exact reader reads it as it is, encoded and decoded, and out of the files that are made for people, and every factor
that the modality tells is judged. Writes results/scenes/codecs.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from benchmarks.scenes_reader import START
from benchmarks.scenes_senses import shares
from crossflow.files.mel import RATE, log_mel, wave_of
from crossflow.files.sounds import read_wav, write_wav
from crossflow.files.videos import read_video, write_video
from crossflow.modalities.audio import AudioConfig
from crossflow.modalities.components import PatchComponents
from crossflow.modalities.depth import PatchDepthConfig
from crossflow.modalities.patch_pca import PatchPCAConfig
from crossflow.modalities.video import VideoConfig
from crossflow.scenes.events import FRAMES, Event, event
from crossflow.scenes.facts import FACTORS, tells
from crossflow.scenes.sense import read, value
from crossflow_eval.environment import hardware

CODECS = {each.name: each for each in (PatchPCAConfig(), PatchDepthConfig(), AudioConfig(), VideoConfig())}
GOALS = {"image": 95, "depth": 95, "audio": 95, "video": 90}
"""Percent right in every factor that is asked of a codec."""
SIZE = 32
"""Pixels a side of a film."""
Row = tuple[str, str, dict[str, float]]


def fitted(modality: str, count: int) -> PatchComponents:
    """The codec of a modality, fitted to the first ``count`` events of the training split."""
    config = CODECS[modality]
    codec = cast(PatchComponents, config.build((config.components, 4, 4)))
    codec.fit(torch.from_numpy(np.stack([value(event("train", i), modality) for i in range(count)])))
    return codec


def coded(codec: PatchComponents, values: Iterable[Any]) -> Iterable[Any]:
    """Values that were encoded and decoded, one by one."""
    return (codec.decode(codec.prepare([each]))[0].numpy() for each in values)


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


def measure(modality: str, events: list[Event], few: int, fit: int) -> list[Row]:
    """The shares right, by what was read: the values, those decoded, and the first ``few`` out of files."""

    def right(values: Iterable[Any]) -> dict[str, float]:
        return shares((read(modality, each), tells(item, modality)) for each, item in zip(values, events, strict=False))

    values = [value(item, modality) for item in events]
    codec = fitted(modality, fit)
    rows: list[Row] = [(modality, "as it is", right(values))]
    rows.append(("", f"{codec.config.components} of {codec.config.width} components", right(coded(codec, values))))
    with tempfile.TemporaryDirectory() as folder:
        for name, through in FILES.get(modality, {}).items():
            rows.append(("", f"{name}, n = {few}", right(through(each, Path(folder)) for each in values[:few])))
    return rows


def report(tables: Mapping[str, list[Row]], command: str, n: int, fit: int) -> str:
    """The Markdown page."""
    least = {modality: min(rows[1][2].values()) for modality, rows in tables.items()}
    lines = [
        "# What the codecs and the files leave of every modality",
        "",
        f"`{command}`: {n:,} events of `test` from index {START:,}, codecs fitted to {fit:,} events of `train`.",
        f"{hardware()}. Percent of events that the exact reader has right in a factor, of those in which the modality "
        "tells it; of objects, all must be right.",
        "",
        "A codec makes of every value 16 tokens, each the principal components of a patch of 8 x 8: of an image, of",
        "the logarithm of depth, of 8 bands x 8 frames of a log-mel spectrogram, of all 8 frames of a film. Sounds and",
        "films are scored as their npy and lossless WebP; WAV, GIF and MP4 are for people.",
        "",
        f"| | | {' | '.join(FACTORS)} |",
        f"|---|---|{'---:|' * len(FACTORS)}",
    ]
    for rows in tables.values():
        for modality, what, right in rows:
            cells = [f"{right[factor]:.1f}" if factor in right else "" for factor in FACTORS]
            lines.append(f"| {modality} | {what} | {' | '.join(cells)} |")
    said = [
        f"{modality} {share:.1f} ({'reaches' if share >= GOALS[modality] else 'is below'} {GOALS[modality]})"
        for modality, share in least.items()
    ]
    return "\n".join([*lines, "", f"The least share after the codec, and the goal: {', '.join(said)}.", ""])


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--few", type=int, default=200, help="events that go through files")
    parser.add_argument("--fit", type=int, default=2000, help="events that the codecs are fitted to")
    parser.add_argument("--out", type=Path, default=Path("results/scenes/codecs.md"))
    args = parser.parse_args()
    events = [event("test", START + i) for i in range(args.n)]
    tables = {modality: measure(modality, events, args.few, args.fit) for modality in CODECS}
    command = f"python -m benchmarks.codecs --n {args.n} --few {args.few} --fit {args.fit}"
    page = report(tables, command, args.n, args.fit)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page, encoding="utf-8")
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
