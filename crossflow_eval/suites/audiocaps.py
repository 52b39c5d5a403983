"""The suites ``audiocaps*`` on AudioCaps' test set: sounds of captions, and captions of sounds.

===========================  ===========================================  =======================================
suite                        examples                                     metrics
===========================  ===========================================  =======================================
``audiocaps``                a clip each, the first caption in the table  FD, IS, KL, FAD of AudioLDM; CLAP score
``audiocaps_caption``        a clip each, all its captions as references  BLEU, METEOR, ROUGE-L, CIDEr-D
``audiocaps_caption_spice``  the same                                     also SPICE and SPIDEr
===========================  ===========================================  =======================================

The examples are the clips whose recordings are in the data root (``datasets.audiocaps``), so n stands beside every
number; captions made elsewhere are scored without recordings too, of all clips. Which of its five captions a clip is
asked by no paper fixes: AudioLDM and those after it draw one. What people rate, overall quality (OVL) and relevance to
the text (REL), is not measured: only people can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from crossflow.errors import CrossFlowError
from crossflow.files.devices import own_device
from crossflow_eval.datasets.audiocaps import RECORDINGS, Clip, read_clips, with_recordings
from crossflow_eval.judges.local_weights import home
from crossflow_eval.metrics.absent import Absent
from crossflow_eval.metrics.caption import CaptionScores
from crossflow_eval.models import media_folder
from crossflow_eval.types import Example, Metric, Suite

VERSION = "1"
NO_SPIDER = "SPIDEr is the mean of CIDEr-D and SPICE, and needs SPICE: take the suite audiocaps_caption_spice"


def _panns() -> Metric:
    from crossflow_eval.judges.panns import published_panns
    from crossflow_eval.metrics.sounds import PannsScores

    return PannsScores(published_panns(device=own_device("auto")))


def _fad() -> Metric:
    from crossflow_eval.judges.vggish import published_vggish
    from crossflow_eval.metrics.sounds import FrechetAudioDistance

    return FrechetAudioDistance(published_vggish(device=own_device("auto")))


def _clap() -> Metric:
    from crossflow_eval.judges.clap import PUBLISHED, load_clap
    from crossflow_eval.metrics.sounds import ClapScore

    return ClapScore(load_clap(PUBLISHED, device=own_device("auto")))


def _with_spice() -> Metric:
    return CaptionScores(spice_models=home(), with_spider=True)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a suite of AudioCaps asks for: the task, the kind of output, and the metrics."""

    task: str
    output: str
    metrics: Mapping[str, Callable[[], Metric]]


SUITES: dict[str, Kind] = {
    "audiocaps": Kind(task="t2a", output="wav", metrics={"panns": _panns, "fad": _fad, "clap_score": _clap}),
    "audiocaps_caption": Kind(
        task="caption", output="txt", metrics={"captions": CaptionScores, "spider": partial(Absent, NO_SPIDER)}
    ),
    "audiocaps_caption_spice": Kind(task="caption", output="txt", metrics={"captions": _with_spice}),
}


def suite(name: str, root: Path | None = None) -> Suite:
    """Build one of ``SUITES`` on the data root; without one its examples raise CrossFlowError."""
    kind = SUITES[name]
    sounds: dict[str, Any] = {}
    if kind.output == "wav":
        sounds["made_elsewhere"] = partial(_made_elsewhere, root)
    return Suite(
        name=name,
        version=VERSION,
        task=kind.task,
        output=kind.output,
        examples=partial(examples, name, kind.task),
        metrics=kind.metrics,
        **sounds,
    )


def examples(name: str, task: str, root: Path | None) -> Sequence[Example]:
    """The clips with recordings, by their ids on YouTube.

    For sounds the source is the first caption and the target the recording; for captions the source is the recording
    and the target all captions. Where there is no folder of recordings, captions have all clips, and names as sources.
    """
    root = _given(root, name)
    if task == "caption" and not (root / RECORDINGS).is_dir():
        return [_to_caption(clip, f"{clip.youtube_id}.wav") for clip in read_clips(root)]
    found = with_recordings(root)
    if task == "t2a":
        return [Example(id=clip.youtube_id, source=clip.captions[0][1], target=path) for clip, path in found]
    return [_to_caption(clip, path) for clip, path in found]


def _to_caption(clip: Clip, source: str | Path) -> Example:
    return Example(id=clip.youtube_id, source=source, target=[caption for _, caption in clip.captions])


def _made_elsewhere(root: Path | None, folder: Path) -> Any:
    names = {clip.youtube_id: clip.names for clip in read_clips(_given(root, "audiocaps"))}
    return media_folder.recordings(folder, names=lambda example_id: names.get(example_id, ()))


def _given(root: Path | None, name: str) -> Path:
    if root is None:
        raise CrossFlowError(f"The suite {name} needs its data root: --data FOLDER.")
    return root
