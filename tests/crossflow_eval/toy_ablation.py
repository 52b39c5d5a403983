"""Stand-ins for an ablation: a table, trainings, models that know their scores, and suites.

Jobs run in this process; all between them is real.
"""

import hashlib
import json
import logging
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from crossflow.errors import CrossFlowError
from crossflow.recipes import CONFIGS
from crossflow_eval.ablate import jobs, plan
from crossflow_eval.ablate.ablation import Task
from crossflow_eval.ablate.measure import make_references, measure
from crossflow_eval.models import OURS
from crossflow_eval.models.crossflow import Trained
from crossflow_eval.suites import SUITES
from crossflow_eval.types import Example, Output, Suite, Value

TABLE = """
title = "Toys"
paper = "table1"
published = "FID-30K"
task = "toy"
against = ["plain"]
notes = "Toys."
rows = [
  { name = "plain", label = "Plain", method = "Standard FM (baseline)", recipes = ["toy-plain"], guided = true },
  { name = "flow", label = "Flow", method = "CrossFlow", recipes = ["toy-flow", "toy-better"], guided = true },
  { name = "auto", label = "Guided by itself", recipes = ["toy-plain"], guided = true, weaker = [0.2, 0.5] },
  { name = "bare", label = "Bare", recipes = ["toy-plain"] },
]
"""
STEPS, KEPT = 10, (2, 5)
BONUS = {
    "val": {"toy-plain": 0, "toy-flow": 10, "toy-better": 20, 5: 6},
    "test": {"toy-plain": 0, "toy-flow": 60, "toy-better": 30, 2: 40},
}
"""What a recipe and a weaker model add to the scores of a split: validation and test would choose differently."""
BEST = {"val": 2.0, "test": 4.0}
"""The best guidance scale of each split."""


def brightness(split: str, recipe: str, seed: int, scale: float, weaker: int | None) -> int:
    """The grey of every image of a toy model."""
    bonus = BONUS[split]
    return int(60 - 10 * abs(scale - BEST[split]) + 4 * seed + bonus[recipe] + bonus.get(weaker, 0))


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
    """What a toy training has left: its file says recipe, seed and step."""

    name = "model"

    def __init__(self, checkpoint: Path, *, guidance_scale: float, weaker: Path | None = None) -> None:
        self.recipe, seed, _ = checkpoint.read_text().split()
        self.seed, self.scale = int(seed), guidance_scale
        self.weaker = None if weaker is None else int(weaker.read_text().split()[2])
        self.identity = {
            "weights_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
            "guidance_scale": guidance_scale,
            "weaker": self.weaker,
            **{"solver": "euler", "steps": 5, "precision": "float64", "device": "cpu"},
        }

    def generate(self, sources: Sequence[str | Path], seeds: Sequence[int]) -> list[Output]:
        of = self.recipe, self.seed, self.scale, self.weaker
        return [np.full((4, 4, 3), brightness(str(source).split()[0], *of), np.uint8) for source in sources]


class Grey:
    """A reference: the same grey for all."""

    name, identity = "chance", {"grey": 20}

    def read(self, example_id: str, index: int) -> Output:
        return np.full((4, 4, 3), 20, np.uint8)


def suite(split: str, version: str = "1") -> Suite:
    examples = [Example(id=f"{split}-{i}", source=f"{split} {i}") for i in range(6)]
    return Suite(
        name=f"toy-{split}",
        version=version,
        task="t2i",
        output="png",
        examples=lambda root: examples,
        metrics={"geneval": Brightness},
        references={"chance": Grey()} if split == "test" else {},
    )


def trained(checkpoint: Path, recipe: str, seed: int, steps: int, init: Path | None) -> Trained | None:
    if not checkpoint.exists():
        return None
    if checkpoint.read_text() != f"{recipe} {seed} {steps}":
        raise CrossFlowError(f"{checkpoint} was not trained by the recipe {recipe}; remove its folder.")
    return Trained(steps=steps, batch_size=4, precision="fp32", backbone_parameters=100, all_parameters=110)


