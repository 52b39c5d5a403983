"""Files that stand in for the weights or archives that were to be downloaded, named as what they are."""

import os
from pathlib import Path

from crossflow.errors import CrossFlowError

POINTER = b"version https://git-lfs.github.com/spec/"


INSIDE = {
    "model_index.json": "a pipeline of diffusers is measured by crossflow-eval t2i --model diffusers:{folder}",
    "model.safetensors": "give {folder}/model.safetensors",
}
"""What to do instead of giving a folder, by a file that it has."""


def _instead(folder: Path) -> str:
    found = next((do for name, do in INSIDE.items() if (folder / name).exists()), "give the file in it")
    return found.format(folder=folder)


def refuse_stand_in(path: str | Path) -> None:
    """Raise CrossFlowError for a Git LFS pointer, a web page or a folder; others are left to readers."""
    if os.path.isdir(path):
        raise CrossFlowError(f"{path} is a folder, and a file is expected: {_instead(Path(path))}.")
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError:
        return
    if head.startswith(POINTER):
        raise CrossFlowError(
            f"{path} is a Git LFS pointer, and not the file that it points to: run `git lfs pull` in its repository, "
            "or download the file itself."
        )
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head")):
        raise CrossFlowError(
            f"{path} is a web page, and not the file that was to be downloaded: its address asks to log in or agree "
            "first, or is that of a page about the file; download it again."
        )
