"""Gains: how far runs come from outputs made alone to real data, in every format, and which runs have none."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from crossflow.errors import CrossFlowError
from crossflow_eval.report import FORMATS, Entry, render
from crossflow_eval.stats import gain
from crossflow_eval.tables import load_table
from crossflow_eval.types import Result, Role, Settings, Value

TASK = "text/image+audio"
VALUES = {name: Value(mean=0.5, n=200) for name in ("coherence", f"coherence/{TASK}", "sync_error/text/audio+video")}


def run(
    name: str, share: float, *, role: Role = "model", context: str = "others", seed: int = 0, n: int = 200
) -> Entry:
    """A run whose outputs agree on this ``share`` of what is untold, each example as it does by chance."""
    agreed = np.random.default_rng(len(name)).random(n) < share
    settings = Settings(
        suite="scenes-any-joint",
        suite_version="1",
        model=name,
        identity={"context": context, "method": "together", "weights_sha256": name[:3]},
        seed=seed,
    )
    result = Result(
        settings=settings,
        protocol={"coherence": {"interval": "bootstrap"}, "sync": {"interval": "bootstrap"}},
        n=n,
        values=VALUES,
        higher_is_better=dict.fromkeys(VALUES, True),
        data_sha256="cd" * 32,
        environment={},
    )
    rows = [{"id": f"{i}", "index": 0, "task": TASK, "coherence": float(each)} for i, each in enumerate(agreed)]
    return Entry(result=result, role=role, rows=rows)


ALONE, REAL = run("alone", 0.2, context="none"), run("real", 0.98, role="ceiling")


def gains(entries: list[Entry]) -> dict[str, dict[str, str]]:
    """The lines of the gains' table by their row, of what has a value."""
    lines = csv.DictReader(io.StringIO(render(entries, "csv")))
    return {line["row"]: line for line in lines if line["value"] == f"gain/coherence/{TASK}" and line["mean"]}


def test_a_gain_is_the_share_of_the_way_of_the_means():
    base, real = np.zeros(40), np.ones(40)
    found = gain(np.arange(40) % 4 / 3, base, real)
    assert found is not None and found.ci_low is not None and found.ci_high is not None
    assert found.mean == pytest.approx(0.5) and found.ci_low < 0.5 < found.ci_high < 0.65
    assert gain(base, base, real) == Value(mean=0.0, n=40)
    assert gain(real, base, base) is None, "there is no way to go"
    errors = gain(np.full(40, 1.0), np.full(40, 2.0), np.arange(40) % 2 * 0.5)
    assert errors is not None and errors.mean == pytest.approx(1 / 1.75), "of errors a fall is a gain"


def test_examples_without_a_score_count_where_they_have_one():
    run, base, real = np.full((3, 40), np.nan)
    run[:20], base[:30], real[10:] = 0.5, 0.0, 1.0
    found = gain(run, base, real)
    assert found is not None and (found.mean, found.n) == (0.5, 40)
    with pytest.raises(ValueError, match="at least one score"):
        gain(np.full(40, np.nan), base, real)


def test_a_gain_whose_direction_is_not_sure_has_no_interval():
    noise = np.random.default_rng(0).random((3, 30))
    found = gain(*noise)
    assert found is not None and found.ci_low is None


@pytest.mark.parametrize("format", FORMATS)
def test_runs_of_one_suite_stand_in_a_table_of_gains_beside_their_coherence(format):
    text = render([ALONE, REAL, run("system", 0.8), run("released", 0.2, context="self")], format)
    assert "system" in text and "released" in text
    if format != "csv":
        assert "Gain in coherence over independent outputs" in text and "Coherence of outputs made together" in text
        assert "image + audio" in text


def test_a_gain_lies_between_the_base_and_real_data():
    found = gains([ALONE, REAL, run("system", 0.8), run("released", 0.2, context="self")])
    assert set(found) == {"system", "released"}, "the base has none"
    system, released = ({name: float(line[name]) for name in ("mean", "ci_low", "ci_high")} for line in found.values())
    assert 0.6 < system["ci_low"] < system["mean"] < system["ci_high"] < 1
    assert released["ci_low"] < 0 < released["ci_high"]


def test_without_a_base_or_a_ceiling_there_is_no_gain():
    for entries in ([REAL, run("system", 0.8), run("other", 0.7)], [ALONE, run("system", 0.8)], [ALONE, REAL]):
        assert gains(entries) == {}


@pytest.mark.parametrize(("change", "what"), [({"seed": 1}, r"their seed \(1 and 0\)"), ({"n": 100}, "the number of")])
def test_a_run_on_other_prompts_or_seeds_than_the_base_has_no_gain(change, what):
    entries = [ALONE, REAL, run("system", 0.8, **change)]
    with pytest.raises(CrossFlowError, match=f"differ in {what}"):
        render(entries)
    assert "No gain of system" in render([*entries, run("third", 0.7)], allow_mixed=True)


def test_of_several_bases_it_is_that_of_the_same_weights():
    other = run("also alone", 0.2, context="none")
    with pytest.raises(CrossFlowError, match=r"can be counted from alone .* and from also alone"):
        render([ALONE, other, REAL, run("system", 0.8)])
    assert set(gains([ALONE, other, REAL, run("alone too", 0.8), run("also this", 0.7)])) == {"alone too", "also this"}


def test_every_gain_is_of_a_value_of_the_suite():
    table = load_table("scenes-any-joint")
    made = table.matrices[0]
    known = {(column.value or "").format(row=row) for row in made.rows for column in made.columns}
    for across in table.across:
        assert {value.removeprefix("gain/") for value in across.columns.values()} <= known
        marked = {across.columns[label].partition("coherence/")[2] for label in across.marked}
        assert marked == (set(made.marked) if across.marked else set())
