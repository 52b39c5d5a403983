"""Fine-tuning: a training that starts from the weights of a checkpoint, and is known by them."""

import re
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_pipelines import baseline_of
from typer.testing import CliRunner

from crossflow.cli import app
from crossflow.errors import CrossFlowError, Notice
from crossflow.files.hashes import file_sha256
from crossflow.files.tensors import read_header
from crossflow.model.checkpoint import load_checkpoint, save_checkpoint
from crossflow.model.settings import Sampling
from crossflow.recipes import CONFIGS
from crossflow.recipes.recipe import SceneData
from crossflow.scenes import example, render
from crossflow.training.run_state import Run
from crossflow.training.train import train
from crossflow_eval.models.crossflow import finished_training

TINY = CONFIGS["scenes-tiny"]
SMALL = replace(
    TINY,
    model=replace(TINY.model, sampling=Sampling(solver="euler", steps=1)),
    data=SceneData(count=32),
    batch_size=4,
    steps=2,
    log_every=2,
    save_every=1,
    sample_every=2,
)
STILL = replace(SMALL, learning_rate=0.0, weight_decay=0.0)
"""Weights stay where they began."""


def trained(config, out: Path, **options) -> Path:
    return train(config, out, **({"precision": "fp32", "device": "cpu"} | options))


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A checkpoint whose latents are those of two scenes alone."""
    folder = tmp_path_factory.mktemp("start")
    return trained(replace(SMALL, data=SceneData(count=2)), folder / "run", seed=7)


def test_a_training_begins_at_the_weights_it_is_given(start, tmp_path):
    """Those of sampling, to the rounding of the moving average, and the fitted autoencoder to the bit."""
    said: list[str] = []
    path = trained(STILL, tmp_path / "run", init=start, progress=said.append)
    assert said[0] == f"starting from {start}; these losses' networks start anew: contrastive"
    first, found = load_file(start), load_file(path)
    assert first.keys() == found.keys()
    assert all(torch.allclose(part, found[name], rtol=1e-6) for name, part in first.items())
    assert torch.equal(first["autoencoder.basis"], found["autoencoder.basis"])
    fresh = load_file(trained(STILL, tmp_path / "fresh"))
    assert not torch.allclose(fresh["autoencoder.basis"], found["autoencoder.basis"], atol=1e-2)


def test_pairs_are_encoded_by_the_autoencoder_that_was_given(start, tmp_path):
    """Though a training of the same data by its own autoencoder has left its pairs in the same folder."""
    trained(STILL, tmp_path)
    (fresh,) = (tmp_path / "cache").iterdir()
    (tmp_path / "state.safetensors").unlink()
    trained(STILL, tmp_path, init=start)
    (tuned,) = set((tmp_path / "cache").iterdir()) - {fresh}
    target, scene = load_checkpoint(start).autoencoder, example("train", 0).scene
    exact = target.prepare([render(scene)])[0]
    assert torch.allclose(load_file(tuned)["targets"][0], exact, atol=1e-6)
    assert not torch.allclose(load_file(fresh)["targets"][0], exact, atol=1e-2)


def test_the_run_is_known_by_what_it_began_with(start, tmp_path):
    path = trained(SMALL, tmp_path / "run", init=start)
    for name in ("model.safetensors", "state.safetensors"):
        header = read_header(tmp_path / "run" / name)
        assert header["init"] == file_sha256(start)
        assert header["digest"] == SMALL.digest(0, file_sha256(start)) != SMALL.digest(0)
    assert "init" not in read_header(start)
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, load_checkpoint(path))
    for init in (None, other):
        with pytest.raises(CrossFlowError, match="is the state of another run, its init differs"):
            trained(SMALL, tmp_path / "run", init=init, resume=True)
    assert trained(SMALL, tmp_path / "run", init=start, resume=True) == path


def test_a_resumed_run_ends_at_the_same_bits(start, tmp_path, monkeypatch):
    whole = trained(SMALL, tmp_path / "whole", init=start)
    advance = Run.advance

    def stopping(self, shares):
        if self.step == 1:
            raise KeyboardInterrupt
        return advance(self, shares)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "advance", stopping)
        trained(SMALL, tmp_path / "stopped", init=start)
    stopped = trained(SMALL, tmp_path / "stopped", init=start, resume=True)
    assert stopped.read_bytes() == whole.read_bytes()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    """By the name of a tensor, of all models that differ in any."""
    wide = replace(SMALL.model, backbone=replace(SMALL.model.backbone, width=48))
    for config, said in ((wide, "but the recipe asks for"), (baseline_of(SMALL.model), "that the recipe describes")):
        save_checkpoint(tmp_path / "other.safetensors", config.build(training=False))
        with pytest.raises(CrossFlowError, match=said):
            trained(SMALL, tmp_path / "run", init=tmp_path / "other.safetensors")
    with pytest.raises(CrossFlowError, match="There is no file"):
        trained(SMALL, tmp_path / "run", init=tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"backbone": replace(SMALL.model.backbone, heads=2)}, "differs in backbone.heads:"),
        ({"parameterisation": "target", "path": "sincos"}, "differs in path, parameterisation:"),
    ],
)
def test_weights_that_mean_something_else_to_the_recipe_are_taken_and_named(start, tmp_path, other, said):
    with pytest.warns(Notice, match=re.escape(said)):
        trained(replace(STILL, model=replace(STILL.model, **other)), tmp_path / "run", init=start)


def test_what_training_alone_reads_may_differ_from_that_of_the_weights(start, tmp_path):
    losses, sampling = SMALL.model.losses[:1], Sampling(solver="heun", steps=2)
    tuned = replace(STILL, model=replace(STILL.model, losses=losses, sampling=sampling, times="uniform", tail=0.2))
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        trained(tuned, tmp_path / "run", init=start)


def test_a_run_does_not_begin_at_what_it_will_write(start, tmp_path):
    with pytest.raises(CrossFlowError, match="lies in the folder of the run"):
        trained(SMALL, start.parent, init=start)


def test_a_finished_fine_tuning_is_known_as_such(start, tmp_path):
    """The ends of trainings that began elsewhere are told apart."""
    given = ["train", "scenes-tiny", "--steps", "1", "--device", "cpu", "--precision", "fp32"]
    done = CliRunner().invoke(app, [*given, "--init", str(start), "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    path = tmp_path / "run" / "model.safetensors"
    found = finished_training(path, "scenes-tiny", 0, 1, start)
    assert found is not None and found.steps == 1
    for other in (None, path):
        with pytest.raises(CrossFlowError, match="was not trained by the recipe scenes-tiny as it is now"):
            finished_training(path, "scenes-tiny", 0, 1, other)
