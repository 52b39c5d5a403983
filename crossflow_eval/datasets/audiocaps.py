"""AudioCaps (C. D. Kim et al., 2019): its table of captions as published, and recordings in a folder of one's own.

    test.csv            audiocap_id, youtube_id, start_time, caption: a line a caption, five a clip
    test/*.wav          the recordings, by any of the names of :attr:`Clip.names`

The authors publish no sounds. Videos have vanished since, so that everybody's set is a part of the 975 clips, another
one: clips without a recording are left out, and counted in the log.
"""

from __future__ import annotations

import csv
import logging
from dataclasses import dataclass
from pathlib import Path

from crossflow.errors import CrossFlowError, first_few
from crossflow.files.listing import list_folder
from crossflow.files.names import is_text
from crossflow.files.recordings import SUFFIXES

_log = logging.getLogger(__name__)
TABLE, RECORDINGS = "test.csv", "test"
COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")
_NAMES = "YOUTUBE_ID.wav, YYOUTUBE_ID.wav, YOUTUBE_ID_START.wav or AUDIOCAP_ID.wav"
ORIGIN = "fetch dataset/test.csv of github.com/cdjkim/audiocaps"


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip: its id on YouTube, from which second on, and its captions with their ids, as in the table."""

    youtube_id: str
    start: str
    captions: tuple[tuple[str, str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What a file of it may be called: by its id, with Y in front, with the second behind, by a caption's id."""
        short, long = self.youtube_id, f"{self.youtube_id}_{self.start}"
        return short, f"Y{short}", long, f"Y{long}", *(caption for caption, _ in self.captions)


def read_clips(root: Path) -> list[Clip]:
    """The clips of the test set in the table's order. CrossFlowError for a table that cannot be read or is another."""
    path = root / TABLE
    captions: dict[str, list[tuple[str, str]]] = {}
    starts: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for place, row in enumerate(csv.DictReader(file), start=2):
                number, clip, start, caption = (str(row.get(column) or "").strip() for column in COLUMNS)
                if not (number and clip and start and caption and is_text(caption)):
                    raise CrossFlowError(
                        f"{path}, line {place}: expected {', '.join(COLUMNS)}, none of them empty; {ORIGIN}."
                    )
                captions.setdefault(clip, []).append((number, caption))
                starts.setdefault(clip, start)
    except OSError as error:
        raise CrossFlowError(f"Cannot read {path}: {error.strerror}; {ORIGIN}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise CrossFlowError(f"{path} is no table of AudioCaps ({error}); {ORIGIN}.") from error
    if not captions:
        raise CrossFlowError(f"{path} lists no clips; {ORIGIN}.")
    return [Clip(youtube_id=each, start=starts[each], captions=tuple(several)) for each, several in captions.items()]


def with_recordings(root: Path) -> list[tuple[Clip, Path]]:
    """The clips whose recordings are there, with their files. CrossFlowError where none is, or one is there twice."""
    clips, folder = read_clips(root), root / RECORDINGS
    files = list_folder(folder, SUFFIXES, "recording").all_read().by_stem()
    found: list[tuple[Clip, Path]] = []
    for clip in clips:
        of_clip = [name for name in dict.fromkeys(clip.names) if name in files]
        if len(of_clip) > 1:
            raise CrossFlowError(
                f"{first_few(of_clip)} in {folder} are of the same clip of AudioCaps; keep one of them."
            )
        found += [(clip, files[name]) for name in of_clip]
    if not found:
        raise CrossFlowError(f"No recording in {folder} is of a clip of {TABLE}; name them {_NAMES}.")
    if left := len(clips) - len(found):
        _log.warning("%d of %d clips have no recording in %s and are left out.", left, len(clips), folder)
    return found
