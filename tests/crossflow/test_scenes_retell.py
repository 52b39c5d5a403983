"""Scenes asked for anew: still true of them, by the judge that knows."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from crossflow.errors import CrossFlowError
from crossflow.files.progress import silent
from crossflow.recipes import CONFIGS
from crossflow.recipes.recipe import PLACES, SceneData, Stage
from crossflow.scenes.caption import PLACED, TASKS, places
from crossflow.scenes.negatives import OPPOSITE
from crossflow.scenes.retell import FORMS, SIDES, captions_of, retold, sided
from crossflow.scenes.spec import COLORS, HELD_OUT, SHAPES, Scene
from crossflow.scenes.splits import example, relations
from crossflow.training.data import open_data
from crossflow.training.data.scenes import TextPairs

ITEMS = [example("train", index) for index in range(600)]
RELATION = {name.split()[0]: name for name in OPPOSITE} | {"top": "above", "bottom": "below"}


def holds(prompt: str, scene: Scene) -> bool:
    """Whether a prompt of two shapes is true of a scene of two, by its own words."""
    words = prompt.removeprefix("a photo of ").replace(" on the", " at the").split()
    places = {each.shape: (int(each.y * 4), int(each.x * 4)) for each in scene.objects}
    named = [word for word in words if word in SHAPES]
    if not set(named) <= places.keys():
        return False
    looks = {(each.color, each.shape) for each in scene.objects}
    colored = {(before, word) for before, word in pairwise(words) if word in SHAPES and before not in ("a", "an")}
    said = [RELATION[word] for word in words if word in RELATION]
    true = relations(places[named[0]], places[named[1]])
    return colored <= looks and (not said or said[0] in true)


def test_what_is_told_is_true_and_what_is_not_true_is_not():
    for item in ITEMS:
        if item.task in FORMS:
            prompt, others = retold(item, 2, sides=0.5)
            assert holds(prompt, item.scene), prompt
            assert not [other for other in others if holds(other, item.scene)]


def test_scenes_of_one_shape_keep_their_prompt():
    assert all(retold(item, 0)[0] == item.prompt for item in ITEMS if item.task not in FORMS)


def test_forms_that_need_binding_are_asked_for_most_and_always_alike():
    told = [retold(item, 1)[0] for item in ITEMS if item.task in FORMS]
    assert told == [retold(item, 1)[0] for item in ITEMS if item.task in FORMS]
    related = [prompt for prompt in told if any(f" {relation} " in prompt for relation in OPPOSITE)]
    assert 0.4 < len(related) / len(told) < 0.6


def test_a_share_of_relations_is_told_by_sides():
    told = [retold(item, 1, sides=0.5)[0] for item in ITEMS if item.task in FORMS]
    share = sum(any(f" {side}" in prompt for side in SIDES.values()) for prompt in told) / len(told)
    assert 0.15 < share < 0.35
    with pytest.raises(CrossFlowError, match=r"sides is 0\.5"):
        SceneData(sides=0.5)


def test_no_pair_is_named_that_is_held_out():
    pairs = {f"{color} {shape}" for shape, color in HELD_OUT}
    named = [prompt for item in ITEMS for each in [retold(item, 2)] for prompt in (each[0], *each[1])]
    assert not [prompt for prompt in named if any(pair in prompt for pair in pairs)]


def test_a_relation_is_told_by_its_sides():
    item = next(item for item in ITEMS if item.task == "position")
    target, other = item.specification["include"]
    relation = other["position"][0]
    told = sided(item.specification)
    first, second = f"{other['class']} {SIDES[relation]}", f"{target['class']} {SIDES[OPPOSITE[relation]]}"
    assert told.index(first) < told.index(second)


def test_places_name_every_shape_and_neither_colour_nor_light():
    for item in ITEMS:
        said = places(item.scene)
        assert not [color for color in COLORS if color in said]
        named = Counter(each.shape for each in item.scene.objects)
        assert all(shape in said for shape in named)
        assert said.count(" at the ") + said.count(" in the middle") == len(item.scene.objects)
    assert len({places(item.scene) for item in ITEMS}) < 0.9 * len({item.captions[3] for item in ITEMS})


def test_training_samples_places_beside_prompts(tmp_path):
    recipe = replace(CONFIGS["scenes-tiny"], data=SceneData(count=12, captions=(0, PLACES)))
    pairs = open_data(recipe, None, 0).pairs(recipe.model.build(), tmp_path, silent)
    assert isinstance(pairs, TextPairs)
    table = sorted(
        {text for i in range(12) for text in (example("train", i).prompt, places(example("train", i).scene))}
    )
    rows = [[table.index(each.prompt), table.index(places(each.scene))] for each in ITEMS[:12]]
    assert pairs.captions.tolist() == rows


def test_a_scene_has_six_captions_of_which_the_first_asks():
    for item in ITEMS:
        every = captions_of(item, "asked")
        assert every == ("asked", *item.captions[1:], places(item.scene))
        assert every[PLACED].count(" at the ") + every[PLACED].count(" in the middle") == len(item.scene.objects)


def test_a_stage_reads_its_own_captions(tmp_path):
    data = SceneData(count=12, captions=(0, 0, 1, PLACED))
    stages = (Stage(steps=1, captions=(1,)), Stage(steps=1, captions=(PLACED, 0, 0)), Stage(steps=1))
    recipe = replace(CONFIGS["scenes-tiny"], data=data, stages=stages, steps=3)
    pairs = open_data(recipe, None, 0).pairs(recipe.model.build(), tmp_path, silent)
    held = {kind: pairs.captions[:, column] for column, kind in enumerate(data.captions)}
    for step, kinds in enumerate(({1}, {PLACED, 0}, {0, 1, PLACED})):
        rows, captions = pairs.pick(step, 200, torch.Generator().manual_seed(step)).unbind(1)
        read = [
            {kind for kind in held if held[kind][row] == caption} for row, caption in zip(rows, captions, strict=True)
        ]
        assert all(found & kinds for found in read) and set.union(*read) >= kinds
    asked = (pairs.captions[rows, 0] == captions).double().mean()
    assert 0.3 < asked < 0.7


def test_a_stage_reads_no_caption_that_the_data_have_not():
    recipe = CONFIGS["scenes-tiny"]
    with pytest.raises(CrossFlowError, match=r"A stage reads caption 3; the data have \(0,\)"):
        replace(recipe, stages=(Stage(steps=recipe.steps, captions=(PLACED,)),))


def test_training_reads_what_is_retold(tmp_path):
    recipe = replace(CONFIGS["scenes-tiny"], data=SceneData(count=48, retold=True))
    pairs = open_data(recipe, None, 0).pairs(recipe.model.build(), tmp_path, silent)
    assert isinstance(pairs, TextPairs)
    rows = pairs.captions[:, 0]
    prompts = [retold(example("train", index), 0)[0] for index in range(48)]
    same = [[a == b for b in prompts] for a in prompts]
    assert (rows[:, None] == rows[None, :]).tolist() == same
    assert len(set(prompts)) > len(TASKS)
