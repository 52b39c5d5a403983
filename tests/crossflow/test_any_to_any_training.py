"""The stages of the any-to-any system: each trains its own parts alone, and ends at the same bits wherever it stopped."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from crossflow.anytoany.alignment import AlignmentConfig
from crossflow.anytoany.environment import EnvironmentConfig
from crossflow.anytoany.prompts import PromptConfig
from crossflow.anytoany.system import AnyToAnyConfig, system_config
from crossflow.errors import Stopped
from crossflow.files.tensors import read_tensors
from crossflow.modalities.patch_pca import PatchPCAConfig
from crossflow.modalities.text_autoencoder import TextAutoencoderConfig
from crossflow.networks.transformer import TransformerConfig
from crossflow.recipes.anytoany import LONGEST, member, stages
from crossflow.recipes.recipe import EventData, TrainConfig
from crossflow.recipes.scenes import WORDS
from crossflow.training.run_state import Run
from crossflow.training.train import train

PROMPTS = PromptConfig(width=16, depth=1, heads=2, vector=8)
NETWORK = TransformerConfig(width=16, depth=1, heads=2)
SYSTEM = AnyToAnyConfig(
    members=(
        member(TextAutoencoderConfig(words=WORDS, count=LONGEST, width=16, depth=1, heads=2), 4, NETWORK, PROMPTS),
        member(PatchPCAConfig(components=6), 6, NETWORK, PROMPTS),
    ),
    prompts=PROMPTS,
    alignment=AlignmentConfig(environment=EnvironmentConfig(width=16, depth=1, heads=2, vector=8)),
)
BRIEF = {"data": EventData(count=48), "batch_size": 8, "steps": 6, "log_every": 2, "save_every": 3}
RECIPES = stages(SYSTEM, dict.fromkeys(("codecs", "prompts", "diffuser", "pair"), BRIEF))


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


def parts(names: Iterator[str]) -> set[str]:
    return {".".join(name.split(".")[:2]) for name in names}


def test_every_stage_adds_its_own_parts_and_leaves_the_others_as_they_were(files):
    found = list(files)
    assert found == ["codecs", "prompts-image", "diffuser-text", "diffuser-image", "pair-text-image"]
    added = []
    for one, other in zip(found, found[1:], strict=False):
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
