"""``python -m benchmarks.scenes_budget``: the page is what its records say, and a line is where its points are."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from benchmarks import scenes_budget
from benchmarks.results_page import read_record
from benchmarks.scenes_budget import FIGURE3, PAGE, RECIPES, SEARCH, Line, Trial, report

ROOT = Path(__file__).parents[1]
STEPS = (400, 800, 1_600)


def line(*seeds: tuple[float, float, float]) -> Line:
    return Line(label="one", parameters=1, steps=STEPS, scores=np.array(seeds), n=1_000)


def test_a_line_adds_its_slope_a_doubling_and_meets_its_goal_there():
    rising = line((0.10, 0.20, 0.30), (0.11, 0.22, 0.33), (0.09, 0.18, 0.27))
    assert rising.doubling.mean == pytest.approx(0.1)
    assert rising.at(3_200) == pytest.approx(0.4)
    assert rising.reaches(0.5) == pytest.approx(6_400)


def test_a_line_that_may_be_flat_meets_no_goal():
    assert line((0.1, 0.2, 0.3), (0.3, 0.2, 0.1), (0.2, 0.2, 0.21)).reaches(0.5) is None


def test_the_page_is_what_its_records_say():
    logged = TypeAdapter(dict[str, Trial]).validate_json((ROOT / SEARCH).read_bytes())
    page = report(read_record(ROOT / FIGURE3), {name: logged[name] for name in RECIPES})
    assert page == (ROOT / PAGE).read_text(encoding="utf-8"), f"write it again by {scenes_budget.COMMAND}"
