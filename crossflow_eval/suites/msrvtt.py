"""The suites ``msrvtt*`` on MSR-VTT's test set of 2,990 clips: films of captions, and captions of films.

====================  ======================================================  ==================================
suite                 examples                                                metrics
====================  ======================================================  ==================================
``msrvtt``            a clip each, one of its captions, drawn by its number   CLIPSIM, ViT-B/32
``msrvtt_all``        a caption each, all 20 of every clip                    the same
``msrvtt_vit_l_14``   those of ``msrvtt``                                     CLIPSIM, ViT-L/14
``msrvtt_caption``    a clip each, all its captions as references             BLEU, METEOR, ROUGE-L, CIDEr-D
====================  ======================================================  ==================================

CLIPSIM depends on the variant of CLIP and on the set of prompts, which papers leave out as often as not: Make-A-Video
takes all captions, Video LDM and CoDi one a clip. Which one of a clip no paper says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from crossflow.errors import CrossFlowError
from crossflow.files.devices import own_device
from crossflow_eval.datasets.coco import lot
from crossflow_eval.datasets.msrvtt import FILMS, Clip, read_clips
from crossflow_eval.metrics.caption import CaptionScores
from crossflow_eval.types import Example, Metric, Suite

VERSION = "1"


def _clipsim(variant: str) -> Metric:
    from crossflow_eval.metrics import clipsim

    protocol = {"vit-b-32": clipsim.VIT_B_32, "vit-l-14": clipsim.VIT_L_14}[variant]
    return clipsim.ClipSim(protocol.load(device=own_device("auto")), protocol)


def _one_a_clip(root: Path, clips: Sequence[Clip]) -> list[Example]:
    drawn = [(clip, min(clip.captions, key=lambda each: lot("caption", each[0]))) for clip in clips]
    return [Example(id=clip.name, source=caption, tags={"caption": str(number)}) for clip, (number, caption) in drawn]


def _all_captions(root: Path, clips: Sequence[Clip]) -> list[Example]:
    return [
        Example(id=str(number), source=caption, tags={"clip": clip.name})
        for clip in clips
        for number, caption in clip.captions
    ]


def _captioned(root: Path, clips: Sequence[Clip]) -> list[Example]:
    """The source is the clip's film, or its name where the films are not there; the target all captions."""
    films = root / FILMS
    return [
        Example(
            id=clip.name,
            source=films / f"{clip.name}.mp4" if films.is_dir() else f"{clip.name}.mp4",
            target=[caption for _, caption in clip.captions],
        )
        for clip in clips
    ]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a suite of MSR-VTT asks for: the task, the kind of output, the examples and the metrics."""

    task: str
    output: str
    examples: Callable[[Path, Sequence[Clip]], list[Example]]
    metrics: Mapping[str, Callable[[], Metric]]


_FILMS = Kind(task="t2v", output="webp", examples=_one_a_clip, metrics={"clipsim": partial(_clipsim, "vit-b-32")})
SUITES: dict[str, Kind] = {
    "msrvtt": _FILMS,
    "msrvtt_all": Kind(task="t2v", output="webp", examples=_all_captions, metrics=_FILMS.metrics),
    "msrvtt_vit_l_14": Kind(
        task="t2v", output="webp", examples=_one_a_clip, metrics={"clipsim": partial(_clipsim, "vit-l-14")}
    ),
    "msrvtt_caption": Kind(task="caption", output="txt", examples=_captioned, metrics={"captions": CaptionScores}),
}


def suite(name: str) -> Suite:
    """Build one of ``SUITES``; without a data root its examples raise CrossFlowError."""
    kind = SUITES[name]

    def examples(root: Path | None) -> Sequence[Example]:
        if root is None:
            raise CrossFlowError(f"The suite {name} needs its data root: --data FOLDER.")
        return kind.examples(root, read_clips(root))

    return Suite(
        name=name, version=VERSION, task=kind.task, output=kind.output, examples=examples, metrics=kind.metrics
    )
