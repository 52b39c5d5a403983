"""A model of any to any that knows the first events of the embedded world: it makes what is true, as often as asked."""

from functools import cache

import numpy as np

from crossflow.scenes.events import event
from crossflow.scenes.sense import value
from crossflow_eval.types import Ask

EVENTS, MODALITIES = 12, ("text", "image", "depth", "audio", "video")
OTHER = 500
"""Where the events begin that untrue outputs are of."""


def key(modality: str, raw) -> tuple[str, object]:
    return modality, raw if isinstance(raw, str) else raw.tobytes()


@cache
def known() -> dict[tuple[str, object], int]:
    """The number of the first event that has a value, by modality and value."""
    found: dict[tuple[str, object], int] = {}
    for number in range(EVENTS):
        for modality in MODALITIES:
            for form in range(5 if modality == "text" else 1):
                found.setdefault(key(modality, value(event("test", number), modality, form)), number)
    return found


class Oracle:
    """All outputs are of the event that the inputs are of, with this probability; else each of some other."""

    name, share = "oracle", 1.0

    def __init__(self):
        self.identity = {"share": self.share}

    def generate(self, sources, seeds):
        return [self.outputs(ask, np.random.default_rng(seed)) for ask, seed in zip(sources, seeds, strict=True)]

    def outputs(self, ask: Ask, random: np.random.Generator) -> dict:
        named = sorted(ask.given.items(), key=lambda each: each[0] == "text")
        numbers = [known()[key(name, raw)] for name, several in named for raw in several if key(name, raw) in known()]
        true = bool(numbers) and random.random() < self.share
        return {
            each: value(event("test", numbers[0] if true else OTHER + int(random.integers(100))), each, 1)
            for each in ask.wanted
        }


class Half(Oracle):
    """Half of its outputs are true."""

    name, share = "half", 0.5


class Never(Oracle):
    """None of its outputs are."""

    name, share = "never", 0.0
