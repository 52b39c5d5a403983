"""Stand-ins for an ablation: two tables, a trainer, models that know their scores, suites and references."""

import hashlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from crossflow_eval import tables
from crossflow_eval.ablate import measure, train
from crossflow_eval.models.crossflow import Training
from crossflow_eval.suites import SUITES
from crossflow_eval.types import Example, Output, Suite, Value

TABLE = """
title = "Toy"
notes = "Toys."
transpose = true
[ablation]
name = "toy"
recipes = { plain = "recipe-a", flow = "recipe-b" }
seeds = 3
test = "toy-test"
[ablation.guidance]
scales = [1, 2, 4]
validation = "toy-val"
limit = 4
choose = "geneval"
[[columns]]
label = "GenEval"
value = "geneval"
[[columns]]
label = "parameters"
value = "parameters/all"
decimals = 0
[[rows]]
label = "Plain"
models = ["plain"]
[[rows]]
label = "Flow"
models = ["flow"]
[[rows]]
label = "Chance"
role = "chance"
"""
TOLD = """
title = "Told"
transpose = true
[ablation]
name = "told"
recipes = { plain = "recipe-a", flow = "recipe-b" }
seeds = 3
test = "toy-told"
[[columns]]
label = "length"
value = "length"
[[columns]]
label = "training steps"
value = "training/steps"
decimals = 0
[[rows]]
label = "Plain"
models = ["plain"]
[[rows]]
label = "Flow"
models = ["flow"]
[[rows]]
label = "One word"
role = "trivial"
[[rows]]
label = "The truth"
role = "ceiling"
"""
TRAINER = """
import json, pathlib, sys, time
recipe, *rest = sys.argv[1:]
given = dict(zip(rest[::2], rest[1::2]))
folder = pathlib.Path(given["--out"])
with (folder.parent / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
(folder / "state.safetensors").touch()
if recipe == "recipe-b" and "--resume" not in rest and (folder.parent / "break").exists():
    sys.exit("Error: The disk is full.")
(folder / "log.jsonl").write_text(json.dumps({"step": 10}) + "\\n")
(folder / "model.safetensors").write_text(f"{recipe} {given['--seed']}")
"""


class Brightness:
    """A metric of toy images: their mean value, on a scale of 0 to 1."""

    protocol: ClassVar = {"formula": "mean", "interval": "none"}
    higher_is_better: ClassVar = {"geneval": True}

    def __init__(self) -> None:
        self.seen: list[float] = []

    def update(self, examples: Sequence[Example], outputs: Sequence[Output]) -> None:
        self.seen += [float(np.mean(output)) / 200 for output in outputs]

    def compute(self) -> dict[str, Value]:
        return {"geneval": Value(mean=float(np.mean(self.seen)), n=len(self.seen))}


class ToyModel:
    """On validation the best scale is 2, on the test it would be 4."""

    name = "model"
    best: ClassVar = {"val": 2, "test": 4}

    def __init__(self, checkpoint: Path, *, guidance_scale: float) -> None:
        weights = checkpoint.read_bytes()
        self.scale, self.offset = guidance_scale, int(weights[-1:]) * 3 + 10 * (b"recipe-b" in weights)
        self.identity = {
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "guidance_scale": guidance_scale,
            **{"solver": "euler", "steps": 5, "precision": "float64", "device": "cpu"},
        }

    def generate(self, sources: Sequence[str | Path], seeds: Sequence[int]) -> list[Output]:
        miss = [abs(self.scale - self.best[str(source).split()[0]]) for source in sources]
        return [np.full((4, 4, 3), int(150 - 10 * each + self.offset), np.uint8) for each in miss]


class ToyTeller(ToyModel):
    """The same for captions: as many letters as the seed says."""

    def generate(self, sources: Sequence[str | Path], seeds: Sequence[int]) -> list[Output]:
        assert self.scale == 1
        return ["x" * (10 + self.offset) for _ in sources]


class Said:
    """A reference that says a word."""

    def __init__(self, name: str, word: str) -> None:
        self.name, self.word, self.identity = name, word, {"says": word}

    def read(self, example_id: str, index: int) -> str:
        return self.word


class Length:
    """A metric of toy captions: their mean length."""

    protocol: ClassVar = {"formula": "letters", "interval": "none"}
    higher_is_better: ClassVar = {"length": True}

    def __init__(self) -> None:
        self.seen: list[int] = []

    def update(self, examples: Sequence[Example], outputs: Sequence[Output]) -> None:
        self.seen += map(len, outputs)

    def compute(self) -> dict[str, Value]:
        return {"length": Value(mean=float(np.mean(self.seen)), n=len(self.seen))}


def toy_suite(split: str) -> Suite:
    examples = [Example(id=f"{split}-{i}", source=f"{split} {i}") for i in range(6)]
    return Suite(
        name=f"toy-{split}",
        version="1",
        task="caption" if split == "told" else "t2i",
        output="txt" if split == "told" else "png",
        examples=lambda root: examples,
        metrics={"length": Length} if split == "told" else {"geneval": Brightness},
        references={"trivial": Said("trivial", "a"), "ceiling": Said("ceiling", "x" * 30)} if split == "told" else {},
    )


def trained(checkpoint: Path, recipe: str, seed: int, steps: int | None = None) -> Training | None:
    if not checkpoint.exists():
        return None
    parameters = {"recipe-a": 110, "recipe-b": 120}[recipe]
    return Training(
        steps=steps or 10, batch_size=4, precision="fp32", backbone_parameters=100, all_parameters=parameters
    )


def set_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``folder`` the current one, and two ablations available: ``toy`` with guidance, ``told`` without."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(logging.getLogger("crossflow_eval"), "handlers", [])
    monkeypatch.setenv("GIT_DIR", str(folder / "none"))
    (folder / "trainer.py").write_text(TRAINER)
    monkeypatch.setattr(train, "TRAIN", (sys.executable, str(folder / "trainer.py")))
    monkeypatch.setattr(train, "finished_training", trained)
    monkeypatch.setattr(measure, "finished_training", trained)
    monkeypatch.setattr(measure, "OURS", {"t2i": ToyModel, "caption": ToyTeller})
    for split in ("val", "test", "told"):
        monkeypatch.setitem(SUITES, f"toy-{split}", lambda root, split=split: toy_suite(split))
    texts = {"told": TOLD, "toy": TABLE}
    monkeypatch.setattr(tables, "table_names", lambda: list(texts))
    monkeypatch.setattr(tables, "load_table", lambda name: tables.parse_table(name, texts[name]))