class Place:
    """The current folder of a toy ablation: what was run in it, and what is to fail."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, folder / "runs" / "ablate"
        self.table = folder / "toy.toml"
        self.table.write_text(TABLE)
        self.trained: list[tuple[str, int]] = []
        self.measured: list[str] = []
        self.fails: set[tuple[str, int]] = set()

    def do(self, program: str, command: str, *words: str) -> None:
        """What the job of that command does."""
        if program == "crossflow":
            assert command == "train"
            self.train(words[0], dict(zip(words[1:-1:2], words[2:-1:2], strict=True)))
            return
        given: dict[str, Any] = dict(zip(words[::2], words[1::2], strict=True))
        name = given.pop("--only")
        options = {key[2:]: int(value) if value.isdigit() else value for key, value in given.items()}
        options |= {"out": Path(given["--out"])}
        options |= {"rows": given["--rows"].split(",")} if "--rows" in given else {}
        self.measured.append(name)
        of = plan.make_plan(options.pop("suite"), **options)
        found = jobs.job_named(of, name)
        if isinstance(found, plan.Measurement):
            measure(of, found)
        else:
            make_references(of, *found)

    def train(self, recipe: str, given: Mapping[str, str]) -> None:
        seed, steps, folder = int(given["--seed"]), int(given["--steps"]), Path(given["--out"])
        self.trained.append((recipe, seed))
        if (recipe, seed) in self.fails:
            raise CrossFlowError("The loss of step 7 is not finite: the run diverged.")
        rows = [json.dumps({"step": step, "flow": 1 / step}) for step in (5, steps)]
        (folder / "log.jsonl").write_text("\n".join(rows) + "\n")
        for step in KEPT:
            (folder / f"model-{step:06d}.safetensors").write_text(f"{recipe} {seed} {step}")
        (folder / "model.safetensors").write_text(f"{recipe} {seed} {steps}")


def popen(place: Place) -> type[subprocess.Popen[bytes]]:
    """``subprocess.Popen`` that runs a toy job in this process."""

    class Here(subprocess.Popen[bytes]):
        def __init__(self, command: Sequence[str], stdout: Any, **rest: Any) -> None:
            self.command, self.log = command, stdout

        def wait(self, timeout: float | None = None) -> int:
            try:
                place.do(*self.command)
            except CrossFlowError as error:
                self.log.write(f"Error: {error}\n".encode())
                return 2
            return 0

        def poll(self) -> int:
            return 0

    return Here


def set_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Make ``folder`` the current one, with ``toy.toml`` in it, and toys of all that its trainings need."""
    place = Place(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(logging.getLogger("crossflow_eval"), "handlers", [])
    monkeypatch.setenv("GIT_DIR", str(folder / "none"))
    for number, name in enumerate(("toy-plain", "toy-flow", "toy-better")):
        recipe = replace(CONFIGS["scenes-tiny"], steps=STEPS, keep_at=KEPT, warmup=1 + number)
        monkeypatch.setitem(CONFIGS, name, recipe)
    for split in ("val", "test"):
        monkeypatch.setitem(SUITES, f"toy-{split}", lambda root, split=split: suite(split))
    task = Task(test="toy-test", validation="toy-val", validation_limit=4, guidance=(1.0, 2.0, 4.0), choose="geneval")
    load = plan.load_scale

    def with_toys(name: str) -> Any:
        scale = load(name)
        return scale.model_copy(update={"seeds": 2, "tasks": {**scale.tasks, "toy": task}})

    monkeypatch.setattr(plan, "load_scale", with_toys)
    monkeypatch.setattr(plan, "finished_training", trained)
    monkeypatch.setattr(plan, "is_finished", lambda *given: trained(*given) is not None)
    monkeypatch.setitem(OURS, "t2i", ToyModel)
    monkeypatch.setattr(jobs, "PROGRAMS", {})
    monkeypatch.setattr(jobs, "subprocess", SimpleNamespace(Popen=popen(place), DEVNULL=None))
    return place
