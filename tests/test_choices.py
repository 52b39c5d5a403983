"""What benchmarks choose, and pages that they write of given values: samplers of any to any, means over seeds."""

import pytest

from benchmarks import any_sampling, scenes_seeds
from benchmarks.any_sampling import TRIED
from crossflow.errors import CrossFlowError
from crossflow.model.checkpoint import save_checkpoint
from crossflow_eval.types import Value
from tests.crossflow.tiny_pipelines import model_of


def cells(told: float) -> dict[str, Value]:
    return {name: Value(mean=told, n=1_000) for name in any_sampling.COLUMNS}


def test_the_best_setting_is_chosen_and_of_two_alike_the_one_of_less_guidance():
    found = {"midpoint-3": cells(0.4), "euler_ancestral-2": cells(0.5), "euler_ancestral-1.5": cells(0.5)}
    assert any_sampling.chosen(found) == "euler_ancestral-1.5"
    page = any_sampling.page(found, "0123456789abcdef")
    assert "sha256 0123456789ab:" in page and "| midpoint | 10 | 3 | 0.400 | 0.400 | 0.400 |" in page
    assert page.count("**euler_ancestral** | **20** | **1.5**") == 1 and page.count("**20**") == 1


def test_solvers_that_are_searched_ask_the_networks_equally_often():
    """A midpoint step takes two evaluations."""
    asked = {each.solver: (each.steps or 0) * (2 if each.solver == "midpoint" else 1) for each in TRIED.values()}
    assert asked == {"midpoint": 20, "euler_ancestral": 20}


def test_a_page_of_seeds_has_means_with_intervals_and_differences_of_one_seed_each():
    def side(*means: float) -> list[dict[tuple[str, str], Value]]:
        return [{key: Value(mean=mean, n=1_000) for key in scenes_seeds.SHOWN} for mean in means]

    page = scenes_seeds.page({"ours": side(0.7, 0.8, 0.9), "theirs": side(0.5, 0.6, 0.7)}, [0, 1, 2], "command")
    row = next(line for line in page.splitlines() if line.startswith("| counting "))
    mean, other, difference, each, _ = (cell.strip() for cell in row.strip("| ").split("|")[1:])
    assert (mean, other) == ("0.800 [0.552, 1.048]", "0.600 [0.352, 0.848]")
    assert difference.startswith("0.200") and each == "0.700, 0.800, 0.900"
    assert "`command`" in page and "Training seeds 0, 1, 2;" in page


def test_a_training_of_another_recipe_is_no_seed_of_this(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    save_checkpoint(run / "run.safetensors", model_of("crossflow"), {"seed": 0, "digest": "other", "step": 1})
    with pytest.raises(CrossFlowError, match="was not trained by the recipe scenes-t2i as it is now"):
        scenes_seeds.seeds_of([run], "scenes-t2i")
