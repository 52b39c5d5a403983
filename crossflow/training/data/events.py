"""Training data of the any-to-any system: latents of events by modality, and the words of their captions.

They are made once and kept in files, one a modality. A stage opens those of the modalities that it reads, and a pair of
modalities that is never trained together is read by none (``recipes.recipe.PAIRS``).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from crossflow.anytoany.stages import CAPTION, PROMPT, WRONG, CodecStage, Stage, read_of
from crossflow.anytoany.system import AnyToAny
from crossflow.files import progress
from crossflow.files.tensors import tensors_sha256
from crossflow.flow.batch import Batch, Item
from crossflow.recipes.recipe import EventData, TrainConfig
from crossflow.scenes.caption import describe
from crossflow.scenes.events import Event, event
from crossflow.scenes.negatives import MOVED, untrue_captions
from crossflow.scenes.sense import value
from crossflow.scenes.spec import VERSION as WORLD
from crossflow.training.data.pairs import Pairs, kept

CHUNK = 512
"""Events processed at once."""
FITTED = 2_000
"""Events that a codec is fitted to."""


def target(item: Event, modality: str) -> Any:
    """What an event is in a modality, as what is to be generated: its raw value, and as text the full description."""
    return describe(item.scene) if modality == "text" else value(item, modality)


def fit_to_events(recipe: TrainConfig, system: AnyToAny) -> None:
    """Fit the codecs that are fitted."""
    count = min(FITTED, cast(EventData, recipe.data).count)
    for name in system.config.names:
        if system.codec(name).fits:
            raw = np.stack([target(event("train", i), name) for i in range(count)])
            system.codec(name).fit(torch.from_numpy(raw))


def event_pairs(recipe: TrainConfig, system: AnyToAny, folder: Path, stage: progress.Stage) -> Pairs:
    """What the stage of a ``recipe`` reads, made by the codecs of ``system`` or found in ``folder``."""
    model, count = cast(Any, recipe.model), cast(EventData, recipe.data).count
    if isinstance(model, CodecStage):
        learned = [name for name in system.config.names if system.codec(name).learns]
        return CodecValues({name: _opened(system, name, count, folder, stage, _values)["values"] for name in learned})
    return _pairs(model, system, count, folder, stage)


def _pairs(model: Stage, system: AnyToAny, count: int, folder: Path, stage: progress.Stage) -> "EventPairs":
    worded = [name for name in model.reading if system.prompts[name].words]
    opened = {*model.reaching, *(name for name in model.reading if name not in worded)}
    latents = {name: _opened(system, name, count, folder, stage, _latents)["latents"] for name in sorted(opened)}
    words = _opened(system, "text", count, folder, stage, _words) if worded or model.bare else {}
    captions = _opened(system, "text", count, folder, stage, _captions)["latents"] if model.captioned else None
    forms = model.captioned or model.worded
    return EventPairs(model.pairs, model.reading, model.reaching, model.bare, forms, latents, words, captions)


@dataclass(frozen=True)
class CodecValues:
    """Values of every codec that learns, each of other events: no codec has anything to do with another."""

    values: Mapping[str, Shaped[Tensor, "n *dims"]]

    def pick(self, step: int, count: int, generator: torch.Generator) -> Int[Tensor, "b m"]:
        """Sample ``count`` events of each modality with replacement."""
        rows = [torch.randint(len(each), (count,), generator=generator) for each in self.values.values()]
        return torch.stack(rows, dim=1)

    def load(self, picks: Int[Tensor, "b m"], draws: Any, start: int, stop: int) -> Batch:
        """The values from ``start`` to ``stop`` of a step's ``picks``."""
        rows = picks[start:stop].unbind(1)
        items = {name: Item(each[own]) for own, (name, each) in zip(rows, self.values.items(), strict=True)}
        return Batch(items, rows[0])


