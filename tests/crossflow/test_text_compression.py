"""The benchmark of what a text keeps as a latent: what it counts, and that it learns anything at all."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from crossflow.modalities.text_autoencoder import TextAutoencoder


@pytest.fixture(scope="module")
def benchmark():
    """The module, which is run from the repository's root."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2])
        yield importlib.import_module("benchmarks.text_compression")


class Reading(TextAutoencoder):
    """Says what its latents hold, whose numbers are those of words."""

    def __init__(self, config):
        super().__init__(config, (config.count, 1, 1))
        self.decoder.forward = lambda latents: torch.eye(1 + len(config.words))[latents[:, :, 0, 0].long()]


def test_shares_are_of_words_and_of_whole_captions(benchmark):
    config = replace(benchmark.own(), words=("a", "red", "blue", "ball"), count=5, width=4, heads=1, scale=0.5)
    model, texts = Reading(config), ["a red ball", "a ball", "a blue ball", "a red ball"]
    words = model.tokenize(texts)
    heard = words.clone()
    heard[1, 1] = 0  # a ball that is lost
    heard[2, 3] = 1  # a word too many: the caption is wrong, its own words are right
    kept = benchmark.kept(model, texts, words, heard[:, :, None, None].float())
    assert kept == pytest.approx((10 / 11, 2 / 4))


def test_a_line_has_the_mean_and_the_extremes(benchmark):
    runs = [benchmark.Kept(0.5, 0.25), benchmark.Kept(1.0, 0.75)]
    assert benchmark.line("plain", "mean", runs) == (
        "| plain | mean | 75.00 (50.00 to 100.00) | 50.00 (25.00 to 75.00) |"
    )


@pytest.mark.parametrize(("kl_weight", "read_from"), [(None, {"mean"}), (1e-5, {"mean", "sample"})])
def test_only_what_has_a_variance_is_sampled(benchmark, kl_weight, read_from):
    config = replace(benchmark.own(), width=8, heads=1, kl_weight=kl_weight)
    assert benchmark.measure(TextAutoencoder(config, benchmark.SHAPE), ["a red ball"], 0).keys() == read_from


def test_an_autoencoder_learns_to_read_itself(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "BATCH", 4)
    texts = benchmark.captions("train", 2)
    model = benchmark.learned(replace(benchmark.own(), width=32, heads=2), texts, 300, 0)
    assert benchmark.measure(model, texts, 0) == {"mean": (1.0, 1.0), "sample": (1.0, 1.0)}
