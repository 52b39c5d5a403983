"""The Karpathy suites: the archive read by its hash, its images, and a run of predictions from file to result."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile

import pytest
from PIL import Image

from crossflow.errors import CrossFlowError
from crossflow_eval.metrics.caption import CaptionScores
from crossflow_eval.models.predictions import PredictedCaptions
from crossflow_eval.runs import run
from crossflow_eval.suites import caption, load_suite

LISTED = [
    (
        "test",
        391895,
        ["A man rides a motorcycle.", "A man on a bike", "Someone rides (fast)", "a rider", "Man, riding"],
    ),
    ("train", 522418, ["A woman cuts a cake."] * 5),
    ("restval", 60623, ["A man eats."] * 5),
    ("val", 184613, ["A child with an umbrella", "a child", "a boy", "an umbrella", "Child & umbrella", "A cow"]),
    ("test", 318219, ["A boy with a keyboard.", "a boy", "A keyboard", "the boy is typing", "typing"]),
]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data root whose archive holds five images, taken for the published one."""
    images = [
        {
            "filepath": "val2014",
            "filename": f"COCO_val2014_{number:012d}.jpg",
            "cocoid": number,
            "split": split,
            "sentences": [{"raw": text, "tokens": text.lower().split()} for text in texts],
        }
        for split, number, texts in LISTED
    ]
    folder = tmp_path / "coco"
    folder.mkdir()
    with zipfile.ZipFile(folder / caption.ARCHIVE, "w") as archive:
        archive.writestr("dataset_coco.json", json.dumps({"images": images, "dataset": "coco"}))
    monkeypatch.setattr(caption, "SHA256", hashlib.sha256((folder / caption.ARCHIVE).read_bytes()).hexdigest())
    return folder


def add_images(root):
    (root / "val2014").mkdir()
    for _, number, _ in LISTED:
        Image.new("RGB", (8, 8)).save(root / "val2014" / f"COCO_val2014_{number:012d}.jpg")


@pytest.mark.parametrize(("name", "split"), [("coco_karpathy", "test"), ("coco_karpathy_val", "val")])
def test_a_suite_is_one_split_with_all_its_references(root, name, split):
    examples = load_suite(name).examples(root)
    assert [(int(example.id), example.target) for example in examples] == [
        (number, texts) for of, number, texts in LISTED if of == split
    ]
    assert examples[0].source == f"COCO_val2014_{int(examples[0].id):012d}.jpg"


def test_sources_are_the_images_where_they_are(root):
    add_images(root)
    for name in caption.SUITES:
        suite = load_suite(name)
        assert (suite.task, suite.output, suite.outputs_per_example) == ("caption", "txt", 1)
        for example in suite.examples(root):
            assert example.source == root / "val2014" / f"COCO_val2014_{int(example.id):012d}.jpg"


def test_a_root_that_is_not_the_published_data_is_refused(root, monkeypatch, tmp_path):
    suite = load_suite("coco_karpathy")
    with pytest.raises(CrossFlowError, match=r"needs its data root and none was given\. Fetch cs\.stanford\.edu"):
        suite.examples(None)
    with pytest.raises(CrossFlowError, match=r"there is no caption_datasets\.zip in .*Fetch cs\.stanford\.edu"):
        suite.examples(tmp_path)
    with pytest.raises(
        CrossFlowError, match=r"There are no images in .*val2014; unpack .* or choose the suite coco_kar"
    ):
        load_suite("coco_karpathy_clip").examples(root)
    monkeypatch.undo()
    with pytest.raises(CrossFlowError, match=r"caption_datasets\.zip has sha256 .*, expected 4cfd70132527b809…; fetch"):
        suite.examples(root)


@pytest.mark.skipif(shutil.which("java") is None, reason="there is no java on the PATH")
def test_predictions_of_any_system_become_a_result(root, tmp_path, monkeypatch):
    """End to end, without METEOR: results file, outputs on disk, scores. The same run again changes nothing."""
    monkeypatch.setitem(
        caption.SUITES, "coco_karpathy", ("test", {"captions": lambda: CaptionScores(with_meteor=False)})
    )
    results = [{"image_id": 318219, "caption": ""}, {"image_id": 391895, "caption": "A man rides a motorcycle"}]
    (tmp_path / "results.json").write_text(json.dumps(results))
    suite, model = load_suite("coco_karpathy"), PredictedCaptions(tmp_path / "results.json")
    examples = run.list_examples(suite, root)
    model.check(examples, examples, suite.outputs_per_example)
    settings = run.make_settings(suite, model)
    result = run.run(suite, model, settings, examples, tmp_path / "run")
    assert result is not None
    assert result.n == 2
    assert result.values["rouge_l"].mean == pytest.approx(0.5)
    assert (tmp_path / "run" / "outputs" / "318219-0.txt").read_bytes() == b""
    assert result.protocol["captions"]["bleu"] == "corpus counts, closest reference length"
    before = (tmp_path / "run" / "n-2" / "result.json").read_bytes()
    assert run.run(suite, model, settings, examples, tmp_path / "run") == result
    assert (tmp_path / "run" / "n-2" / "result.json").read_bytes() == before


def test_spice_and_clip_score_want_their_files_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setenv("CROSSFLOW_EVAL_HOME", str(tmp_path))
    (tmp_path / "java").write_text("#!/bin/sh\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, told in {"coco_karpathy_spice": "SPICE needs stanford-corenlp", "coco_karpathy_clip": "ViT-B-32"}.items():
        with pytest.raises(CrossFlowError, match=told):
            run.make_metrics(load_suite(name))