@dataclass(frozen=True)
class EventPairs:
    """Pairs of modalities of events, one pair a step.

    A batch has the latents of what is reached, and what prompt encoders read of the rest (``stages.read_of``). Of texts
    that are the ``words`` of a caption drawn anew, with the same caption of a scene that differs in one thing; or, for
    what reads no words, beside the latents of the full description those of one of the ``captions``. Their ``forms``
    are drawn of those that are given, or of all.
    """

    pairs: tuple[tuple[str, str], ...]
    reading: tuple[str, ...]
    reaching: tuple[str, ...]
    bare: bool
    forms: tuple[int, ...]
    latents: Mapping[str, Float[Tensor, "n c h w"]]
    words: Mapping[str, Int[Tensor, "n *dims"]]
    captions: Float[Tensor, "n k *dims"] | None

    def pick(self, step: int, count: int, generator: torch.Generator) -> Int[Tensor, "b 3"]:
        """Draw a pair, ``count`` events with replacement, and the form of a caption for each."""
        first = next(iter({**self.latents, **self.words}.values()))
        pair = torch.randint(len(self.pairs), (), generator=generator).expand(count)
        rows = torch.randint(len(first), (count,), generator=generator)
        forms = torch.tensor(self.forms or range(self.words["forms"].shape[1] if self.words else 1))
        drawn = torch.randint(len(forms), (count,), generator=generator)
        return torch.stack([pair, rows, forms[drawn]], dim=1)

    def load(self, picks: Int[Tensor, "b 3"], draws: Any, start: int, stop: int) -> Batch:
        """The events from ``start`` to ``stop`` of a step's ``picks``."""
        pair, rows, forms = picks[start:stop].unbind(1)
        items: dict[str, Item] = {}
        same, names = rows, self.pairs[int(pair[0])]
        for name in names:
            if name in self.reaching:
                items[name] = Item(self.latents[name][rows].float())
            elif name in self.latents:
                items[read_of(name)] = Item(self.latents[name][rows].float())
            else:
                items[read_of(name)] = Item(self.words["forms"][rows, forms].long())
                items[WRONG] = Item(self.words["wrong"][rows, forms][:, None].long())
                same = self.words["ids"][rows, forms]
        if self.bare:
            items[PROMPT] = Item(self.words["forms"][rows, 0].long())
        if self.captions is not None and "text" in names:
            items[CAPTION] = Item(self.captions[rows, forms].float())
        return Batch(items, same)


Make = Callable[[AnyToAny, str, int, progress.Stage], dict[str, Tensor]]


def _opened(
    system: AnyToAny, name: str, count: int, folder: Path, stage: progress.Stage, make: Make
) -> dict[str, Tensor]:
    """What ``make`` makes of the events, from the file of the modality or into it."""
    codec = system.codec(name)
    settings = {"world": WORLD, "events": count, "modality": name, "what": make.__name__.strip("_")}
    settings |= {"codec": asdict(system.config.member(name).codec)}
    settings |= {"weights": tensors_sha256(codec.state_dict())} if make in (_latents, _captions) else {}
    settings |= {"moved": MOVED} if make is _words else {}
    return kept(folder, settings, partial(make, system, name, count, stage))


def _latents(system: AnyToAny, name: str, count: int, stage: progress.Stage) -> dict[str, Tensor]:
    """Latents of a modality, in half precision, [n c h w]."""
    with torch.no_grad():
        parts = [
            system.latents(name, [target(event("train", i), name) for i in range(start, min(start + CHUNK, count))])
            for start in progress.chunks(stage, f"encoding {name}", "events", count, CHUNK)
        ]
    return {"latents": torch.cat(parts).half()}


def _captions(system: AnyToAny, name: str, count: int, stage: progress.Stage) -> dict[str, Tensor]:
    """Latents of the captions of events in all forms, in half precision, [n k c h w]."""
    parts: list[Tensor] = []
    for start in progress.chunks(stage, "encoding captions", "events", count, CHUNK):
        captions = [event("train", i).captions for i in range(start, min(start + CHUNK, count))]
        with torch.no_grad():
            latents = system.latents(name, [each for forms in captions for each in forms])
        parts.append(latents.half().unflatten(0, (len(captions), -1)))
    return {"latents": torch.cat(parts)}


def _values(system: AnyToAny, name: str, count: int, stage: progress.Stage) -> dict[str, Tensor]:
    """A modality as its codec reads it in training."""
    parts = [
        system.codec(name).prepare([target(event("train", i), name) for i in range(start, min(start + CHUNK, count))])
        for start in progress.chunks(stage, f"drawing {name}", "events", count, CHUNK)
    ]
    return {"values": torch.cat(parts)}


def _words(system: AnyToAny, name: str, count: int, stage: progress.Stage) -> dict[str, Tensor]:
    """The captions of events in all forms and ``wrong`` ones, [n k l], with ``ids`` [n k], equal for equal captions."""
    texts: dict[str, list[tuple[str, ...]]] = {"forms": [], "wrong": []}
    for start in progress.chunks(stage, "reading captions", "events", count, CHUNK):
        for i in range(start, min(start + CHUNK, count)):
            item = event("train", i)
            texts["forms"].append(item.captions)
            texts["wrong"].append(untrue_captions(item.example))
    table: dict[str, int] = {}
    ids = [[table.setdefault(text, len(table)) for text in each] for each in texts["forms"]]
    codec = system.codec(name)
    words = {
        what: codec.prepare([text for each in found for text in each]).int().unflatten(0, (count, -1))
        for what, found in texts.items()
    }
    return {**words, "ids": torch.tensor(ids)}
