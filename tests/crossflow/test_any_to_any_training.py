"""The stages of the any-to-any system: each trains its own parts alone, and ends at the same bits wherever it stops."""

import json
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from crossflow.anytoany.alignment import AlignmentConfig
from crossflow.anytoany.environment import EnvironmentConfig
from crossflow.anytoany.prompts import Contrast, PromptConfig, found_first
from crossflow.anytoany.stages import PairStage
from crossflow.anytoany.system import AnyToAnyConfig, load_system, system_config
from crossflow.errors import CrossFlowError, Stopped
from crossflow.files import progress
from crossflow.files.tensors import read_header, read_tensors, write_tensors
from crossflow.modalities.patch_pca import PatchPCAConfig
from crossflow.modalities.text_autoencoder import TextAutoencoderConfig
from crossflow.networks.transformer import TransformerConfig
from crossflow.recipes import CONFIGS
from crossflow.recipes.anytoany import LONGEST, member, stages, variants
from crossflow.recipes.recipe import EventData, TrainConfig
from crossflow.recipes.scenes import WORDS
from crossflow.scenes.caption import PLACED
from crossflow.training.data.events import event_pairs
from crossflow.training.in_order import is_trained_in_order, train_in_order
from crossflow.training.run_state import Run
from crossflow.training.train import train

PROMPTS = PromptConfig(width=16, depth=1, heads=2, vector=8, positions="unit")
NETWORK = TransformerConfig(width=16, depth=1, heads=2)
SYSTEM = AnyToAnyConfig(
    members=(
        member(TextAutoencoderConfig(words=WORDS, count=LONGEST, width=16, depth=1, heads=2), 4, NETWORK, PROMPTS),
        member(PatchPCAConfig(components=6), 6, NETWORK, PROMPTS),
    ),
    prompts=PROMPTS,
    alignment=AlignmentConfig(
        environment=EnvironmentConfig(width=16, depth=1, heads=2, vector=8, local=True, positions="unit"),
        reconstruction=1.0,
    ),
)
BRIEF = {"data": EventData(count=48), "batch_size": 8, "steps": 6, "log_every": 2, "save_every": 3}
SCHEDULES = dict.fromkeys(("codecs", "prompts", "diffuser", "pair"), BRIEF)
RECIPES = stages(SYSTEM, SCHEDULES)


def trained(recipe: TrainConfig, out: Path, init: Path | None = None, **options: object) -> Path:
    return train(recipe, out, init=init, precision="fp32", device="cpu", cache=out.parent / "cache", **options)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """The file of every stage, each on the one before."""
    folder, init, found = tmp_path_factory.mktemp("system"), None, {}
    for name, recipe in RECIPES.items():
        init = found[name] = trained(recipe, folder / name, init)
    return found


def weights(path: Path) -> dict[str, Tensor]:
    return read_tensors(path)[1]


def parts(names: Iterable[str]) -> set[str]:
    return {".".join(name.split(".")[:2]) for name in names}


def test_every_stage_adds_its_own_parts_and_leaves_the_others_as_they_were(files):
    found = list(files)
    assert found == ["codecs", "prompts-image", "diffuser-text", "diffuser-image", "pair-text-image"]
    added = []
    for one, other in pairwise(found):
        before, after = weights(files[one]), weights(files[other])
        assert all(torch.equal(part, after[name]) for name, part in before.items())
        added.append(parts(after.keys() - before.keys()))
    assert parts(weights(files["codecs"])) == {"codecs.text", "codecs.image"}
    assert added == [
        {"prompts.text", "prompts.image"},
        {"diffusers.text"},
        {"diffusers.image"},
        {f"{part}.{name}" for part in ("environments", "connections") for name in ("text", "image")},
    ]


def test_the_header_says_which_pairs_were_trained_and_how(files):
    notes = [(note.stage, note.pairs) for note in system_config(files["pair-text-image"]).trained]
    assert notes == [
        ("prompts", (("text", "image"),)),
        ("diffuser", (("image", "text"),)),
        ("diffuser", (("text", "image"),)),
        ("pair", (("text", "image"),)),
    ]


