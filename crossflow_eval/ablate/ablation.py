"""An ablation as data: its rows, each one line of TOML, and the scale at which they are trained and measured.

``tables/NAME.toml`` is a table of the paper: what its rows are trained by and compared with. ``scales/NAME.toml`` says,
for each task, on which suite rows are tested, and on which other one all that is chosen is chosen. The columns are
those of the test suite's own table, the published values those of ``crossflow_eval.tables.published``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from crossflow.errors import CrossFlowError, unknown
from crossflow.files.plain_json import read_toml
from crossflow_eval.tables import Column

SCALES = ("smoke", "tiny", "base", "paper")
SUITES: Mapping[str, tuple[str, ...]] = {"table3": ("table3a", "table3b", "table3c", "table3d", "table3e")}
"""The names that stand for several tables."""
Share = Annotated[float, Field(gt=0, le=1)]
T = TypeVar("T", bound=BaseModel)


class Sampled(BaseModel):
    """Options of the measurement of a row: precision, and how a system of any to any is sampled. None: the model's."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    precision: str | None = None
    context: str | None = None
    merge: str | None = None
    method: str | None = None

    @property
    def given(self) -> tuple[tuple[str, str], ...]:
        """Those that are given, by their names."""
        return tuple(self.model_dump(exclude_none=True).items())


class Row(BaseModel):
    """One row: what is trained, and what of it is measured.

    Several ``recipes`` are candidates, of which the one that is best on validation is tested, for each seed by itself.
    ``{scale}`` in their names is the scale's. ``at`` are the shares of the steps whose checkpoints are measured, each a
    line of the table; below 1 the recipe must keep it. ``guided``: the guidance scale is searched. ``weaker``: the
    shares of the steps whose checkpoints are tried as the weaker model of autoguidance. ``begins``: the recipe whose
    model the training goes on from. ``reader``: captions are read from a text-to-image model run backward. ``sampled``
    are options of the measurement. ``seeds`` are the most that it is trained with. ``method`` is the paper's row.

    A recipe may also be a name under which ``crossflow train`` trains several in order: stages that two of them share
    are trained once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    label: str
    recipes: tuple[str, ...] = Field(min_length=1)
    method: str | None = None
    at: tuple[Share, ...] = (1.0,)
    guided: bool = False
    weaker: tuple[Share, ...] = ()
    begins: str | None = None
    reader: bool = False
    sampled: Sampled = Sampled()
    seeds: int | None = Field(default=None, ge=1)
    scales: tuple[str, ...] = SCALES

    @property
    def lines(self) -> list[Line]:
        """The lines of the table that the row makes: one for each share of the steps."""
        if self.at == (1.0,):
            return [Line(row=self, at=1.0, name=self.name, label=self.label)]
        return [
            Line(row=self, at=at, name=f"{self.name}@{at:g}", label=f"{self.label}, {100 * at:.0f} % of the steps")
            for at in self.at
        ]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row at one share of its steps."""

    row: Row
    at: float
    name: str
    label: str


class Ablation(BaseModel):
    """A table of rows that are trained, in the order that they are printed.

    They are compared with the row ``against``; of several names, with the first that the scale has. ``sampled`` are, by
    scale, the options of every row's measurement, where a row has none of its own.

    ``paper`` names the published table, ``published`` its column that verdicts compare. ``refused`` says, by scale, why
    there is none. ``figure``: rows named ``METHOD-SIZE-SHARE`` are points of curves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    title: str
    task: str
    rows: tuple[Row, ...] = Field(min_length=1)
    against: tuple[str, ...] = ()
    notes: str = ""
    paper: str | None = None
    published: str | None = None
    refused: Mapping[str, str] = {}
    sampled: Mapping[str, Sampled] = {}
    figure: bool = False
    walk: tuple[str, str] | None = None

    @model_validator(mode="after")
    def _rows_are_told_apart(self) -> Ablation:
        names = [row.name for row in self.rows]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two rows are called {twice[0]!r}")
        if unknown := [name for name in self.against if name not in names]:
            raise ValueError(f"rows are compared with {unknown[0]!r}, which is no row")
        return self

    def at_scale(self, scale: str) -> list[Row]:
        """The rows that are trained at a scale."""
        return [row for row in self.rows if scale in row.scales]

    def sampled_at(self, scale: str, row: Row) -> Sampled:
        """The options of a row's measurement at a scale."""
        return Sampled(**{**dict(self.sampled.get(scale, Sampled()).given), **dict(row.sampled.given)})

    def main(self, scale: str) -> Row | None:
        """The row that the others are compared with."""
        there = {row.name: row for row in self.at_scale(scale)}
        return next((there[name] for name in self.against if name in there), None)


