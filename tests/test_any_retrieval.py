"""What is measured of prompt vectors: how often the facts allow an event to be found, and what probes read."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import any_retrieval
from benchmarks.any_retrieval import (
    GROUP,
    PROBES,
    agreement,
    aligned,
    ceiling,
    crossings,
    made_of,
    main,
    object_f1,
    probe,
    questions,
    report,
    retrieved,
    vectors,
)
from benchmarks.scenes_senses import NAMES
from crossflow.anytoany.system import AnyToAny, Trained
from crossflow.model.checkpoint import save_checkpoint
from crossflow.recipes.anytoany import SMALLEST
from crossflow.scenes.events import event
from crossflow.scenes.facts import TOLD, Facts, Thing, tells
from crossflow.scenes.sense import value
from tests.crossflow.tiny_systems import tiny_system

EVENTS = [event("test", i) for i in range(24)]


@pytest.mark.parametrize(("one", "other"), [pair for pair in crossings(NAMES) if pair[0] < pair[1]])
def test_an_event_agrees_with_itself_and_two_modalities_agree_whichever_is_asked(one, other):
    found = agreement(EVENTS, one, other)
    assert found.diagonal().all()
    assert np.array_equal(found, agreement(EVENTS, other, one).T)


def test_a_prompt_agrees_with_every_event_of_which_it_is_true():
    found = agreement(EVENTS, "text-0", "image")
    for row, asked in zip(found, EVENTS, strict=True):
        shapes = sorted(item.shape for item in asked.scene.objects)
        alike = [sorted(item.shape for item in each.scene.objects) == shapes for each in EVENTS]
        assert not (row & ~np.array(alike)).any()
        if asked.example.task in ("single_object", "two_object", "counting"):
            assert row.tolist() == alike


def test_a_prompt_of_a_side_agrees_with_no_image_of_the_other_side():
    left = next(each for each in (event("test", i) for i in range(400)) if each.example.task == "position")
    turned = tuple(replace(item, x=1 - item.x, y=1 - item.y) for item in left.scene.objects)
    other = replace(left, example=replace(left.example, scene=replace(left.scene, objects=turned)))
    assert agreement([left, other], "text-0", "image")[0].tolist() == [True, False]
    assert agreement([left, other], "text-2", "image")[0].tolist() == [True, True]


def test_what_the_facts_allow_is_lost_where_events_are_alike():
    twice = [EVENTS[0], EVENTS[0], EVENTS[1]]
    assert ceiling(twice, "image", "video").tolist() == [0.5, 0.5, 1.0]
    assert ceiling(EVENTS, "text-3", "image").mean() > ceiling(EVENTS, "text-0", "image").mean()


def test_of_captions_that_are_true_the_one_that_says_more_is_found():
    said = next(each for each in EVENTS if each.example.task == "colors")
    bare = replace(said, example=replace(said.example, task="single_object"))
    recolored = tuple(replace(item, color="no color") for item in said.scene.objects)
    other = replace(bare, example=replace(bare.example, scene=replace(bare.scene, objects=recolored)))
    assert ceiling([said, bare, other], "image", "text-0").tolist() == [1.0, 0.0, 0.5]


@pytest.mark.parametrize("kind", PROBES)
def test_vectors_that_are_the_facts_are_read_and_noise_is_not(kind, monkeypatch):
    monkeypatch.setattr(any_retrieval, "EPOCHS", 100)
    seen = [event("train", i) for i in range(240)]

    def told_by(items):
        rows = [[n for each in questions(tells(item, "audio")).values() for n in each] for item in items]
        return torch.tensor(rows).float()

    found = probe(kind, (told_by(seen), seen), (told_by(EVENTS), EVENTS), "audio")
    assert set(found) - {"nearest", "object_f1"} == TOLD["audio"] - {"depth"}
    assert min(found[factor][0].mean() for factor in ("count", "color", "night", "object_f1")) > 0.7
    assert found["color"][1].mean() < 0.3
    noise = torch.randn(len(seen) + len(EVENTS), 8, generator=torch.Generator().manual_seed(0))
    blind = probe(kind, (noise[: len(seen)], seen), (noise[len(seen) :], EVENTS), "depth")
    assert max(blind[factor][0].mean() for factor in ("shape", "column", "row")) < 0.3


def test_the_page_has_every_pair_and_marks_what_was_never_seen_together():
    own = torch.nn.functional.normalize(torch.randn(GROUP, 1, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert retrieved(own, own).tolist() == [1.0] * GROUP
    pairs = crossings(["text-0", "image", "audio"])
    half = np.array([0.0, 1.0])
    page = report(
        dict.fromkeys(pairs, half),
        dict.fromkeys(pairs, np.ones(2)),
        {("image", kind): {"shape": (half, half)} for kind in PROBES},
        frozenset({("text", "image"), ("image", "text")}),
        ["made so"],
    )
    assert page.count("50.0 / 100.0°") == 4 and page.count("50.0 / 100.0") == 6
    assert "| image | linear | " in page and page.count("50.0 (50.0)") == 2 and "0.50 |" in page


def whole_system() -> AnyToAny:
    """All that reads and makes the embedded world's modalities, of random weights and as small as it goes."""
    torch.manual_seed(0)
    names = SMALLEST.names
    return replace(SMALLEST, coded=names, prompted=names, diffused=names).build()


