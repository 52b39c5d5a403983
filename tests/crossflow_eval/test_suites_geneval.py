"""The suite geneval: its prompts are GenEval's, its folders are those of GenEval's script, and bad ones are refused."""

import dataclasses
import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from crossflow.errors import CrossFlowError
from crossflow_eval import suites
from crossflow_eval.cli import app
from crossflow_eval.judges.geneval.detector import object_names
from crossflow_eval.metrics.geneval import TASKS, Detection, GenEval
from crossflow_eval.models.folder import FolderModel
from crossflow_eval.runs import run
from crossflow_eval.suites import geneval, load_suite

DATA = Path(geneval.__file__).with_name("geneval.jsonl")


class Noise:
    """A model whose images depend on the seed alone."""

    name, identity = "noise", {}

    def generate(self, sources, seeds):
        return [np.random.default_rng(seed).integers(0, 256, (8, 9, 3), np.uint8) for seed in seeds]


class Bench:
    """Sees one bench in everything, and no colour but red."""

    protocol: ClassVar = {}

    def __call__(self, image, detections=None, label=None):
        return [Detection("bench", 0.99, (0, 0, 4, 4))] if detections is None else ["red"] * len(detections)


SUITE = dataclasses.replace(geneval.SUITE, metrics={"geneval": lambda: GenEval(Bench(), Bench())})


