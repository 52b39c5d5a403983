"""Training on pairs in a folder: on these and no others, with sample grids where their weights are there."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.files.tensors import read_header
from crossflow.modalities import tokens
from crossflow.modalities.kl_autoencoder import KLAutoencoder
from crossflow.model.settings import Sampling
from crossflow.networks.transformer import Transformer, TransformerConfig
from crossflow.recipes import CONFIGS
from crossflow.recipes.recipe import SceneData, TrainConfig
from crossflow.sources.variational import VariationalConfig
from crossflow.training import previews
from crossflow.training.data.shards import KeptPair, shard_name, write_index, write_shard
from crossflow.training.train import train

TINY = CONFIGS["t2i-tiny"]
TINY = replace(
    TINY, model=replace(TINY.model, sampling=Sampling(solver="euler_official", steps=2)), batch_size=8, steps=2
)
PLAIN = TransformerConfig(width=16, depth=2, heads=2)
SCENES = replace(CONFIGS["scenes-tiny"], data=SceneData(count=32))


def shards(folder: Path, seed: int) -> Path:
    """Eight pairs."""
    generator = torch.Generator().manual_seed(seed)
    parts = [(torch.randn(8, 4, 4, generator=generator), torch.randn(77, 384, generator=generator)) for _ in range(8)]
    mask = torch.arange(77) < 9
    write_shard(folder / shard_name(0), [KeptPair(*both, mask, "a caption") for both in parts], {"skipped": []})
    write_index(folder, 1, {}, "0")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return shards(tmp_path_factory.mktemp("data"), seed=0)


def trained(config: TrainConfig, out: Path, **options: object) -> Path:
    return train(config, out, precision="fp32", device="cpu", **options)


def refused(*arguments: object, **options: object) -> str:
    with pytest.raises(CrossFlowError) as caught:
        trained(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_a_run_goes_on_only_on_its_own_data(data, tmp_path):
    model = trained(TINY, tmp_path / "run", data=data)
    assert len(read_header(model)["data"]) == 64
    other = shards(tmp_path / "other", seed=1)
    message = refused(TINY, tmp_path / "run", data=other, resume=True)
    assert message.endswith("its data differs: give the same, or choose another --out.")
    trained(TINY, tmp_path / "run", data=data, resume=True)


def test_data_is_given_where_it_is_read(data, tmp_path):
    assert "give it as --data" in refused(TINY, tmp_path / "run")
    assert f"draws its own data and does not read {data}" in refused(SCENES, tmp_path / "run", data=data)
    assert not (tmp_path / "run").exists()


def test_whitening_needs_prompts_to_be_fitted_to(data, tmp_path):
    whitened = replace(
        TINY, model=replace(TINY.model, source=VariationalConfig(width=8, depth=1, heads=2, whitened=True))
    )
    assert "whitened by prompts of scenes" in refused(whitened, tmp_path / "run", data=data)


@pytest.mark.parametrize("network", ["DiMR", "plain transformer"])
def test_activations_computed_again_change_no_bit(data, tmp_path, network):
    """Nor the dropout, which is not in what is computed again."""
    plain = replace(TINY, model=replace(TINY.model, backbone=PLAIN, stage_weights=(1.0,)))
    recipe = TINY if network == "DiMR" else plain
    models = [trained(recipe, tmp_path / str(again), data=data, checkpointing=again) for again in (False, True)]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_a_network_that_keeps_its_activations_is_not_asked_to_compute_them_again(tmp_path, monkeypatch):
    """One of another package, say: one without the attribute."""
    monkeypatch.delattr(Transformer, "checkpointing")
    assert "leave --checkpointing out" in refused(SCENES, tmp_path / "run", checkpointing=True)


class Ones:
    """In place of the text encoder."""

    width = 384

    def embed(self, prompts: Sequence[str], count: int) -> tuple[Tensor, Tensor]:
        return torch.ones(len(prompts), count, 384), torch.ones(len(prompts), count, dtype=torch.bool)

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        raise NotImplementedError


class Grey:
    """In place of the KL autoencoder."""

    def encode(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        return torch.full((len(latents), 32, 32, 3), 99, dtype=torch.uint8)


def test_sample_grids_are_drawn_where_the_weights_are_there(data, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(previews, "COLUMNS", 2)
    monkeypatch.setattr(tokens, "embedder_named", lambda *given: asked.append(given) or Ones())
    monkeypatch.setattr(KLAutoencoder, "from_path", lambda *given: asked.append(given) or Grey())
    text, images = tmp_path / "text", tmp_path / "kl.pth"
    trained(TINY, tmp_path / "run", data=data, text_encoder=text, autoencoder=images)
    assert asked == [("minilm", text, "cpu"), (images, 0.23010, "cpu")]
    with Image.open(tmp_path / "run" / "samples" / "step-000002.png") as image:
        assert image.size == (3 * (2 * 34 - 2), 3 * (6 * 34 - 2))
        assert image.getpixel((50, 50)) == (99, 99, 99)


def test_where_they_are_not_that_is_said_once(data, tmp_path):
    lines: list[str] = []
    trained(TINY, tmp_path / "run", data=data, progress=lines.append)
    short = "all below the recipe's rate: its warm-up takes 5"
    assert lines[0] == f"{tmp_path / 'run'}: 2 steps of 8 examples, {short}"
    assert lines[1].startswith("No sample grids are drawn: they need the autoencoder")
    assert len([line for line in lines if "grids" in line]) == 1
    assert not (tmp_path / "run" / "samples").exists()


def test_weights_that_are_given_must_be_there(data, tmp_path):
    assert "minilm is read from the package" in refused(TINY, tmp_path / "run", data=data, text_encoder=tmp_path)
