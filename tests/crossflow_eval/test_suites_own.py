"""References of one's own: every task is measured against them, under no published name, and what lacks is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from crossflow.errors import CrossFlowError
from crossflow_eval.cli import app
from crossflow_eval.cli.fid import PUBLISHED
from crossflow_eval.datasets.folder import read_captions
from crossflow_eval.datasets.references import read_references
from crossflow_eval.judges.local_weights import HOME
from crossflow_eval.judges.references import REFERENCES
from crossflow_eval.metrics.image_sets import measure
from crossflow_eval.suites import own


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(HOME, str(tmp_path / "home"))
    return tmp_path


def measured(*arguments: str) -> dict:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refused(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1, done.output
    return done.stderr


def pictures(folder: str, names: list[str], low: int = 0) -> None:
    Path(folder).mkdir()
    generator = np.random.default_rng(low)
    for name in names:
        pixels = generator.integers(low, low + 100, size=(24, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(Path(folder) / f"{name}.png")


OURS = ("t2i", "--model", "folder", "--ckpt", "ours")


def test_images_are_measured_against_a_folder_as_by_the_command_fid() -> None:
    pictures("ours", list("abcde"))
    pictures("real", list("uvwx"), low=80)
    found = measured(*OURS, "--references", "real", "--name", "my model")
    alone = measure("ours", "real", protocol="efficientnet-lite0", also=["kid"])
    for name in ("fd_efficientnet", "kd_efficientnet"):
        assert found["values"][name]["mean"] == pytest.approx(alone.values[name].mean)
    assert found["settings"]["model"] == "my model" and "my model" in Path(found["report"]).read_text()
    pictures("other", list("pq"), low=150)
    assert measured(*OURS, "--references", "other")["run"] != found["run"]


def test_what_a_number_lacks_is_named_by_file_and_measured_once_it_is_there(
    inception_pth: Path, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    from crossflow_eval.judges import inception

    pictures("ours", list("abc"))
    pictures("real", list("uv"), low=80)
    lacking = measured(*OURS, "--references", "real")
    assert "inception-2015-12-05.pt" in lacking["protocol"]["fid"]["absent"] and "fid" not in lacking["values"]
    assert "not measured" in Path(lacking["report"]).read_text()
    (place / "home").mkdir()
    (place / "home" / "inception-2015-12-05.pt").touch()
    weights = inception.load_weights(inception_pth, published=False)
    monkeypatch.setattr(inception, "published_weights", lambda protocol: weights)
    monkeypatch.setattr(inception, "BATCH", 1)
    whole = measured(*OURS, "--references", "real")
    assert whole["run"] == lacking["run"] and "absent" not in whole["protocol"]["fid"]
    assert whole["values"]["fid"]["mean"] == pytest.approx(measure("ours", "real").values["fid"].mean)
    assert measured("score", whole["run"], "--data", "real")["values"]["fid"] == whole["values"]["fid"]


def test_with_captions_each_image_has_its_prompt_and_clip_score_says_what_it_needs() -> None:
    pictures("ours", ["a", "b"])
    Path("captions.txt").write_text("one\n\ntwo\n")
    Path("samples.jsonl").write_text('{"file": "a.png", "prompt": "one"}\n{"file": "b.png", "prompt": "two"}\n')
    found = measured(*OURS, "--references", "ours", "--captions", "samples.jsonl")
    assert "ViT-L-14.pt" in found["protocol"]["clip_score_ViT-L-14"]["absent"]
    rows = [json.loads(line) for line in (Path(found["run"]) / "per_example.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["one", "two"]
    assert read_captions(Path("captions.txt")).of == {"000000": ("one",), "000001": ("two",)}


def test_names_in_a_captions_file_have_either_slash_and_any_unicode_form() -> None:
    Path("captions.csv").write_text("image,caption\nsub\\cafe\u0301.png,one\nsub/d.png,two\n")
    assert read_captions(Path("captions.csv")).of == {"caf\u00e9": ("one",), "d": ("two",)}


@pytest.mark.parametrize("read", [read_captions, read_references])
def test_captions_of_two_images_are_never_taken_for_those_of_one(read) -> None:
    """Without their folders train/1.jpg and val/1.jpg have one name, which outputs are called by."""
    Path("some.jsonl").write_text(
        "".join(f'{{"image": "{name}", "caption": "x"}}\n' for name in ("train/1.jpg", "2.jpg", "val/1.jpg"))
    )
    with pytest.raises(CrossFlowError, match=r"2 images in some.jsonl share .* \(train/1.jpg, val/1.jpg\)"):
        read(Path("some.jsonl"))
    Path("some.jsonl").write_text('{"image": "a/1.jpg", "caption": "x"}\n{"image": "a\\\\1.jpg", "caption": "y"}\n')
    found = read(Path("some.jsonl"))
    assert (list(found.of) if read is read_captions else [each.id for each in found]) == ["1"]


COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}, {"id": 3, "file_name": "c.jpg"}],
    "annotations": [
        {"image_id": 2, "id": 1, "caption": "a dog runs"},
        {"image_id": 1, "id": 2, "caption": "a cat on a mat"},
        {"image_id": 2, "id": 3, "caption": "a dog"},
    ],
}


def test_reference_captions_are_of_cocos_numbers_or_of_ones_own_ids(caplog: pytest.LogCaptureFixture) -> None:
    Path("coco.json").write_text(json.dumps(COCO))
    with caplog.at_level("WARNING"):
        read_references(Path("coco.json"))
    assert "1 of 3 images in coco.json have no captions and are left out." in caplog.text
    targets = {example.id: example.target for example in read_references(Path("coco.json"))}
    assert targets == {"1": ["a cat on a mat"], "2": ["a dog runs", "a dog"]}
    Path("own.jsonl").write_text('{"id": 7, "caption": "x"}\n{"id": "b", "caption": "y"}\n{"id": 7, "caption": "z"}\n')
    assert {example.id: example.target for example in read_references(Path("own.jsonl"))} == {
        "7": ["x", "z"],
        "b": ["y"],
    }
    Path("twice.json").write_text(
        json.dumps(COCO | {"images": [{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "a"}]})
    )
    for name in ("twice.json", "own.csv"):
        with pytest.raises(CrossFlowError, match=name):
            read_references(Path(name))


def test_a_published_reference_is_given_by_its_name() -> None:
    pictures("ours", ["a", "b"])
    assert set(PUBLISHED) == REFERENCES.keys()
    for name, reference in REFERENCES.items():
        assert f"The reference {name} is {reference.file}: fetch it from" in refused(*OURS, "--references", name)


def depth_maps(folder: str, factor: float) -> None:
    Path(folder).mkdir()
    for number, side in enumerate((6, 9)):
        depth = np.linspace(1, 3, side * side, dtype=np.float32).reshape(side, side)
        np.save(Path(folder) / f"{number}.npy", depth * factor)


@pytest.mark.parametrize(("suite", "expected"), [((), 0.1), (("--suite", "own-depth_affine"), 0.0)])
def test_depth_of_any_size_is_measured_in_metres_or_up_to_scale(suite: tuple[str, ...], expected: float) -> None:
    depth_maps("true", 1.0)
    depth_maps("ours", 1.1)
    found = measured("depth", "--ckpt", "ours", "--references", "true", *suite)
    assert found["values"]["abs_rel"]["mean"] == pytest.approx(expected, abs=1e-5) and found["n"] == 2


def test_disparity_is_fitted_as_disparity() -> None:
    depth_maps("true", 1.0)
    Path("ours").mkdir()
    for path in Path("true").iterdir():
        np.save(Path("ours") / path.name, 5 / np.load(path))
    found = measured("depth", "--ckpt", "ours", "--references", "true", "--space", "disparity")
    assert found["values"]["abs_rel"]["mean"] == pytest.approx(0, abs=1e-5)


def test_super_resolved_pairs_have_any_size_and_a_list_of_ids_takes_some() -> None:
    pictures("high", list("abc"))
    pictures("ours", list("abc"))
    Path("some.txt").write_text("c\na\n")
    arguments = ("sr", "--ckpt", "ours", "--references", "high", "--ids", "some.txt")
    found = measured(*arguments)
    assert found["n"] == 2 and found["values"]["ssim_rgb"]["mean"] == pytest.approx(1)
    assert {"fd_efficientnet", "kd_efficientnet"} <= found["values"].keys()
    assert "inception-2015-12-05.pt" in found["protocol"]["fid"]["absent"]
    one = measured("sr", "--ckpt", "ours", "--references", "high", "--limit", "1")
    assert one["values"]["ssim_rgb"]["mean"] == pytest.approx(1) and "fd_efficientnet" not in one["values"]
    assert one["protocol"]["fd_efficientnet"]["warning"] == "not measured: one output has no distance"
    page = Path(found["report"]).read_text()
    assert "Own data (own-sr)" in page and "Table 6" not in page and "(paper)" not in page
    assert measured("score", found["run"], "--data", "high")["n"] == 2
    compared = measured("compare", found["run"], found["run"], "--data", "high")["scores"]
    assert compared["fd_efficientnet"]["first"] == pytest.approx(found["values"]["fd_efficientnet"]["mean"])
    Path("some.txt").write_text("z\n")
    assert "1 of 1 ids in some.txt are of no example: z" in refused(*arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sr", "--suite", "imagenet_sr", "--references", "r"), "leave --references out"),
        (("sr", "--suite", "own-sr", "--ckpt", "r"), "takes --references"),
        (("sr", "--references", "r", "--data", "."), "leave --data out"),
        (("t2i", "--model", "folder", "--ckpt", "r", "--references", "nowhere"), "There is no file or folder nowhere"),
        (("t2i", "--references", "r"), "give --captions too"),
        (("sr", "--references", "r", "--ckpt", "r", "--name", "a/b"), "names no folder"),
    ],
)
def test_what_does_not_fit_is_one_sentence(arguments: tuple[str, ...], said: str) -> None:
    pictures("r", ["a", "b"])
    assert said in refused(*arguments)


def test_every_suite_of_ones_own_says_what_it_needs() -> None:
    for name, make in own.SUITES.items():
        suite = make(None)
        assert suite.root == "references" and suite.name == name
        if suite.fitted is None:
            with pytest.raises(CrossFlowError, match="--references"):
                suite.examples(None)
