"""UCF-101 (K. Soomro et al., 2012) as its two archives unpack, and the part that FVD compares with.

ucfTrainTestlist/trainlist01.txt      CLASS/NAME.avi and the class's number, a line a film
UCF-101/CLASS/NAME.avi                the films
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from crossflow.errors import CrossFlowError, first_few
from crossflow.files.videos import read_film
from crossflow_eval.datasets.coco import lot

LIST, FILMS = "ucfTrainTestlist/trainlist01.txt", "UCF-101"
ORIGIN = "unpack UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip of crcv.ucf.edu into the data root"


@dataclass(frozen=True, kw_only=True)
class Film:
    """One film: its name, its file, and its class in words."""

    name: str
    path: Path
    action: str


def read_films(root: Path) -> list[Film]:
    """The films of the first split's training list, in its order. Raises CrossFlowError where one is not there."""
    path = root / LIST
    try:
        places = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise CrossFlowError(f"Cannot read {path} ({error}); {ORIGIN}.") from error
    if bad := [place for place in places if not re.fullmatch(r"\w+/\w+\.avi", place)]:
        raise CrossFlowError(f"{path} is no list of UCF-101: it has {first_few(bad)}; {ORIGIN}.")
    found = [Film(name=PurePosixPath(each).stem, path=root / FILMS / each, action=_words(each)) for each in places]
    if missing := [film.path.name for film in found if not film.path.is_file()]:
        raise CrossFlowError(
            f"{len(missing)} of {len(found)} films are missing in {root / FILMS}: {first_few(missing)}; {ORIGIN}."
        )
    return found


def read_part(path: Path, frames: int) -> np.ndarray:
    """So many frames in a row of a film, uint8 [frames h w 3], from a place that its name draws.

    Raises CrossFlowError for a film that is shorter, or cannot be read.
    """
    film = read_film(path)
    if len(film) < frames:
        raise CrossFlowError(f"{path} has {len(film)} frames, {frames} are needed; {ORIGIN}.")
    first = lot(path.stem, 0) % (len(film) - frames + 1)
    return film[first : first + frames]


def _words(place: str) -> str:
    """The class of a film in words: "HandstandPushups/…" is "handstand pushups"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", place.partition("/")[0]).lower()