def measured(model, folder: Path, limit: int = 2):
    settings = run.make_settings(SUITE, model, limit=limit)
    return run.run(SUITE, model, settings, geneval.examples()[:limit], folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a run of the first two prompts."""
    folder = tmp_path_factory.mktemp("run") / "noise"
    measured(Noise(), folder)
    return folder


@pytest.fixture
def official(finished, tmp_path) -> Path:
    """That run's images in GenEval's layout."""
    for example in geneval.examples()[:2]:
        samples = tmp_path / "official" / example.id / "samples"
        samples.mkdir(parents=True)
        (samples.parent / "metadata.jsonl").write_text(json.dumps(example.target))
        for k in range(4):
            shutil.copyfile(finished / "outputs" / f"{example.id}-{k}.png", samples / f"{k:05d}.png")
    return tmp_path / "official"


def test_the_prompts_are_those_of_geneval():
    assert hashlib.sha256(DATA.read_bytes()).hexdigest().startswith("5c48e0813e812e3c")
    suite = load_suite("geneval")
    examples = suite.examples(None)
    tasks = Counter(example.tags["task"] for example in examples)
    assert tasks == dict(zip(TASKS, (80, 99, 80, 94, 100, 100), strict=True))
    assert suite.outputs_per_example == 4
    assert (examples[0].id, examples[0].source, examples[-1].id) == ("00000", "a photo of a bench", "00552")
    asked = {clause["class"] for example in examples for clause in example.target["include"]}
    assert asked <= set(object_names())
    with pytest.raises(CrossFlowError, match="--data"):
        suite.examples(Path("captions.csv"))


def test_a_run_judges_four_images_a_prompt(finished):
    rows = [json.loads(line) for line in (finished / "n-2" / "per_example.jsonl").read_text().splitlines()]
    assert [(row["id"], row["index"], row["correct"]) for row in rows[3:5]] == [("00000", 3, True), ("00001", 0, False)]
    assert rows[4]["reason"] == "expected cow>=1, found 0"


def test_the_official_layout_gives_back_the_same_images_and_score(finished, official, tmp_path):
    """Round trip: out of a run into GenEval's folders, and in again as a model."""
    assert sorted(path.name for path in (official / "00001" / "samples").iterdir()) == [
        f"0000{k}.png" for k in range(4)
    ]
    assert json.loads((official / "00001" / "metadata.jsonl").read_text()) == geneval.specifications()[1]
    model = geneval.folder_model(official)
    assert isinstance(model, geneval.OfficialFolder)
    model.check(geneval.examples()[:2], geneval.examples(), 4)
    again = measured(model, tmp_path / "again")
    assert again.values == measured(Noise(), finished).values
    for path in (finished / "outputs").iterdir():
        assert (
            np.asarray(Image.open(path)) == np.asarray(Image.open(tmp_path / "again" / "outputs" / path.name))
        ).all()


def test_the_command_geneval_measures_images_in_the_official_layout(finished, official, tmp_path, monkeypatch):
    monkeypatch.setitem(suites.SUITES, "geneval", lambda root: SUITE)
    words = ["geneval", "--model", "folder", "--ckpt", official, "--limit", 2, "--out", tmp_path / "run", "--json"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.stderr
    expected = measured(Noise(), finished).model_dump(mode="json")["values"]
    assert json.loads(done.stdout)["values"] == expected


def test_a_flat_folder_is_read_by_the_names_of_the_outputs(finished):
    model = geneval.folder_model(finished / "outputs")
    assert type(model) is FolderModel
    model.check(geneval.examples()[:2], geneval.examples(), 4)


def test_images_are_taken_in_the_order_of_their_numbers(official):
    samples = official / "00000" / "samples"
    before = geneval.OfficialFolder(official).read("00000", 0)
    (samples / "00000.png").rename(samples / "11.png")
    model = geneval.OfficialFolder(official)
    assert (model.read("00000", 3) == before).all()
    assert model.identity["images"] == 8


@pytest.mark.parametrize(("more", "rewritten"), [({"prompt": "A photograph of it"}, 1), ({"seed": 1}, 0)])
def test_a_rewritten_prompt_is_judged_by_what_is_asked_for(finished, official, tmp_path, more, rewritten):
    """GenEval's script reads tag, include and exclude of the metadata, and only copies the prompt to its output."""
    path = official / "00001" / "metadata.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    model = geneval.OfficialFolder(official)
    assert model.identity.get("rewritten_prompts", 0) == rewritten
    assert measured(model, tmp_path / "again").values == measured(Noise(), finished).values


def break_folder(official: Path, how: str) -> None:
    prompt = official / "00001"
    {
        "no metadata": lambda: (prompt / "metadata.jsonl").unlink(),
        "damaged metadata": lambda: (prompt / "metadata.jsonl").write_text("{"),
        "other metadata": lambda: shutil.copy(official / "00000" / "metadata.jsonl", prompt / "metadata.jsonl"),
        "named": lambda: prompt.rename(official / "cow"),
        "beyond": lambda: prompt.rename(official / "00553"),
        "no samples": lambda: shutil.rmtree(prompt / "samples"),
        "image named": lambda: (prompt / "samples" / "00000.png").rename(prompt / "samples" / "first.png"),
        "corrupt image": lambda: (prompt / "samples" / "00002.png").write_bytes(b"\x89PNG\r\n\x1a\n"),
        "truncated image": lambda: (prompt / "samples" / "00002.png").write_bytes(
            (prompt / "samples" / "00001.png").read_bytes()[:-20]
        ),
    }[how]()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no metadata", r"1 of 2 folders .* do not say what was asked for: 00001 \(no metadata.jsonl\)"),
        ("damaged metadata", r"00001 \(metadata.jsonl is not JSON\)"),
        ("other metadata", r"00001 \(metadata.jsonl is of another prompt: include\)"),
        ("named", "1 of 2 folders .* not named by a prompt's number, 00000 to 00552: cow"),
        ("beyond", "00553"),
        ("no samples", "There is no folder .*00001/samples"),
        ("image named", r"not named by a number: first\.png"),
        ("corrupt image", r"00001/samples cannot be read exactly: 00002\.png"),
        ("truncated image", r"00002\.png \(truncated\)"),
    ],
)
def test_a_bad_folder_is_refused_by_name(official, how, message):
    break_folder(official, how)
    with pytest.raises(CrossFlowError, match=message):
        geneval.folder_model(official)


def test_too_few_and_too_many_images_are_refused(official):
    samples = official / "00001" / "samples"
    (samples / "00003.png").rename(official / "00000" / "samples" / "00004.png")
    model = geneval.OfficialFolder(official)
    with pytest.raises(CrossFlowError, match=r"1 of 8 images are missing .*: 00001-3"):
        model.check(geneval.examples()[:2], geneval.examples(), 4)
    with pytest.raises(CrossFlowError, match="belong to no example"):
        model.check(geneval.examples()[:1], geneval.examples(), 4)


def test_missing_and_foreign_weights_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSFLOW_EVAL_HOME", str(tmp_path))
    make = load_suite("geneval").metrics["geneval"]
    detector = "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth"
    with pytest.raises(CrossFlowError, match=f"{detector} .*download.openmmlab.com.* put the file at {tmp_path}"):
        make()
    (tmp_path / detector).write_bytes(b"another file")
    with pytest.raises(CrossFlowError, match=r"ViT-L-14\.pt"):
        make()
    (tmp_path / "ViT-L-14.pt").write_bytes(b"another file")
    with pytest.raises(CrossFlowError, match="expected 743b7d99"):
        make()
