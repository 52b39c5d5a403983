"""The suites: their data is fixed, their references are what they say, and image statistics are what they are named."""

import types
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from crossflow.errors import CrossFlowError
from crossflow_eval import report, suites
from crossflow_eval.metrics.image_statistics import ImageStatistics
from crossflow_eval.report.runs import entries
from crossflow_eval.runs import launch
from crossflow_eval.suites import load_suite, suite_names
from crossflow_eval.suites.scenes import t2i as scenes
from crossflow_eval.types import Example, Suite

EXAMPLE = Example(id="a", source="a")
BLACK = np.zeros((32, 32, 3), np.uint8)
SCENE = types.SimpleNamespace(scene=None)


@pytest.mark.parametrize("name", scenes.SPLIT_OF)
def test_an_embedded_suite_has_1000_examples_with_specifications(name):
    examples = load_suite(name).examples(None)
    assert len({example.id for example in examples}) == len(examples) == 1000
    for example in examples:
        assert example.target["tag"] == example.tags["task"]
        assert example.target["prompt"] == example.source


def test_references_prompts_and_fid_share_no_scene(monkeypatch):
    """Law: the ceiling's FID is of renders that the reference does not hold."""
    drawn = {}
    for role, reference in load_suite("scenes-t2i").references.items():
        seen: list[int] = []
        monkeypatch.setattr("crossflow.scenes.example", lambda split, index, seen=seen: seen.append(index) or SCENE)
        monkeypatch.setattr("crossflow.scenes.render", lambda scene, side: BLACK)
        for number in range(scenes.PROMPTS):
            reference.read(f"test-{number:06d}", 0)
        drawn[role] = set(seen)
    assert drawn["ceiling"] == set(range(1000))
    assert not (drawn["ceiling"] | drawn["chance"]) & set(scenes.FID_REFERENCES)
    assert not drawn["ceiling"] & drawn["chance"]


def test_the_ceiling_is_near_one_and_chance_far_below(monkeypatch):
    """Oracle: the exact reader on renders of the prompts' own scenes, and of scenes that know nothing of them."""
    suite = load_suite("scenes-t2i")
    examples = suite.examples(None)[:60]
    score = {}
    for role, reference in load_suite("scenes-t2i").references.items():
        metric = suite.metrics["geneval"]()
        metric.update(examples, [reference.read(example.id, 0) for example in examples])
        score[role] = metric.compute()["geneval"].mean
    assert score["ceiling"] >= 0.98
    assert score["chance"] <= 0.25


class Brightness:
    """A stand-in for both judges: the mean colour of an image."""

    name, weights_sha256, dim = "brightness", "0" * 64, 3

    def __call__(self, images):
        return np.stack([image.mean(axis=(0, 1)) for image in images]).astype(np.float32)

    def embed_texts(self, texts):
        return np.ones((len(texts), 3), np.float32)


def test_a_run_of_the_embedded_suite_stands_between_its_references(tmp_path, monkeypatch):
    """End to end with stand-ins for the learned judges: three runs, one table, and all of it found again."""
    judge = Brightness()
    monkeypatch.setattr(scenes, "feature_judge", lambda: judge)
    monkeypatch.setattr("crossflow.scenes.judges.load_clip", lambda: judge)
    monkeypatch.setattr(scenes, "FID_REFERENCES", range(1000, 1050))
    monkeypatch.setattr(scenes, "_reference_features", scenes._reference_features.__wrapped__)
    (tmp_path / "grey_of_test_suites.py").write_text(
        "import numpy as np\n"
        "class Grey:\n"
        "    name, identity = 'grey', {}\n"
        "    def generate(self, sources, seeds):\n"
        "        return [np.full((32, 32, 3), seed % 256, np.uint8) for seed in seeds]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    result, folder = launch.evaluate(launch.Request(model="grey_of_test_suites:Grey", limit=12))
    assert folder.parents[1] == Path("runs/scenes-t2i")
    assert result is not None
    assert result.values["geneval"].mean == 0
    found = entries([folder, folder])
    assert [entry.role for entry in found] == ["chance", "ceiling", "model", "model"]
    assert found[1].result.values["geneval"].mean == 1
    table = report.render(entries([folder]), "md")
    assert "FID@12" in table
    assert "Real renders" in table
    before = {path: path.read_bytes() for path in folder.parent.rglob("result.json")}
    launch.score_again(folder)
    assert len(before) == 3
    assert {path: path.read_bytes() for path in folder.parent.rglob("result.json")} == before


def test_image_statistics_are_what_they_are_named():
    """Oracle: by hand on a ramp of slope 10 a pixel, and scipy's moments on noise."""
    ramp = np.repeat(np.arange(0, 80, 10, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(5, axis=0)
    noise = np.random.default_rng(0).integers(0, 256, size=(6, 4, 3), dtype=np.uint8)
    first, second = ImageStatistics().update([EXAMPLE] * 2, [ramp, noise])
    assert (first["width"], first["height"]) == (8, 5)
    assert first["brightness"] == pytest.approx(35, rel=1e-12)
    assert first["sharpness"] == pytest.approx(10, rel=1e-12)
    luma = noise[..., 0] * 0.299 + noise[..., 1] * 0.587 + noise[..., 2] * 0.114
    assert second["brightness"] == pytest.approx(ndimage.mean(luma), rel=1e-12)
    assert second["contrast"] == pytest.approx(ndimage.standard_deviation(luma), rel=1e-12)


def test_image_statistics_do_not_depend_on_batches():
    images = list(np.random.default_rng(0).integers(0, 256, size=(7, 5, 5, 3), dtype=np.uint8))
    whole, parts = ImageStatistics(), ImageStatistics()
    whole.update([EXAMPLE] * 7, images)
    for start in range(0, 7, 2):
        parts.update([EXAMPLE] * len(images[start : start + 2]), images[start : start + 2])
    assert whole.compute() == parts.compute()
    assert ImageStatistics().update([EXAMPLE], [np.zeros((1, 1, 3), np.uint8)])[0]["sharpness"] == 0


def test_another_package_may_add_a_suite(monkeypatch):
    extra = Suite(name="extra", version="1", task="t2i", output="png", examples=lambda root: [], metrics={})
    entries = [
        types.SimpleNamespace(name="extra", load=lambda: lambda root: extra),
        types.SimpleNamespace(name="broken", load=lambda: lambda root: 3),
    ]
    monkeypatch.setattr(suites.metadata, "entry_points", lambda group: entries)
    assert suite_names()[-2:] == ["extra", "broken"]
    assert load_suite("extra") is extra
    with pytest.raises(CrossFlowError, match="is a int, not a crossflow_eval Suite"):
        load_suite("broken")
    with pytest.raises(CrossFlowError, match="Did you mean 'extra'"):
        load_suite("extre")
