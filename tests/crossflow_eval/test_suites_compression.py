"""Text compression on the embedded world: the cosines by hand, and a checkpoint that is measured twice."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from crossflow.errors import CrossFlowError
from crossflow.losses import TextReconstruction
from crossflow.model.settings import Sampling
from crossflow.recipes import CONFIGS
from crossflow.recipes.recipe import SceneData
from crossflow.training.train import train
from crossflow_eval.cli import app
from crossflow_eval.metrics.compression import COSINES, TokenCosine
from crossflow_eval.models import compression
from crossflow_eval.outputs import KINDS
from crossflow_eval.suites import load_suite
from crossflow_eval.types import Example

SIZES = {"token_values": 6144, "latent_values": 768}


def test_the_cosine_is_of_each_token_then_of_each_text():
    """By hand: a text of two tokens, one right and one orthogonal, and a text of one opposite token; scale is free."""
    own, across = [3.0, 0.0], [0.0, 0.5]
    first = np.array([[own, own], [own, across], [own, own], [across, across]], dtype=np.float16)
    second = np.array([[own], [[-2.0, 0.0]], [own], [[1.0, 1.0]]], dtype=np.float16)
    metric = TokenCosine()
    rows = metric.update([Example(id=i, source="", target=SIZES) for i in "ab"], [first, second])
    assert [row["tokens"] for row in rows] == [2, 1]
    values = {name: value.mean for name, value in metric.compute().items()}
    assert values == pytest.approx(
        {
            "cosine": (0.5 - 1) / 2,
            "cosine_mean": 1.0,
            "cosine_baseline": np.sqrt(0.5) / 2,
            "compression_ratio": 8.0,
        },
        abs=1e-9,
    )


def test_the_command_measures_resumes_and_scores_again(tmp_path, monkeypatch):
    monkeypatch.setattr(compression, "PROMPTS", 30)
    tiny = CONFIGS["scenes-tiny"]
    model = replace(
        tiny.model, losses=(TextReconstruction(width=8, heads=1),), sampling=Sampling(solver="euler", steps=1)
    )
    recipe = replace(tiny, model=model, data=SceneData(count=32), batch_size=4, steps=2, sample_every=2)
    path, out = train(recipe, tmp_path / "model", device="cpu"), tmp_path / "run"

    def called(*words: object) -> dict:
        done = CliRunner().invoke(app, [*map(str, words), "--json"])
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)["values"]

    first = called("compression", "--ckpt", path, "--limit", 6, "--device", "cpu", "--out", out)
    assert first["compression_ratio"]["mean"] == 8.0
    assert all(-1 <= first[name]["mean"] <= 1 and first[name]["n"] == 6 for name in COSINES)
    assert first["cosine_baseline"]["mean"] > 0.5  # prompts are alike at their places
    output = KINDS["tokens"].decode((out / "outputs" / "test-000000-0.tokens").read_bytes())
    assert output.shape[0::2] == (4, 384)
    (out / "outputs" / "test-000001-0.tokens").unlink()
    assert called("compression", "--ckpt", path, "--limit", 6, "--device", "cpu", "--out", out) == first
    assert called("score", out) == first


def test_the_shipped_model_has_no_decoder_and_says_so(tmp_path):
    done = CliRunner().invoke(app, ["compression", "--device", "cpu", "--out", str(tmp_path)])
    assert (done.exit_code, "trained without a decoder of its text" in done.stderr) == (2, True)


def test_a_model_must_say_how_large_its_tokens_and_latents_are():
    class Silent:
        name, identity = "silent", {}

        def generate(self, sources, seeds):
            return []

    suite = load_suite("scenes-compression")
    with pytest.raises(CrossFlowError, match="silent lacks token_values"):
        suite.fitted(Silent())
