"""What the search for a recipe reads of a model: pairs of prompts, distances of sources, faults of images."""

from collections import Counter

import numpy as np
import pytest
import torch

from benchmarks.search import TRAINED, TRIALS, found_in, page, state
from benchmarks.source_distance import FAULTS, KINDS, PAIRS, distances, faults, pairs, report
from crossflow.files.tensors import write_tensors
from crossflow.flow.gaussian import Gaussian
from crossflow.scenes.caption import TASKS, specification
from crossflow.scenes.parse import Found
from crossflow.scenes.spec import HELD_OUT

MASK = np.ones((1, 1), dtype=bool)


def seen(shape: str, color: str, column: int, row: int = 2) -> Found:
    """An object of six pixels a side in a cell of eight."""
    return Found(shape, color, (8 * column + 1, 8 * row + 1, 8 * column + 7, 8 * row + 7), MASK, 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_differ_in_the_words_that_their_kind_says_alone(kind):
    found = pairs(kind)
    assert found == pairs(kind)
    assert 10 < len(set(found)) <= PAIRS
    for one, other in found:
        changed = Counter(one.split()) - Counter(other.split())
        moved = [a for a, b in zip(one.split(), other.split(), strict=True) if a != b]
        same_words = not {word for word in changed if word not in ("a", "an")}
        assert one != other
        assert same_words is (kind in ("colours swapped", "roles exchanged"))
        assert len([word for word in moved if word not in ("a", "an")]) == (2 if same_words else 1)


def test_no_pair_names_what_is_held_out():
    named = [prompt for pair in pairs("colours swapped") for prompt in pair]
    assert not [prompt for prompt in named for shape, color in HELD_OUT if f"{color} {shape}" in prompt]


def test_a_distance_counts_every_dimension_in_its_own_deviation():
    shape = (1, 2, 1, 1)
    mean, log_var = torch.zeros(shape), torch.tensor([0.0, np.log(4.0)]).reshape(shape).float()
    one, other = Gaussian(mean, log_var), Gaussian(torch.tensor([3.0, 8.0]).reshape(shape), log_var)
    assert distances(one, other).tolist() == pytest.approx([5.0])


TWO = specification("color_attr", [("ring", "red"), ("box", "blue")])
LEFT = specification("position", [("box", ""), ("ring", "")], "left of")


@pytest.mark.parametrize(
    ("found", "asked", "fault"),
    [
        ([seen("ring", "red", 0), seen("box", "blue", 2)], TWO, []),
        ([seen("ring", "red", 0)], TWO, ["missing object"]),
        ([seen("ring", "blue", 0), seen("box", "red", 2)], TWO, ["colours swapped"]),
        ([seen("ring", "green", 0), seen("box", "blue", 2)], TWO, ["wrong colour"]),
        ([seen("ring", "red", 0), seen("box", "blue", 2)], LEFT, []),
        ([seen("ring", "red", 3), seen("box", "blue", 1)], LEFT, ["wrong side"]),
        ([seen("ring", "red", 1, 0), seen("box", "blue", 1, 3)], LEFT, ["another side"]),
        ([seen("ring", "red", 3)], LEFT, ["missing object"]),
        ([seen("ring", "red", 0)], specification("counting", [("ring", "")] * 2), ["wrong number"]),
        ([seen("ring", "red", 0)], specification("colors", [("ring", "blue")]), ["wrong colour"]),
    ],
)
def test_a_fault_has_one_kind(found, asked, fault):
    assert faults(found, asked) == fault
    assert set(fault) <= set(FAULTS)


def test_pages_hold_every_kind_of_pair_task_and_fault():
    scores = {task: 0.5 for task in (*TASKS, "mean")}
    wrong = dict.fromkeys(FAULTS, 3)
    apart = dict.fromkeys(KINDS, 12.5)
    name = next(iter(TRAINED))
    row = {"digest": TRAINED[name].digest(0), "hardware": "a machine", "steps": 10, "cpu_minutes": 1.5}
    row |= {"parameters": 2_500_000, "distances": apart, "scores": {"2": scores}, "faults": {"2": wrong}}
    for text in (report("model", apart, scores, wrong, 240, "2"), page({name: row})):
        assert not [each for each in (*KINDS, *TASKS, *FAULTS) if each not in text]
    assert TRIALS[name].change in page({name: row})
    assert "2.50 M" in page({name: row})
    without = page({name: row | {"distances": {}}})
    assert "12.5" not in without


def test_the_log_says_how_far_every_trial_is_and_which_version_made_it():
    name = next(iter(TRAINED))
    stopped = {"digest": TRAINED[name].digest(0), "steps": 1_500}
    assert state(name, None) == "not started"
    assert state(name, stopped) == "stopped, not measured"
    assert state(name, stopped | {"distances": {}}) == "measured"
    assert state(name, stopped | {"digest": "0" * 12}) == "stopped, not measured; by an earlier version"
    text = page({name: stopped})
    assert text.count("| not started | 0") == len(TRIALS) - 1
    assert f"| stopped, not measured | 1,500 of {TRAINED[name].steps:,} |" in text


def test_a_folder_tells_how_far_its_trial_is(tmp_path):
    assert found_in(tmp_path) is None
    write_tensors(tmp_path / "model.safetensors", {}, {"digest": "abc", "step": 7})
    assert found_in(tmp_path) == {"digest": "abc", "steps": 7}
    (tmp_path / "measured.json").write_text('{"digest": "abc", "steps": 9}')
    assert found_in(tmp_path) == {"digest": "abc", "steps": 9}


def test_every_trial_says_what_it_starts_from():
    assert [name for name, trial in TRIALS.items() if trial.of not in TRIALS] == ["start", "small"]
    assert len({recipe.digest(0) for recipe in TRAINED.values()}) == len(TRAINED)
