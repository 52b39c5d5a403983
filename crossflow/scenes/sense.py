"""Events as raw values of each modality, and what an exact reader finds in such a value.

A further modality is an entry in ``SENSES``, a reader in ``readers/``, and a line of ``TOLD`` in ``facts.py``; one of
the any-to-any system takes more, which docs/design.md lists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossflow.errors import CrossFlowError, named
from crossflow.files.mel import log_mel
from crossflow.scenes.depth import depth_map
from crossflow.scenes.events import Event
from crossflow.scenes.facts import Facts
from crossflow.scenes.motion import film
from crossflow.scenes.readers import audio, depth, image, text, video
from crossflow.scenes.render import render
from crossflow.scenes.sound import waveform


@dataclass(frozen=True, kw_only=True)
class Sense:
    """A modality: its value of an event and a form (of the captions; others have one), and its reader.

    A value is an array of ``shape`` and ``dtype``, or a text where ``shape`` is None.
    """

    value: Callable[[Event, int], Any]
    read: Callable[[Any], Facts]
    shape: tuple[int, ...] | None
    dtype: type = np.float32


SENSES: Mapping[str, Sense] = {
    "text": Sense(value=lambda event, form: event.captions[form], read=text.read, shape=None),
    "image": Sense(value=lambda event, _: render(event.scene), read=image.read, shape=(32, 32, 3), dtype=np.uint8),
    "depth": Sense(value=lambda event, _: depth_map(event.scene), read=depth.read, shape=(32, 32)),
    "audio": Sense(value=lambda event, _: log_mel(waveform(event)), read=audio.read, shape=(32, 32)),
    "video": Sense(value=lambda event, _: film(event), read=video.read, shape=(8, 32, 32, 3), dtype=np.uint8),
}


def value(event: Event, modality: str, form: int = 0) -> Any:
    """The raw value of ``event``: a text, uint8 [32 32 3], metres or log-mel [32 32], or a film uint8 [8 32 32 3].

    ``form`` chooses among the five captions. CrossFlowError for an unknown modality.
    """
    return _sense(modality).value(event, form)


def read(modality: str, value: Any) -> Facts:
    """What the exact reader of ``modality`` finds in ``value``; CrossFlowError if it is no value of that modality."""
    check(modality, value)
    return _sense(modality).read(value)


def check(modality: str, value: Any) -> None:
    """CrossFlowError if ``value`` is no value of ``modality``."""
    sense = _sense(modality)
    if sense.shape is None:
        if not isinstance(value, str):
            raise CrossFlowError(f"A {modality} must be a string, got {type(value).__name__}.")
        return
    array = np.asarray(value)
    holes = array.dtype.kind == "f" and bool(np.isnan(array).any())
    if array.shape != sense.shape or array.dtype != sense.dtype or holes:
        raise CrossFlowError(
            f"A value of {modality} must be {np.dtype(sense.dtype)} {list(sense.shape)} without NaN, "
            f"got {array.dtype} {list(array.shape)}{' with NaN' if holes else ''}."
        )


def _sense(modality: str) -> Sense:
    return named("modality", modality, SENSES)
