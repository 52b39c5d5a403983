"""The rivals are trained by the one trainer on a system's codecs, into its file, and sampled from it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from crossflow.anytoany.stages import CAPTION
from crossflow.anytoany.system import load_system, system_config
from crossflow.errors import CrossFlowError
from crossflow.files import progress
from crossflow.files.tensors import read_tensors
from crossflow.flow.batch import Batch, Item
from crossflow.recipes.anytoany import rivals
from crossflow.recipes.recipe import TrainConfig
from crossflow.sampling.any_to_any import AnyToAnySampler
from crossflow.scenes.caption import describe
from crossflow.scenes.events import event
from crossflow.training.data.events import event_pairs
from tests.crossflow.test_any_to_any_training import BRIEF, NETWORK, RECIPES, SYSTEM, trained

FEW = {**BRIEF, "steps": 2}
RIVALS = rivals(SYSTEM, NETWORK, {"anchor": FEW, "direct": FEW})
IMAGE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
TEXT = "a photo of a red ball"
LAST = "direct-image-text"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """The file of the codecs and, each on the one before, of every rival."""
    folder, init, found = tmp_path_factory.mktemp("rivals"), None, {}
    stages: dict[str, TrainConfig] = {"codecs": RECIPES["codecs"], **RIVALS}
    for name, recipe in stages.items():
        init = found[name] = trained(recipe, folder / name, init)
    return found


def test_a_rival_adds_its_networks_to_the_codecs(files):
    assert list(files) == ["codecs", "anchor", "direct-text-image", "direct-image-text"]
    codecs, anchor, *_, direct = (read_tensors(path)[1] for path in files.values())
    assert {name.split(".")[0] for name in anchor.keys() - codecs.keys()} == {"anchor"}
    assert {name.split(".")[0] for name in direct.keys() - anchor.keys()} == {"direct"}
    assert all(torch.equal(part, direct[name]) for name, part in anchor.items())
    assert [note.stage for note in system_config(files[LAST]).trained] == ["anchor", "direct", "direct"]


@pytest.mark.parametrize("name", ["anchor", "direct-text-image"])
def test_a_text_is_given_as_suites_give_it_and_made_as_the_full_description(files, name, tmp_path):
    system = load_system(files["codecs"])
    pairs = event_pairs(RIVALS[name], system, tmp_path, progress.silent)
    picks = pairs.pick(0, 400, torch.Generator().manual_seed(0))
    events, forms = [event("train", int(row)) for row in picks[:, 1]], picks[:, 2].tolist()
    assert set(forms) == set(range(5)) and 160 < forms.count(0) < 240, "half are bare prompts"
    batch = pairs.load(picks, None, 0, len(picks))
    for entry, texts in {
        CAPTION: [item.captions[form] for item, form in zip(events, forms, strict=True)],
        "text": [describe(item.scene) for item in events],
    }.items():
        assert torch.equal(batch[entry].values, system.latents("text", texts).half().float())


def test_a_rival_learns_from_the_captions_that_it_is_given(files):
    torch.manual_seed(0)
    text, other, image = (torch.randn(4, *shape) for shape in ((4, 4, 4), (4, 4, 4), (6, 4, 4)))
    for name, changes in {"anchor": True, "direct-text-image": True, "direct-image-text": False}.items():
        stage = RIVALS[name].model.after(files["codecs"])
        training, draws = stage.build(), stage.draw(4, torch.Generator().manual_seed(0))
        found = [
            training(Batch({"text": Item(text), "image": Item(image), CAPTION: Item(each)}, torch.arange(4)), draws)
            for each in (text, other)
        ]
        assert (found[0]["total"] != found[1]["total"]) == changes


def test_its_own_weights_have_moved(files):
    torch.manual_seed(0)
    fresh = RIVALS["anchor"].model.after(files["codecs"]).build()
    start = {name: part for name, part in fresh.state_dict().items() if name.startswith("anchor.")}
    found = read_tensors(files["anchor"])[1]
    assert any(not torch.equal(part, found[name]) for name, part in start.items())


def test_what_is_trained_already_is_not_trained_again(files):
    with pytest.raises(CrossFlowError, match="shared latent of this system is trained"):
        RIVALS["anchor"].model.after(files["anchor"])
    with pytest.raises(CrossFlowError, match="flow from text to image is trained"):
        RIVALS["direct-text-image"].model.after(files["direct-text-image"])


def test_rivals_sample_both_ways_an_item_by_its_own_inputs_and_seed(files):
    sampler = AnyToAnySampler(load_system(files[LAST]))
    for method in ("anchor", "direct"):
        [image] = sampler.generate([{"text": [TEXT]}], ["image"], [1], method=method)
        [text] = sampler.generate([{"image": [IMAGE]}], ["text"], [1], method=method)
        assert image["image"].shape == IMAGE.shape and isinstance(text["text"], str)
        [[same], [again]] = (
            sampler.generate([{name: [value]}], [name], [1], method=method)
            for name, value in (("text", TEXT), ("image", IMAGE))
        )
        assert isinstance(same["text"], str) and again["image"].shape == IMAGE.shape
        both = sampler.generate([{"text": [TEXT]}, {"text": ["a blue box"]}], ["image"], [1, 2], method=method)
        assert np.array_equal(both[0]["image"], image["image"])
        assert not np.array_equal(both[1]["image"], image["image"])


def test_a_shared_latent_mixes_inputs_and_a_direct_flow_takes_one(files):
    sampler = AnyToAnySampler(load_system(files[LAST]))
    item = {"text": [TEXT], "image": [IMAGE]}
    [one], [both] = (sampler.generate([each], ["image"], [1], method="anchor") for each in ({"text": [TEXT]}, item))
    assert not np.array_equal(one["image"], both["image"])
    assert np.array_equal(
        one["image"], sampler.generate([item], ["image"], [1], method="anchor", mix={"image": 0.0})[0]["image"]
    )
    with pytest.raises(CrossFlowError, match="start at one input"):
        sampler.generate([item], ["image"], [1], method="direct")
