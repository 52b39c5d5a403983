"""Prompts that a scene is not, by the judge that knows; and a recipe that trains on them."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from crossflow.errors import CrossFlowError
from crossflow.files.progress import silent
from crossflow.flow.losses import draw
from crossflow.losses import KL, Contrast
from crossflow.modalities.tokens import TokensConfig
from crossflow.recipes import CONFIGS
from crossflow.recipes.recipe import SceneData
from crossflow.scenes import sense
from crossflow.scenes.caption import PLACED
from crossflow.scenes.negatives import negatives, untrue, untrue_captions
from crossflow.scenes.parse import read
from crossflow.scenes.render import render
from crossflow.scenes.spec import HELD_OUT
from crossflow.scenes.splits import example
from crossflow.training.data import open_data
from crossflow.training.train import train
from crossflow_eval.judges.geneval.detection import Detection
from crossflow_eval.metrics.geneval.rules import judge

ITEMS = [example("train", index) for index in range(240)]


def test_there_are_two_of_every_prompt_and_none_is_its_own():
    for item in ITEMS:
        found = negatives(item, 2)
        assert len({item.prompt, *found}) == 3
        assert found == negatives(item, 2)
        assert negatives(item, 1) == found[:1]
        assert negatives(item, 0) == ()


def test_none_names_a_pair_that_is_held_out():
    named = Counter(prompt for item in ITEMS for prompt in negatives(item, 2))
    assert not [prompt for prompt in named for shape, color in HELD_OUT if f"{color} {shape}" in prompt]


def test_the_judge_finds_none_true():
    for item in ITEMS:
        found = [
            Detection(label=each.shape, score=1.0, box=each.box, color=each.color) for each in read(render(item.scene))
        ]
        assert judge(found, item.specification).correct
        assert not [each["prompt"] for each in untrue(item, 2) if judge(found, each).correct]


def test_colours_and_sides_are_exchanged_first():
    """The first negative of such a prompt has its very words, in another order or with the opposite relation."""
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}
    for item in ITEMS:
        first = negatives(item, 1)[0].split()
        if item.task == "position":
            assert first == [opposite.get(word, word) for word in item.prompt.split()]
        hues = {each.color for each in item.scene.objects}
        swapped = [(a.shape, b.color) for a, b in permutations(item.scene.objects)]
        if item.task == "color_attr" and not set(swapped) & set(HELD_OUT):
            assert Counter(word for word in first if word in hues) == Counter(hues)


def permutations(objects):
    return list(zip(objects, objects[::-1], strict=True))


def test_a_recipe_trains_on_them(tmp_path):
    tiny = CONFIGS["scenes-tiny"]
    losses = (KL(weight=1e-2), Contrast(weight=0.1, hard_negatives=True))
    model = replace(tiny.model, losses=losses)
    recipe = replace(tiny, model=model, data=SceneData(count=16, negatives=2), steps=2, batch_size=4, save_every=2)
    train(recipe, tmp_path, precision="fp32", device="cpu")
    pairs = open_data(recipe, None, 0).pairs(model.build(), tmp_path / "cache", silent)
    batch = pairs.load(torch.arange(4)[:, None].expand(-1, 2), draw(4, model.shape, 0.0, torch.Generator()), 0, 4)
    assert batch["negatives"].values.shape == (4, 2, 16, 384)
    embedder = TokensConfig().embedder()
    for row, item in enumerate(ITEMS[:4]):
        tokens, mask = embedder.embed(negatives(item, 2), 16)
        assert torch.equal(batch["negatives"].values[row], tokens)
        assert torch.equal(batch["negatives"].mask[row], mask)


def test_what_the_data_do_not_have_is_refused_where_the_recipe_is_made():
    tiny = CONFIGS["scenes-tiny"]
    model = replace(tiny.model, losses=(Contrast(weight=0.1, hard_negatives=True),))
    with pytest.raises(CrossFlowError, match="reads negatives, which these scenes do not have: let the data have"):
        replace(tiny, model=model)
    with pytest.raises(CrossFlowError, match="reads image_features"):
        replace(tiny, model=replace(tiny.model, losses=(Contrast(weight=0.1, tower="features"),)))
    with pytest.raises(CrossFlowError, match="negatives is 3"):
        SceneData(negatives=3)


def test_an_untrue_caption_has_the_form_of_the_true_one_and_one_look_apart():
    """A shape or a colour of one object is another, or two objects exchanged their colours; no look is held out.

    Where a caption tells places, mostly one object is elsewhere, or two exchanged their places, and all looks are kept.
    """
    exchanges, moves = 0, 0
    for index in range(120):
        item = example("train", index)
        found = untrue_captions(item)
        assert found == untrue_captions(item) and len(found) == len(item.captions)
        assert not set(found) & set(item.captions)
        for true, wrong in zip(item.captions[1:], found[1:], strict=True):
            before, after = (sense.read("text", text).things for text in (true, wrong))
            one, other = (Counter((each.shape, each.color) for each in things) for things in (before, after))
            if one == other:
                assert true == item.captions[PLACED]
                assert 1 <= (Counter(before) - Counter(after)).total() <= 2
                moves += 1
                continue
            lost, gained = [*(one - other).elements()], [*(other - one).elements()]
            assert not set(gained) & set(HELD_OUT)
            exchanges += len(lost) == 2
            if len(lost) == 2:
                before, after = ([sorted(part) for part in zip(*looks, strict=True)] for looks in (lost, gained))
                assert before == after
            else:
                [before], [after] = lost, gained
                assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    assert exchanges > 60 and 60 < moves < 110
