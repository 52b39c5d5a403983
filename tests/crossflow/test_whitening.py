"""Whitened tokens: every direction at one scale, fitted once, kept in the checkpoint."""

from dataclasses import replace

import pytest
import torch

from crossflow.modalities.tokens import TokensConfig
from crossflow.model.checkpoint import load_checkpoint
from crossflow.networks.transformer import TransformerConfig
from crossflow.networks.whitening import Whitening
from crossflow.recipes import CONFIGS
from crossflow.sources.variational import VariationalConfig
from crossflow.training.train import train

SHAPE = (3, 4, 4)


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens that differ a hundred times more in one direction than in another."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(40, 6, 4, generator=generator) * torch.tensor([10.0, 2.0, 1.0, 0.1])
    mixed = 3.0 + values @ torch.linalg.qr(torch.randn(4, 4, generator=generator)).Q
    return mixed, torch.arange(6) < torch.randint(2, 7, (40, 1), generator=generator)


def test_before_it_is_fitted_it_changes_nothing():
    values, _ = tokens()
    assert torch.equal(Whitening(4)(values), values)


def test_directions_get_one_scale_and_the_mean_square_stays():
    values, mask = tokens()
    whitening = Whitening(4)
    whitening.fit(values, mask)
    before, after = values[mask], whitening(values)[mask]
    assert after.square().mean().item() == pytest.approx(before.square().mean().item(), rel=1e-3)
    spread = torch.linalg.svdvals(after - after.mean(0))
    assert (spread[0] / spread[-1]).item() < 2.5, "0.1 is as large as the damping of 10"
    assert (torch.linalg.cond(before - before.mean(0))).item() > 50


def test_padding_is_not_fitted_to():
    values, mask = tokens()
    one, other = Whitening(4), Whitening(4)
    one.fit(values, mask)
    other.fit(torch.where(mask[..., None], values, 1e6), mask)
    assert torch.equal(one.matrix, other.matrix)


def test_fewer_tokens_than_directions_leave_no_number_that_is_not_finite():
    whitening = Whitening(8)
    whitening.fit(torch.randn(1, 3, 8), torch.ones(1, 3, dtype=torch.bool))
    assert whitening(torch.randn(2, 3, 8)).isfinite().all()


def test_encoder_and_baseline_have_it_where_they_ask_for_it():
    encoder = VariationalConfig(width=8, depth=1, heads=2, whitened=True).build((5, 6), SHAPE)
    network = TransformerConfig(width=8, depth=1, heads=2, whitened=True).attending(SHAPE, 6, None)
    assert all(any(isinstance(part, Whitening) for part in each.modules()) for each in (encoder, network))
    assert not any(isinstance(part, Whitening) for part in CONFIGS["scenes-t2i-short"].model.build().modules())


def test_a_training_fits_it_and_the_checkpoint_keeps_it(tmp_path):
    tiny = CONFIGS["scenes-tiny"]
    source = VariationalConfig(width=8, depth=1, heads=2, whitened=True)
    recipe = replace(tiny, steps=1, model=replace(tiny.model, source=source))
    model = load_checkpoint(train(recipe, tmp_path, device="cpu"))
    whitening = model.get_submodule("encoder.embed.0")
    assert isinstance(whitening, Whitening)
    words, mask = TokensConfig().embedder().embed(["a photo of a ring", "a photo of a box"], 16)
    white = whitening(words)[mask]
    assert not torch.allclose(white, words[mask], atol=0.1)
    assert whitening.mean.abs().max() > 0
