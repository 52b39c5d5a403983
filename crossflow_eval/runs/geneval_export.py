"""The images of a run in the folder layout that GenEval's own script evaluates; see ``suites.geneval``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from crossflow.errors import CrossFlowError
from crossflow_eval.runs.store import Store
from crossflow_eval.suites.geneval import IMAGES_PER_PROMPT, METADATA, SUITE, examples


def write_official(run: Path, folder: Path) -> int:
    """Copy the images of a finished run of the suite ``geneval`` into GenEval's folder layout. Returns how many.

    Raises CrossFlowError for a run of another suite or not finished, for a ``folder`` that is not empty, and where
    a file cannot be copied.
    """
    store = Store(run)
    settings = store.settings()
    if settings.suite != SUITE.name or store.result() is None:
        raise CrossFlowError(f"{run} is not a finished run of the suite {SUITE.name}.")
    asked = examples()[: settings.limit]
    try:
        if folder.exists() and any(folder.iterdir()):
            raise CrossFlowError(f"{folder} is not empty; give a new folder.")
        for example in asked:
            samples = folder / example.id / "samples"
            samples.mkdir(parents=True)
            (samples.parent / METADATA).write_text(json.dumps(example.target), "utf-8")
            for k in range(IMAGES_PER_PROMPT):
                shutil.copyfile(store.outputs / f"{example.id}-{k}.png", samples / f"{k:05d}.png")
    except OSError as error:
        raise CrossFlowError(
            f"Cannot copy the images of {run} to {folder}: {error.filename}: {error.strerror}."
        ) from error
    return len(asked) * IMAGES_PER_PROMPT
