"""What an ablation is to do: its table, its rows and seeds, and where everything lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crossflow.errors import CrossFlowError, unknown
from crossflow_eval import tables
from crossflow_eval.tables import Ablation, Table

RUNS = Path("runs") / "ablate"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One training of the ablation: a row's recipe with one seed, in a folder of its own."""

    row: str
    recipe: str
    seed: int
    folder: Path

    @property
    def title(self) -> str:
        """How this training is named wherever it is shown."""
        return f"{self.row}, seed {self.seed}"

    @property
    def checkpoint(self) -> Path:
        """The trained model."""
        return self.folder / "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do. ``steps`` and ``limit`` None are the recipe's own steps and the whole test suite."""

    table: Table
    ablation: Ablation
    out: Path
    rows: tuple[str, ...]
    seeds: int
    steps: int | None = None
    limit: int | None = None

    @property
    def whole(self) -> bool:
        """Whether this is the ablation as its table describes it, not a part or a trial of it."""
        full = set(self.rows) == set(self.ablation.recipes) and self.seeds == self.ablation.seeds
        return full and self.steps is None and self.limit is None

    @property
    def parts(self) -> list[Part]:
        """Every training, row by row."""
        return [
            Part(row=row, recipe=self.ablation.recipes[row], seed=seed, folder=self.out / f"{row}-seed{seed}")
            for row in self.rows
            for seed in range(self.seeds)
        ]

    @property
    def command(self) -> str:
        """The command that does this, its folders left out."""
        rows = () if set(self.rows) == set(self.ablation.recipes) else ("--rows", ",".join(self.rows))
        given = {"--seeds": self.seeds, "--steps": self.steps, "--limit": self.limit}
        options = [str(word) for name, value in given.items() if value is not None for word in (name, value)]
        return " ".join(("crossflow-eval", "ablate", "--suite", self.ablation.name, *options, *rows))


def available() -> dict[str, Table]:
    """The tables that describe an ablation, by the ablation's name."""
    found = map(tables.load_table, tables.table_names())
    return {table.ablation.name: table for table in found if table.ablation is not None}


def make_plan(
    suite: str,
    *,
    out: Path | None = None,
    rows: Sequence[str] = (),
    seeds: int | None = None,
    steps: int | None = None,
    limit: int | None = None,
) -> Plan:
    """Check the options of ``crossflow-eval ablate``. Raises CrossFlowError."""
    known = available()
    if suite not in known or (ablation := known[suite].ablation) is None:
        raise unknown("ablation", suite, known)
    for row in rows:
        if row not in ablation.recipes:
            raise unknown(f"row of {suite}", row, ablation.recipes)
    for name, number in (("--seeds", seeds), ("--steps", steps)):
        if number is not None and number < 1:
            raise CrossFlowError(f"{name} must be at least 1, got {number}.")
    return Plan(
        table=known[suite],
        ablation=ablation,
        out=out or RUNS / suite,
        rows=tuple(row for row in ablation.recipes if not rows or row in rows),
        seeds=ablation.seeds if seeds is None else seeds,
        steps=steps,
        limit=limit,
    )
