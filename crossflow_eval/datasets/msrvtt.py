"""MSR-VTT (J. Xu et al., 2016): its clips and captions as published, and their films where they are there.

test_videodatainfo.json    videos (video_id, split) and sentences (video_id, caption, sen_id); or the whole set's
TestVideo/<video_id>.mp4   the films, which only a model that captions them must see
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from crossflow.errors import CrossFlowError
from crossflow.files.names import is_text
from crossflow.files.plain_json import read_json_file

LISTS = ("test_videodatainfo.json", "MSRVTT_data.json")
FILMS = "TestVideo"
ORIGIN = "fetch the test set's test_videodatainfo.json of MSR-VTT, 2016"


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip of the test set with its captions, each with its number, in the order of the numbers."""

    name: str
    captions: tuple[tuple[int, str], ...]


def read_clips(root: Path) -> list[Clip]:
    """The test set's clips that have captions, in the list's order.

    Raises CrossFlowError where there is no list, or one that is not MSR-VTT's.
    """
    path = next((root / name for name in LISTS if (root / name).is_file()), root / LISTS[0])
    record = read_json_file(path, ORIGIN)
    captions: dict[str, dict[int, str]] = {}
    try:
        for video in record["videos"]:
            if video["split"] == "test":
                captions[str(video["video_id"])] = {}
        for sentence in record["sentences"]:
            number, caption = int(sentence["sen_id"]), str(sentence["caption"]).strip()
            if sentence["video_id"] in captions and caption and is_text(caption):
                captions[sentence["video_id"]][number] = caption
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CrossFlowError(f"{path} is not a list of MSR-VTT ({error!r}); {ORIGIN}.") from error
    clips = [Clip(name=name, captions=tuple(sorted(several.items()))) for name, several in captions.items() if several]
    if not clips:
        raise CrossFlowError(f"{path} lists no clips of the test set with captions; {ORIGIN}.")
    return clips
