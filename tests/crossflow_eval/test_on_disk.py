"""A Hugging Face dataset that was saved to a disk, as images, as captions and as reference captions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from crossflow.errors import CrossFlowError
from crossflow_eval.cli import app
from crossflow_eval.datasets.folder import read_captions
from crossflow_eval.datasets.references import read_references
from crossflow_eval.metrics.pictures import open_pictures

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def saved(path: str, **columns: list[object]) -> Path:
    features = datasets.Features(image=datasets.Image()) if "image" in columns else None
    datasets.Dataset.from_dict(columns, features).save_to_disk(path)
    return Path(path)


def pictures(n: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (8 + k, 9, 3), dtype=np.uint8)) for k in range(n)]


def test_its_images_are_those_of_a_folder_of_them() -> None:
    path = saved("set", image=pictures(3))
    opened = open_pictures(path)
    assert opened.n == 3 and opened.record["count"] == {"PNG": 3}
    for given, found in zip(pictures(3), opened.each(), strict=True):
        assert np.array_equal(np.asarray(given), found)
    Path("folder").mkdir()
    for number, picture in enumerate(pictures(3)):
        picture.save(f"folder/{number}.png")
    said = CliRunner().invoke(app, ["fid", "folder", "set", "--protocol", "efficientnet-lite0", "--json"])
    assert said.exit_code == 0, said.stderr
    assert json.loads(said.stdout)["values"]["fd_efficientnet"]["mean"] == pytest.approx(0, abs=1e-6)


def test_its_texts_are_captions_and_reference_captions_by_id_or_by_number() -> None:
    assert read_captions(saved("by_id", id=[7, 8], caption=["a cat", "a dog"])).of == {"7": ("a cat",), "8": ("a dog",)}
    assert read_captions(saved("numbered", prompt=["a cat"])).of == {"000000": ("a cat",)}
    (first, _) = read_references(saved("several", id=["x", "y"], captions=[["a cat", "one cat"], ["a dog"]]))
    assert (first.id, first.target) == ("x", ["a cat", "one cat"])


def test_a_folder_is_measured_with_its_captions() -> None:
    Path("images").mkdir()
    for number, picture in enumerate(pictures(2)):
        picture.save(f"images/{number:06d}.png")
    saved("texts", caption=["a cat", "a dog"])
    asked = ["t2i", "--model", "folder", "--ckpt", "images", "--captions", "texts", "--json"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["n"] == 2


def damaged() -> Path:
    path = saved("bad", caption=["a"])
    next(path.glob("*.arrow")).write_bytes(b"no arrow")
    return path


def of_parts() -> Path:
    part = datasets.Dataset.from_dict({"caption": ["a"]})
    datasets.DatasetDict({"train": part}).save_to_disk("parts")
    return Path("parts")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: saved("other", text=["a"]), "has the columns text; expected one of caption, prompt, captions"),
        (lambda: saved("empty", caption=["a", " "]), "row 000001: expected text in the column 'caption'"),
        (damaged, "does not load as a dataset"),
        (of_parts, "holds several parts: give one of them, such as parts/train"),
        (lambda: Path("."), "has a caption: write a caption a line into NAME.txt"),
    ],
)
def test_what_is_no_dataset_of_captions_is_one_sentence(make, said: str) -> None:
    with pytest.raises(CrossFlowError, match=said):
        read_captions(make())


def test_a_dataset_without_images_is_one_sentence() -> None:
    with pytest.raises(CrossFlowError, match="expected one of image"):
        open_pictures(saved("texts", caption=["a"]))