def test_what_only_teaches_the_environments_is_not_in_the_file(files):
    """Those that learn tell their own latents while they do; the heads are kept with the state of the training."""
    state = read_tensors(files["pair-text-image"].with_name("state.safetensors"))[1]
    heads = {name.removeprefix("model.") for name in state if name.startswith("model.terms.")}
    assert parts(heads) == {"terms.text", "terms.image"} and not heads & weights(files["pair-text-image"]).keys()
    log = files["pair-text-image"].with_name("log.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(json.loads(line)["reconstruction"] > 0 for line in log)


def test_prompts_are_aligned_by_the_captions_that_tell_places_three_times_as_often(files, tmp_path):
    recipe = RECIPES["prompts-image"]
    free = replace(recipe, model=replace(recipe.model, forms=()))
    for each, fewest, most in ((recipe, 240, 360), (free, 90, 190)):
        system = each.model.after(files["codecs"]).build()
        picks = event_pairs(each, system, tmp_path, progress.silent).pick(0, 700, torch.Generator().manual_seed(0))
        forms = picks[:, 2].tolist()
        assert set(forms) == set(range(5)) and fewest < forms.count(PLACED) < most


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_stopped_stage_ends_at_the_same_bits(files, name, tmp_path, monkeypatch):
    order = list(RECIPES)
    place = order.index(name)
    init = files[order[place - 1]] if place else None
    advance = Run.advance

    def stopping(self: Run, *arguments: object) -> object:
        if self.step == 4:
            raise Stopped("stopped", "--resume")
        return advance(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Run, "advance", stopping)
        trained(RECIPES[name], tmp_path / "run", init)
    path = trained(RECIPES[name], tmp_path / "run", init, resume=True)
    assert path.read_bytes() == files[name].read_bytes()
    for file in ("state.safetensors", "log.jsonl"):
        assert path.with_name(file).read_bytes() == files[name].with_name(file).read_bytes()


def test_all_stages_in_order_resume_from_anywhere_to_the_same_bits(files, tmp_path, monkeypatch):
    options = {"precision": "fp32", "device": "cpu"}
    advance, left = Run.advance, iter(range(16))

    def stopping(self: Run, *arguments: object) -> object:
        if next(left, None) is None:
            raise Stopped("stopped", "--resume")
        return advance(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Run, "advance", stopping)
        train_in_order(RECIPES, tmp_path, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "00-codecs",
        "01-prompts-image",
        "02-diffuser-text",
        "cache",
    ]
    with pytest.raises(CrossFlowError, match="add --resume"):
        train_in_order(RECIPES, tmp_path, **options)
    path = train_in_order(RECIPES, tmp_path, resume=True, **options)
    assert path == tmp_path / "model.safetensors"
    assert path.read_bytes() == files["pair-text-image"].read_bytes()
    monkeypatch.setattr(Run, "advance", lambda *_: pytest.fail("a finished stage is not trained again"))
    assert train_in_order(RECIPES, tmp_path, resume=True, **options) == path
    assert is_trained_in_order(RECIPES, tmp_path, 0, None)
    assert not is_trained_in_order(RECIPES, tmp_path, 1, None)
    path.unlink()
    assert not is_trained_in_order(RECIPES, tmp_path, 0, None)


def test_a_further_seed_shares_what_a_file_has(files, tmp_path):
    path = train_in_order(RECIPES, tmp_path, seed=1, init=files["diffuser-text"], precision="fp32", device="cpu")
    assert sorted(folder.name[3:] for folder in tmp_path.glob("0*")) == ["diffuser-image", "pair-text-image"]
    shared, found = weights(files["diffuser-text"]), weights(path)
    assert all(torch.equal(part, found[name]) for name, part in shared.items())
    with pytest.raises(CrossFlowError, match="nothing left to train"):
        train_in_order(RECIPES, tmp_path / "again", init=path, precision="fp32", device="cpu")


def test_a_variant_trains_what_comes_after_its_change_on_the_files_before_it(files, tmp_path):
    found = variants(SYSTEM, SCHEDULES)
    options = {"precision": "fp32", "device": "cpu"}
    path = train_in_order(found["no-contrast"], tmp_path, init=files["diffuser-image"], **options)
    assert [folder.name for folder in sorted(tmp_path.glob("0*"))] == ["04-pair-text-image"]
    shared, base, own = (weights(each) for each in (files["diffuser-image"], files["pair-text-image"], path))
    assert all(torch.equal(part, own[name]) for name, part in shared.items())
    assert parts(name for name in own if not torch.equal(own[name], base[name])) == {
        f"{part}.{name}" for part in ("environments", "connections") for name in ("text", "image")
    }
    assert system_config(path).alignment.contrast == 0
    assert is_trained_in_order(found["no-contrast"], tmp_path, 0, files["diffuser-image"])


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("self", "pair-text-image"),
        ("env-vector", "pair-text-image"),
        ("eps", "diffuser-text"),
        ("cond-tokens", "prompts-image"),
    ],
)
def test_a_file_with_parts_of_another_variant_is_refused(files, name, stage, tmp_path):
    recipes = variants(SYSTEM, SCHEDULES)[name]
    order = list(RECIPES)
    assert [each for each in order if recipes[each] == RECIPES[each]] == order[: order.index(stage)]
    with pytest.raises(CrossFlowError, match=f"has the parts of the stage {stage} already, of other sizes or settings"):
        train_in_order(recipes, tmp_path, init=files[stage], precision="fp32", device="cpu")


