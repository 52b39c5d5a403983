"""Latent arithmetic on the embedded world: what is asked, how it is judged, and a checkpoint that is measured."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from crossflow.errors import CrossFlowError
from crossflow.model.checkpoint import save_checkpoint
from crossflow.recipes import CONFIGS
from crossflow.sampling.latent_space import Sum
from crossflow.sampling.text_to_image import TextToImage, prompt_seed
from crossflow.scenes import example, read
from crossflow.scenes.spec import HELD_OUT
from crossflow_eval.cli import app
from crossflow_eval.metrics.arithmetic import CONTROLS, KINDS, SceneArithmetic
from crossflow_eval.models.arithmetic import CrossFlowArithmetic
from crossflow_eval.suites import load_suite
from crossflow_eval.suites.scenes.arithmetic import edit, looks, prompt
from crossflow_eval.types import Model

ADD, SUBTRACT, COMBINATION = range(3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "random.safetensors"
    save_checkpoint(path, CONFIGS["scenes-tiny"].model.build(training=False))
    return path


def test_the_kinds_are_balanced_and_their_prompts_are_the_worlds():
    """Law: any five examples in a row have every kind; every prompt has the form of one or two objects."""
    examples = load_suite("scenes-arithmetic").examples(None)
    assert len(examples) == 1000
    assert Counter(each.tags["kind"] for each in examples[:35]) == dict.fromkeys((*KINDS, *CONTROLS), 7)
    known = {example("train", index).prompt for index in range(6000)}
    plain = {part for each in examples[::2] for part in Sum.of_text(str(each.source)).prompts}
    colored = {part for each in examples[1::2] for part in Sum.of_text(str(each.source)).prompts}
    assert plain <= known
    assert {part for part in colored if " and " not in part} <= known
    assert Counter(part in known for part in colored)[True] > 100


def test_looks_are_of_five_shapes_and_never_held_out():
    for index in range(60):
        found = looks("test", index)
        assert len({shape for shape, _ in found}) == 5
        assert not set(found) & set(HELD_OUT)
        assert all(bool(color) == bool(index % 2) for _, color in found)
    assert [looks("val", index) for index in range(9)] != [looks("test", index) for index in range(9)]


def test_what_is_asked_of_each_kind():
    add, subtract, combination = (edit("test", index) for index in range(3))
    assert (add.words, add.there) == (f"{prompt(add.base)} + {prompt(add.there[1:])}", (*add.base, add.there[1]))
    assert (subtract.there, subtract.gone) == (subtract.base[:1], subtract.base[1:])
    assert subtract.words == f"{prompt(subtract.base)} - {prompt(subtract.gone)}"
    assert combination.gone == combination.base[1:]
    terms = Sum.of_text(combination.words)
    assert (terms.add, terms.subtract) == ((prompt(combination.there[1:]),), (prompt(combination.gone),))


def test_controls_are_judged_as_the_kinds_are_and_say_something_else():
    """Law: the same alone adds the base, a wrong word names no look that is judged; the three kinds take turns."""
    for turn in range(3):
        same, wrong = edit("test", 5 * turn + 3), edit("test", 5 * turn + 4)
        assert Sum.of_text(same.words).add == (prompt(same.base),)
        judged = {shape for shape, _ in (*wrong.base, *wrong.there)}
        _, *words = Sum.of_text(wrong.words).prompts
        assert not any(shape in word for shape in judged for word in words)
        assert (len(same.there), len(same.gone)) == ((2, 0), (1, 1), (2, 1))[turn]
        assert len(words) == (1, 1, 2)[turn]


def test_right_renders_are_right_and_unedited_ones_are_not():
    suite = load_suite("scenes-arithmetic")
    examples = list(suite.examples(None))[:30]
    metric = SceneArithmetic(read)
    pairs = [suite.references["ceiling"].read(each.id, 0) for each in examples]
    rows = metric.update(examples, pairs)
    values = {name: value.mean for name, value in metric.compute().items()}
    assert values == {
        "arithmetic": 1.0,
        **{f"arithmetic/{kind}": 1.0 for kind in KINDS},
        **{f"arithmetic/{control}": 0.0 for control in CONTROLS},
        "base_drawn": 1.0,
    }
    assert [row["correct"] for row in rows] == [each.tags["kind"] in KINDS for each in examples]


def test_a_sum_that_loses_the_rest_is_wrong_and_one_whose_base_was_not_drawn_is_counted_apart():
    suite = load_suite("scenes-arithmetic")
    examples = list(suite.examples(None))[:15]
    base, edited = (
        [half for each in examples for half in [suite.references["ceiling"].read(each.id, 0)[:, part]]]
        for part in (slice(0, 32), slice(32, 64))
    )
    blank = np.full((32, 32, 3), 128, dtype=np.uint8)
    metric = SceneArithmetic(read)
    add = examples[ADD]
    rows = metric.update(
        [add, examples[5], examples[10], examples[SUBTRACT], examples[COMBINATION]],
        [
            np.concatenate(pair, axis=1)
            for pair in ((base[0], edited[0]), (base[5], blank), (blank, edited[10]), (base[1], blank), (blank, blank))
        ],
    )
    values = metric.compute()
    assert (values["arithmetic/add"].mean, values["arithmetic/add"].n) == (0.5, 2)
    assert (values["arithmetic/subtract"].mean, values["base_drawn"].mean) == (0.0, 0.6)
    assert values.keys() == {"arithmetic/add", "arithmetic/subtract", "base_drawn"}
    assert rows[2]["reason"].startswith("the base alone: expected")
    with pytest.raises(CrossFlowError, match="32 x 32 pixels; give two square images"):
        metric.update([add], [blank])


def test_a_checkpoint_gives_the_base_and_beside_it_the_sum(checkpoint):
    """Law: the left image is that of the base prompt alone; a pair depends on its own words and seed alone."""
    model = CrossFlowArithmetic(checkpoint, steps=1, device="cpu")
    assert isinstance(model, Model)
    words = ["a photo of a ball + a photo of a box", "a photo of a ring and a box - a photo of a box"]
    together = model.generate(words, [1, 2])
    assert {pair.shape for pair in together} == {(32, 64, 3)}
    alone = TextToImage.from_checkpoint(checkpoint)
    base = "a photo of a ring and a box"
    sampling = replace(alone.defaults, steps=1)
    assert np.array_equal(
        together[1][:, :32], alone.from_source(alone.source([base], [prompt_seed(2, base)]), sampling)[0]
    )
    assert np.array_equal(model.generate(words[1:], [2])[0], together[1])
    assert CrossFlowArithmetic(checkpoint, scale=2.0, device="cpu").identity["scale"] == 2.0


def test_the_baseline_has_no_latents_to_add(tmp_path):
    path = tmp_path / "standard.safetensors"
    save_checkpoint(path, CONFIGS["scenes-table1-standard"].model.build(training=False))
    with pytest.raises(CrossFlowError, match="holds the baseline, which starts from noise"):
        CrossFlowArithmetic(path, device="cpu")


def test_the_command_runs_and_resumes(checkpoint, tmp_path):
    words = ["arithmetic", "--ckpt", checkpoint, "--limit", 5, "--steps", 1, "--device", "cpu", "--out", tmp_path]
    told = [CliRunner().invoke(app, [*map(str, words), "--json"]) for _ in range(2)]
    assert [done.exit_code for done in told] == [0, 0], told[0].stderr
    values = [json.loads(done.stdout)["values"] for done in told]
    assert values[0] == values[1]
    assert values[0]["base_drawn"]["n"] == 5
    assert (tmp_path / "outputs" / "test-000000-0.png").exists()