def test_what_is_made_is_judged_by_what_the_input_tells_and_by_other_events(monkeypatch):
    """A sampler in place of the system's own that always has everything right."""
    by_text = {value(item, "text", form): item for item in EVENTS for form in range(5)}
    by_image = {value(item, "image").tobytes(): item for item in EVENTS}

    class Perfect:
        reads = makes = ("text", "image")

        def __init__(self, system):
            pass

        def generate(self, given, wanted, seeds):
            assert seeds == list(range(len(given)))
            if wanted == ["image"]:
                return [{"image": value(by_text[item["text"][0]], "image")} for item in given]
            return [{"text": value(by_image[item["image"][0].tobytes()], "text", 1)} for item in given]

    monkeypatch.setattr(any_retrieval, "AnyToAnySampler", Perfect)
    made = made_of(tiny_system(), EVENTS)
    alone = [item for item in EVENTS if len(item.scene.objects) == 1]
    named = [item for item in alone if item.example.task == "colors"]
    assert {name: len(of["both"][0]) for name, of in made.looks.items()} == {
        "text-0": len(named),
        "text-1 to text-4": len(alone),
    }
    for of in made.looks.values():
        assert all(own.mean() == 1 for own, _ in of.values())
    assert made.looks["text-1 to text-4"]["both"][1].mean() < 0.5
    assert made.object_f1[0].tolist() == [1.0] * len(EVENTS) and made.object_f1[1].mean() < 0.5
    monkeypatch.setattr(Perfect, "makes", ("image",))
    assert made_of(tiny_system(), EVENTS) is None


def test_object_f1_counts_what_is_named_and_what_is_there():
    ball, box, ring = (Thing(shape=shape, color="red") for shape in ("ball", "box", "ring"))
    true = Facts(things=(ball, box))
    assert object_f1(true, true) == 1 and object_f1(Facts(), true) == 0
    assert object_f1(Facts(things=(ball, ring)), true) == 0.5
    assert object_f1(Facts(things=(ball,)), true) == pytest.approx(2 / 3)


def test_the_command_measures_a_system_of_random_weights_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(any_retrieval, "GROUP", 24)
    monkeypatch.setattr(any_retrieval, "NAMES", ("text-0", "text-1", "image"))
    monkeypatch.setattr(any_retrieval, "PROBES", {"network": any_retrieval.network})
    save_checkpoint(tmp_path / "system.safetensors", whole_system())
    main(tmp_path / "system.safetensors", n=24, trained=24, out=tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "| text-0 | " in page and "| text-1 to text-4 | " in page
    assert "| probe, network | " in page and "| the text that is made | " in page


def test_vectors_are_those_of_the_system_and_its_file_says_what_was_aligned():
    system = tiny_system()
    found = vectors(system, EVENTS[:3], "image")
    assert found.shape == (3, 1, 6)
    assert torch.allclose(found.norm(dim=-1), torch.ones(3, 1))
    system.config = replace(system.config, trained=(Trained(stage="prompts", pairs=(("text", "image"),)),))
    assert aligned(system) == {("text", "image"), ("image", "text")}