def test_a_stage_opens_the_files_of_its_own_modalities_alone(files, tmp_path):
    trained(RECIPES["diffuser-image"], tmp_path / "run", files["diffuser-text"])
    opened = {(read_header(path)["what"], read_header(path)["modality"]) for path in (tmp_path / "cache").iterdir()}
    assert opened == {("words", "text"), ("latents", "image")}


def test_a_pair_that_is_never_trained_is_refused():
    with pytest.raises(CrossFlowError, match="image and audio are never trained together"):
        replace(RECIPES["prompts-image"], model=PairStage(system=SYSTEM, pair=("image", "audio")))
    with pytest.raises(CrossFlowError, match="choose other data"):
        replace(CONFIGS["scenes-tiny"], data=EventData())


def refused(*arguments: object) -> str:
    with pytest.raises(CrossFlowError) as caught:
        trained(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_stage_says_which_one_it_goes_on_from(files, tmp_path):
    assert "as --init" in refused(RECIPES["prompts-image"], tmp_path / "run")
    assert "leave --init out" in refused(RECIPES["codecs"], tmp_path / "run", files["codecs"])
    assert "no prompt encoder of image yet" in refused(RECIPES["diffuser-text"], tmp_path / "run", files["codecs"])
    assert "no diffuser of image yet" in refused(RECIPES["pair-text-image"], tmp_path / "run", files["diffuser-text"])
    for name in RECIPES:
        if name != "codecs":
            message = refused(RECIPES[name], tmp_path / "run", files["pair-text-image"])
            assert "go on to another stage" in message or "nothing to learn" in message


def test_a_file_that_is_no_system_is_refused(files, tmp_path):
    state = files["codecs"].with_name("state.safetensors")
    other = tmp_path / "other.safetensors"
    write_tensors(other, {}, {"format": "crossflow", "config": {"kind": "crossflow"}})
    assert "is not the file of an any-to-any system" in refused(RECIPES["prompts-image"], tmp_path / "run", other)
    with pytest.raises(CrossFlowError, match="is the state of a training, which only --resume reads"):
        load_system(state)


def test_the_queue_holds_the_last_pairs_and_forgives_equal_ones():
    """An item whose only rival in the queue is one of its own id has nothing to be told apart from."""
    contrast = Contrast(PromptConfig(vector=4), length=2)
    one, other = (F.normalize(torch.randn(1, 1, 4), dim=-1) for _ in range(2))
    pair = (one, other)
    losses = [contrast(pair, pair, torch.tensor([each])).item() for each in (5, 7, 5)]
    assert losses[0] == 0 and losses[1] > 0
    assert contrast.ids.tolist() == [5, 7] and int(contrast.place) == 1
    contrast.eval()
    assert contrast(pair, pair, torch.tensor([9])).item() > losses[2] > 0
    assert contrast.ids.tolist() == [5, 7]


def test_recall_counts_a_tie_by_its_share():
    questions = F.normalize(torch.eye(4)[[0, 0, 1, 2]][:, None], dim=-1)
    assert found_first(questions, questions).tolist() == pytest.approx([0.5, 0.5, 1, 1])
    assert found_first(questions, questions.flip(0)).tolist() == [0, 0, 0, 0]
