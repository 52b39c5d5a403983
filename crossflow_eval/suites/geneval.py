"""The suite ``geneval``: GenEval's 553 prompts, four images each, judged by its detector and its classifier of colours.

It also reads the folder that GenEval's own script evaluates::

    00000/metadata.jsonl        the specification of the first prompt, one JSON object
    00000/samples/00000.png     its images, numbered; and so on to 00552

Source: https://github.com/djghosh13/geneval (MIT); ``geneval.jsonl`` is its ``evaluation_metadata.jsonl`` unchanged.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from crossflow.errors import CrossFlowError, first_few
from crossflow.files.devices import own_device
from crossflow.files.plain_json import read_json_file
from crossflow_eval.datasets.folder import ImageFolder, read_folder
from crossflow_eval.judges.local_weights import find_weights
from crossflow_eval.judges.weights import TEXT_TO_IMAGE
from crossflow_eval.models.folder import FolderModel
from crossflow_eval.types import Example, Metric, Suite

_log = logging.getLogger(__name__)
VERSION = "1"
IMAGES_PER_PROMPT = 4
METADATA = "metadata.jsonl"
ASKED = ("tag", "include", "exclude")
"""The keys of a specification by which an image is judged."""
JUDGES = ("mask2former_swin-s", "ViT-L-14")
"""How the files of the two judges begin: the detector and the CLIP that names colours."""


def specifications() -> list[dict[str, Any]]:
    """The specifications of the prompts, in GenEval's order."""
    text = (files("crossflow_eval.suites") / "geneval.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def examples(root: Path | None = None) -> Sequence[Example]:
    """The prompts, called "00000" to "00552" as in GenEval's folders. Raises CrossFlowError for a data root."""
    if root is not None:
        raise CrossFlowError("The suite geneval brings its own prompts; leave --data out.")
    return [
        Example(id=f"{number:05d}", source=each["prompt"], target=each, tags={"task": each["tag"]})
        for number, each in enumerate(specifications())
    ]


def _geneval() -> Metric:
    from crossflow_eval.metrics.geneval import ColorClassifier, Detector, GenEval

    detector, clip = (next(each for each in TEXT_TO_IMAGE if each.file.startswith(name)) for name in JUDGES)
    detector_path, clip_path, device = find_weights(detector), find_weights(clip), own_device("auto")
    return GenEval(
        Detector.from_checkpoint(detector_path, detector.sha256, device),
        ColorClassifier.from_weights(clip_path, clip.sha256, device),
    )


class OfficialFolder(FolderModel):
    """Images made elsewhere, in the folder layout of GenEval's own script.

    Its metadata may give a prompt in other words, which GenEval's script only copies; ``identity`` counts them.
    The images of a prompt are taken in the order of their numbers. Raises CrossFlowError as :func:`read_official`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.images = folder, read_official(folder)
        rewritten = _rewritten(folder)
        self.identity: Mapping[str, Any] = {
            "images_sha256": self.images.sha256,
            "images": len(self.images.files),
            "formats": dict(sorted(Counter(self.images.formats.values()).items())),
        } | ({"rewritten_prompts": rewritten} if rewritten else {})
        if rewritten:
            _log.warning(
                "%d prompts of %s were rewritten; each is judged by its tag, include, exclude.", rewritten, folder
            )


def folder_model(folder: Path) -> FolderModel:
    """The images of a folder: in GenEval's layout where it has subfolders, else named by example and number."""
    nested = folder.is_dir() and any(entry.is_dir() and entry.name[0] != "." for entry in folder.iterdir())
    return OfficialFolder(folder) if nested else FolderModel(folder)


def read_official(folder: Path) -> ImageFolder:
    """Find and check the images of GenEval's folder layout; their keys are ``<example id>-<k>``.

    A folder's metadata is its prompt's where tag, include and exclude are; wording and further keys may differ.
    Files beside the numbered folders, and beside ``samples`` in them, are left alone.

    Raises:
        CrossFlowError: a folder or an image whose name is no number of a prompt or image; metadata that is missing,
            damaged or of another prompt; what :func:`crossflow_eval.datasets.folder.read_folder` refuses of an image.
    """
    known = {example.id: example for example in examples()}
    places = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if foreign := [place.name for place in places if place.name not in known]:
        raise CrossFlowError(
            f"{len(foreign)} of {len(places)} folders in {folder} are not named by a prompt's number, "
            f"{min(known)} to {max(known)}: {first_few(foreign)}."
        )
    problems = {place.name: _metadata_problem(place / METADATA, known[place.name].target) for place in places}
    if bad := [f"{name} ({problem})" for name, problem in problems.items() if problem]:
        raise CrossFlowError(
            f"{len(bad)} of {len(places)} folders in {folder} do not say what was asked for: "
            f"{first_few(bad)}; each needs its prompt's line of evaluation_metadata.jsonl."
        )
    paths: dict[str, Path] = {}
    formats: dict[str, str] = {}
    contents: dict[str, str] = {}
    digest = hashlib.sha256()
    for place in places:
        images = read_folder(place / "samples")
        if odd := [path.name for stem, path in images.files.items() if not stem.isdecimal()]:
            raise CrossFlowError(
                f"{len(odd)} images in {place / 'samples'} are not named by a number: {first_few(odd)}."
            )
        for k, stem in enumerate(sorted(images.files, key=int)):
            key = f"{place.name}-{k}"
            paths[key], formats[key], contents[key] = images.files[stem], images.formats[stem], images.contents[stem]
        digest.update(f"{place.name}\0{images.sha256}\n".encode())
    return ImageFolder(files=paths, formats=formats, contents=contents, sha256=digest.hexdigest())


def _metadata_problem(path: Path, specification: Any) -> str:
    """Why a metadata file is not that of a prompt, in a few words; empty where it is."""
    try:
        found = read_json_file(path)
    except CrossFlowError as error:
        return f"no {METADATA}" if isinstance(error.__cause__, OSError) else f"{METADATA} is not JSON"
    if not isinstance(found, dict):
        return f"{METADATA} is not an object"
    other = [key for key in ASKED if found.get(key) != specification.get(key)]
    return f"{METADATA} is of another prompt: {', '.join(other)}" if other else ""


def _rewritten(folder: Path) -> int:
    """How many folders, all checked, give their prompt in other words."""
    known = {example.id: example.source for example in examples()}
    places = (folder / name / METADATA for name in known)
    found = [(path.parent.name, read_json_file(path)) for path in places if path.is_file()]
    return sum(each.get("prompt") != known[name] for name, each in found)


SUITE = Suite(
    name="geneval",
    version=VERSION,
    task="t2i",
    output="png",
    examples=examples,
    metrics={"geneval": _geneval},
    outputs_per_example=IMAGES_PER_PROMPT,
    made_elsewhere=folder_model,
)
