"""Measure the exact readers of all modalities on real samples: ``python -m benchmarks.scenes_senses``.

Of each of ``n`` events a modality's value is made and read, as it is and under noise, and every factor that the
modality tells is judged; then what was read is judged by the facts of other events, beside what these events' own facts
would get, which is chance. Writes results/scenes/senses.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scenes_reader import START, noise
from crossflow.files.mel import log_mel, wave_of
from crossflow.scenes.events import Event, event
from crossflow.scenes.facts import FACTORS, TOLD, Facts, right, tells
from crossflow.scenes.sense import read, value
from crossflow_eval.environment import hardware

COLUMNS = ("clean", "noise", "others", "chance")
NAMES = tuple(name for name in TOLD if name != "text")
WAVES = 200
"""Sounds that are made to waves and back; this takes longer than all else."""


def shorter(text: str, rng: np.random.Generator) -> str:
    """Without one of its words."""
    words = text.split()
    del words[rng.integers(len(words))]
    return " ".join(words)


def rough(depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every pixel times the exponential of a normal of sd 0.05."""
    return (depth * np.exp(rng.normal(0.0, 0.05, depth.shape))).astype(np.float32)


def hiss(mel: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A normal of sd 0.3 added to every logarithm."""
    return (mel + rng.normal(0.0, 0.3, mel.shape)).astype(np.float32)


NOISES: dict[str, Callable[[Any, np.random.Generator], Any]] = {
    "text": shorter,
    "image": noise,
    "depth": rough,
    "audio": hiss,
    "video": noise,
}


def shares(pairs: Iterable[tuple[Facts, Facts]]) -> dict[str, float]:
    """Percent right of each factor that the second of each pair tells."""
    judged: defaultdict[str, list[bool]] = defaultdict(list)
    for found, true in pairs:
        for factor in FACTORS:
            verdict = right(found, true, factor)
            if verdict is not None:
                judged[factor].append(verdict)
    return {factor: 100.0 * float(np.mean(judged[factor])) for factor in FACTORS if factor in judged}


def measure(events: list[Event], name: str, seed: int) -> tuple[dict[str, dict[str, float]], float]:
    """The shares of ``name`` by column, and CPU ms a reading."""
    modality, _, form = name.partition("-")
    values = [value(item, modality, int(form or 0)) for item in events]
    start = time.process_time()
    found = [read(modality, each) for each in values]
    ms = 1000.0 * (time.process_time() - start) / len(events)
    noisy = [read(modality, NOISES[modality](each, np.random.default_rng([seed, i]))) for i, each in enumerate(values)]
    true = [tells(item, name) for item in events]
    order = np.random.default_rng(seed).permutation(len(events))
    others = [true[order[(i + 1) % len(order)]] for i in np.argsort(order)]
    return {
        "clean": shares(zip(found, true, strict=True)),
        "noise": shares(zip(noisy, true, strict=True)),
        "others": shares(zip(found, others, strict=True)),
        "chance": shares(zip(true, others, strict=True)),
    }, ms


def waves(events: list[Event]) -> dict[str, float]:
    """The shares of sounds that were made to a wave and heard again."""
    again = (log_mel(wave_of(value(item, "audio"))) for item in events)
    return shares((read("audio", mel), tells(item, "audio")) for mel, item in zip(again, events, strict=True))


def report(tables: dict[str, tuple[dict[str, dict[str, float]], float]], heard: dict[str, float], n: int, seed: int):
    """The Markdown page."""
    lines = [
        "# The exact readers of every modality on real samples",
        "",
        f"`python -m benchmarks.scenes_senses --n {n} --seed {seed}`: {n} events of `test` from index {START:,}.",
        f"{hardware()}. Percent of events right in a factor, of those in which the modality tells it; of objects, all",
        "must be right.",
        "",
        "Noise: a text lacks one word; images and films have normal noise of sd 4 of 255; depths are multiplied by",
        "exponentials of sd 0.05; logarithms of mel magnitudes have noise of sd 0.3. Others: judged by the facts of",
        "other events. Chance: what the true facts get there.",
        "",
        f"| | | {' | '.join(FACTORS)} | CPU ms |",
        f"|---|---|{'---:|' * (len(FACTORS) + 1)}",
    ]
    for name, (columns, ms) in tables.items():
        for column in COLUMNS:
            cells = [f"{columns[column][factor]:.1f}" if factor in columns[column] else "" for factor in FACTORS]
            time_taken = f"{ms:.2f}" if column == "clean" else ""
            lines.append(f"| {name if column == 'clean' else ''} | {column} | {' | '.join(cells)} | {time_taken} |")
    drops = {name: np.mean([t["clean"][f] - t["noise"][f] for f in t["clean"]]) for name, (t, _) in tables.items()}
    least = min(min(columns["clean"].values()) for columns, _ in tables.values())
    lines += [
        "",
        f"The least of the clean shares is {least:.1f}. Under noise the factors lose, on the mean and in points,",
        f"{', '.join(f'{drop:.1f} ({name})' for name, drop in drops.items())}.",
        "",
        f"Of {min(n, WAVES)} sounds that were made to a wave by Griffin and Lim's algorithm and heard again:",
        f"{', '.join(f'{factor} {share:.1f}' for factor, share in heard.items())}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/scenes/senses.md"))
    args = parser.parse_args()
    events = [event("test", START + i) for i in range(args.n)]
    tables = {name: measure(events, name, args.seed) for name in NAMES}
    page = report(tables, waves(events[:WAVES]), args.n, args.seed)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page)
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