class Task(BaseModel):
    """How the rows of one task are measured: on the suite ``test``, and chosen on ``validation``.

    ``with_java`` is the suite that takes the place of ``test`` where Java is installed, which some of its values need.

    ``choose`` is the value by which everything is chosen and the verdict is reached; validation looks at the first
    ``validation_limit`` examples, with each of the ``guidance`` scales where a row is guided; none for tasks whose
    models take no scale. ``columns`` replace those of the suite's own table.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    test: str
    with_java: str | None = None
    choose: str
    limit: int | None = None
    validation: str | None = None
    validation_limit: int | None = None
    guidance: tuple[float, ...] = ()
    columns: tuple[Column, ...] = ()

    @model_validator(mode="after")
    def _never_on_the_test(self) -> Task:
        if self.validation == self.test:
            raise ValueError(f"{self.test!r} is reported, so nothing may be chosen on it")
        return self


class Scale(BaseModel):
    """A size of everything: seeds a row, and how each task is measured. With ``data`` trainings read a folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    title: str
    seeds: int = Field(ge=1)
    data: bool = False
    tasks: Mapping[str, Task]


def ablation_names() -> list[str]:
    """Every table that can be trained, those that stand for several last."""
    return [*_names("tables"), *SUITES]


def load_ablations(name: str) -> list[Ablation]:
    """The ablation called ``name``, those that it stands for, or the one in a file ``*.toml`` of your own.

    Raises CrossFlowError for a name that is not there, with the nearest one, and for a file that is no ablation.
    """
    if name.endswith(".toml"):
        path = Path(name)
        try:
            return [_read(Ablation, path.stem, path.read_text(encoding="utf-8"))]
        except (OSError, ValueError) as error:
            raise CrossFlowError(f"Cannot read the ablation {path}: {error}.") from error
    parts = SUITES.get(name, (name,))
    if not set(parts) <= set(_names("tables")):
        raise unknown("ablation", name, ablation_names())
    return [_read(Ablation, part, _packaged("tables", part)) for part in parts]


def load_scale(name: str) -> Scale:
    """The scale called ``name``. Raises CrossFlowError for a name that is not there."""
    if name not in SCALES:
        raise unknown("scale", name, SCALES)
    return _read(Scale, name, _packaged("scales", name))


def _names(folder: str) -> list[str]:
    found = (files("crossflow_eval.ablate") / folder).iterdir()
    return sorted((each.name[:-5] for each in found if each.name.endswith(".toml")), key=_in_order)


def _in_order(name: str) -> tuple[bool, int, str]:
    """Tables by their number, figures last."""
    number = re.search(r"\d+", name)
    return not name.startswith("table"), int(number.group()) if number else 0, name


def _packaged(folder: str, name: str) -> str:
    return (files("crossflow_eval.ablate") / folder / f"{name}.toml").read_text(encoding="utf-8")


def _read(kind: type[T], name: str, text: str) -> T:
    try:
        return kind.model_validate({"name": name, **read_toml(text, f"{name}.toml")})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "as a whole"
        raise CrossFlowError(
            f"{name}.toml cannot be read as {kind.__name__.lower()}: {where}: {first['msg']}."
        ) from error
