"""The decoder of the text: kept beside the checkpoint by recipes that train one, read only with its own checkpoint."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from crossflow.errors import CrossFlowError
from crossflow.losses import KL, TextReconstruction
from crossflow.model.checkpoint import DECODER, load_text_decoder
from crossflow.model.settings import Sampling
from crossflow.recipes import CONFIGS
from crossflow.recipes.recipe import SceneData, TrainConfig
from crossflow.sampling.text_compression import TextCompression
from crossflow.sources.fixed import DeterministicConfig
from crossflow.training.train import train

TINY = CONFIGS["scenes-tiny"]
PROMPTS = ["a photo of a ball", "a photo of a red ball and a blue box", "a photo of three cones"]


def recipe(deterministic: bool = False) -> TrainConfig:
    source = TINY.model.source
    model = replace(
        TINY.model,
        source=DeterministicConfig(mean_of=source) if deterministic else source,
        losses=(TextReconstruction(width=8, heads=1), *(() if deterministic else (KL(weight=1e-2),))),
        sampling=Sampling(solver="euler", steps=1),
    )
    return replace(
        TINY, model=model, data=SceneData(count=32), batch_size=4, steps=4, save_every=2, sample_every=4, keep_at=(2,)
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return train(recipe(), tmp_path_factory.mktemp("run"), device="cpu")


def test_the_decoder_is_the_average_of_the_trained_one(trained):
    state = load_file(trained.with_name("state.safetensors"))
    decoder = load_text_decoder(trained).state_dict()
    assert decoder
    for name, weight in decoder.items():
        assert torch.equal(weight, state[f"ema.terms.reconstruction.decoder.{name}"])
    live = {name: state[f"model.terms.reconstruction.decoder.{name}"] for name in decoder}
    assert any(not torch.equal(live[name], weight) for name, weight in decoder.items())
    assert not any("terms" in name for name in load_file(trained))


class Stopped(Exception):
    """Raised after the first saved state."""


def test_a_run_that_was_stopped_ends_with_the_same_decoder(trained, tmp_path):
    def stop(line: str) -> None:
        if line.startswith("step 4"):
            raise Stopped

    with pytest.raises(Stopped):
        train(recipe(), tmp_path, device="cpu", progress=stop)
    path = train(recipe(), tmp_path, device="cpu", resume=True)
    assert path.with_name(DECODER).read_bytes() == trained.with_name(DECODER).read_bytes()


def test_a_recipe_without_the_loss_keeps_none_and_is_told_so(tmp_path):
    plain = replace(recipe(), model=replace(recipe().model, losses=(KL(weight=1e-2),)), steps=2, keep_at=())
    path = train(plain, tmp_path, device="cpu")
    assert not path.with_name(DECODER).exists()
    with pytest.raises(CrossFlowError, match="trained without a decoder of its text"):
        load_text_decoder(path)


def test_a_decoder_that_is_missing_of_another_step_or_damaged_is_one_sentence(trained, tmp_path):
    for file in trained.parent.glob("*.safetensors"):
        shutil.copy(file, tmp_path)
    with pytest.raises(CrossFlowError, match=r"for 4 steps of \w+, and .* for 2 of"):
        load_text_decoder(tmp_path / "model-000002.safetensors")
    shutil.copy(tmp_path / "model.safetensors", tmp_path / DECODER)
    with pytest.raises(CrossFlowError, match="is no text decoder of version 1"):
        load_text_decoder(tmp_path / "model.safetensors")
    (tmp_path / DECODER).write_bytes(trained.with_name(DECODER).read_bytes()[:-9])
    with pytest.raises(CrossFlowError, match="not a whole safetensors file"):
        load_text_decoder(tmp_path / "model.safetensors")
    (tmp_path / DECODER).unlink()
    with pytest.raises(CrossFlowError, match="keep it beside the checkpoint"):
        load_text_decoder(tmp_path / "model.safetensors")


def test_tokens_are_encoded_sampled_and_decoded(trained):
    """Law: padding is left out, a text depends on its own seed alone, and the mean token is that of its position."""
    model = TextCompression.from_checkpoint(trained)
    assert model.token_values / model.latent_values == 16 * 384 / (48 * 4 * 4)
    together = model.reconstruct(PROMPTS, [1, 2, 3])
    tokens, mask = model.embedder.embed(PROMPTS, 16)
    assert [len(each.tokens) for each in together] == mask.sum(1).tolist()
    assert torch.equal(together[1].tokens, tokens[1, mask[1]])
    (alone,) = model.reconstruct(PROMPTS[1:2], [2])
    assert all(torch.allclose(a, b, rtol=0, atol=1e-6) for a, b in zip(alone, together[1], strict=True))
    (other,) = model.reconstruct(PROMPTS[1:2], [4])
    assert torch.equal(other.of_mean, alone.of_mean)
    assert not torch.allclose(other.of_sample, alone.of_sample)
    mean = model.mean_tokens(PROMPTS)
    assert torch.allclose(mean[0], tokens[:, 0].mean(0), atol=1e-6)
    longest = int(mask.sum(1).argmax())
    assert torch.equal(mean[int(mask.sum(1).max()) - 1], tokens[longest, int(mask.sum(1).max()) - 1])


def test_an_encoder_without_variance_gives_the_sample_that_is_its_mean(tmp_path):
    path = train(replace(recipe(deterministic=True), steps=2, keep_at=()), tmp_path, device="cpu")
    for kept in TextCompression.from_checkpoint(path).reconstruct(PROMPTS, [1, 2, 3]):
        assert torch.equal(kept.of_sample, kept.of_mean)
