"""Inputs as people have them: each bad one ends a command with one sentence and exit code 2, and nothing is lost.

The readers' own tests go through every kind of damage (``test_data``, ``test_statistics_files``,
``test_suites_geneval``, ``test_fetch``); here the same arrives through the command line.
"""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from crossflow.errors import CrossFlowError
from crossflow_eval.cli import app
from crossflow_eval.datasets.folder import read_image
from crossflow_eval.judges import clip, dinov2, inception
from crossflow_eval.judges.geneval.detector import FIT, prepare
from crossflow_eval.judges.resize import PROTOCOLS, preprocessing
from crossflow_eval.judges.statistics_files import read_samples, read_statistics
from crossflow_eval.suites import geneval

PIXELS = np.random.default_rng(0).integers(0, 256, size=(40, 60, 3), dtype=np.uint8)
PHOTO = Image.fromarray(PIXELS)
FOLDER = ("t2i", "--model", "folder", "--ckpt", "images", "--captions", "captions.csv", "--out", "run")


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def corrupt(content: bytes) -> bytes:
    """The same length, but nonsense in the middle."""
    return content[:200] + bytes(range(256)) + content[456:]


BAD = {
    "corrupt.png": (corrupt(encoded(PHOTO, "PNG")), ""),
    "damaged.webp": (corrupt(encoded(PHOTO, "WEBP"))[:-60], ""),
    "nonsense.png": (b"no image at all", "not a BMP, JPEG, PNG, PPM or WEBP file"),
    "truncated.jpg": (encoded(PHOTO, "JPEG")[:-400], "truncated"),
    "cmyk.jpg": (encoded(PHOTO.convert("CMYK"), "JPEG"), "colour mode CMYK"),
    "deep.png": (encoded(Image.fromarray(PIXELS[..., 0].astype(np.uint16)), "PNG"), "16 bits a channel"),
    "alpha.png": (encoded(Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]])), "PNG"), "transparent pixels"),
    "animated.webp": (encoded(PHOTO, "WEBP", save_all=True, append_images=[Image.new("RGB", (60, 40))]), "2 frames"),
    "empty.png": (b"", "zero bytes"),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A current folder with a good image and its caption."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    PHOTO.save(tmp_path / "images" / "good.png")
    (tmp_path / "captions.csv").write_text("image,caption\ngood,a picture\n")
    return tmp_path


def refused(*arguments: object) -> str:
    """The one sentence that a command ends with."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 2, done.output + repr(done.exception)
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: ") and line.endswith(".")
    return line


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_named_and_what_was_finished_is_kept(place, name):
    assert CliRunner().invoke(app, FOLDER).exit_code == 0
    finished = contents(place / "run")
    content, reason = BAD[name]
    (place / "images" / name).write_bytes(content)
    sentence = refused(*FOLDER)
    assert f"1 of 2 images in images cannot be read exactly: {name} ({reason}" in sentence
    assert "Make them again as 8-bit RGB" in sentence
    assert contents(place / "run") == finished


def test_bad_images_are_no_reference_and_all_are_counted(place, monkeypatch):
    """``stats`` reads every file before it writes any."""
    weights = inception.Weights({}, "none", "0" * 64)
    monkeypatch.setattr(inception, "published_weights", lambda protocol: weights)
    monkeypatch.setattr(inception, "Inception", lambda state, dtype: torch.nn.Identity())
    for name, (content, _) in BAD.items():
        (place / "images" / name).write_bytes(content)
    sentence = refused("stats", "images", "out.npz", "--device", "cpu")
    assert f"{len(BAD)} of {len(BAD) + 1} images in images cannot be read exactly: alpha.png (transparent" in sentence
    assert not (place / "out.npz").exists()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (30, 10_000), (10_000, 30), (1, 10_000)])
def test_images_of_any_size_are_measured_as_they_are(place, height, width):
    pixels = np.random.default_rng(1).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(place / "images" / "good.png")
    done = CliRunner().invoke(app, [*FOLDER, "--json"])
    assert done.exit_code == 0, done.stderr
    assert np.array_equal(read_image(place / "run" / "outputs" / "good-0.png"), pixels)
    assert all(np.isfinite(value["mean"]) for value in json.loads(done.stdout)["values"].values())
    for protocol in PROTOCOLS:
        prepared = preprocessing(protocol)(torch.from_numpy(pixels[None]))
        assert prepared.shape == (1, 3, 299, 299) and prepared.isfinite().all()


def test_an_image_of_which_the_detector_would_see_nothing_is_refused():
    """Within 1333 x 800 a line of 10,000 pixels is less than half a pixel high; two lines of 3,000 are one."""
    with pytest.raises(CrossFlowError, match=r"cannot take an image of 10000 x 1 pixels: scaled to 1333 x 800 nothing"):
        prepare(np.zeros((1, 10_000, 3), np.uint8), FIT)
    assert prepare(np.zeros((2, 3_000, 3), np.uint8), FIT)[1] == (1, 1333)
    assert prepare(np.zeros((1, 1, 3), np.uint8), FIT)[1] == (800, 800)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda prompt: (prompt / "metadata.jsonl").unlink(), "do not say what was asked for: 00000 (no metadata"),
        (lambda prompt: prompt.rename(prompt.with_name("cow")), "not named by a prompt's number, 00000 to 00552: cow"),
    ],
)
def test_a_folder_of_geneval_that_is_not_whole_is_one_sentence(place, spoil, sentence):
    prompt = place / "official" / "00000"
    (prompt / "samples").mkdir(parents=True)
    (prompt / "metadata.jsonl").write_text(json.dumps(geneval.examples()[0].target))
    PHOTO.save(prompt / "samples" / "00000.png")
    spoil(prompt)
    assert sentence in refused("geneval", "--model", "folder", "--ckpt", "official")
    assert not (place / "runs").exists()


def test_weights_of_another_hash_are_refused_before_anything_is_read(place, monkeypatch):
    monkeypatch.setenv("CROSSFLOW_EVAL_HOME", str(place))
    (place / "inception-2015-12-05.pt").write_bytes(b"of somebody else")
    sentence = refused("stats", "images", "out.npz")
    assert "inception-2015-12-05.pt (sha256 56ddc30e) is not a published Inception; FID needs" in sentence
    assert not (place / "out.npz").exists()


READERS = {
    "statistics": lambda path: read_statistics(path, "clean"),
    "samples": read_samples,
    "clip": clip.load_clip,
    "dinov2": dinov2.load_dinov2,
}


@pytest.mark.parametrize("reader", READERS)
def test_an_archive_that_would_leave_its_folder_is_not_unpacked(place, reader):
    """No reader writes what an archive holds, and an entry of another folder is not taken for the right one."""
    path = place / "outer" / "inner" / "evil.npz"
    path.parent.mkdir(parents=True)
    stream = io.BytesIO()
    np.save(stream, np.zeros((2, 4, 4, 3), np.uint8))
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("../arr_0.npy", "../mu.npy", "../sigma.npy", "../data.pkl", "../../escaped"):
            archive.writestr(name, stream.getvalue())
    before = contents(place)
    with pytest.raises(CrossFlowError, match=r"evil\.npz") as error:
        READERS[reader](path)
    assert "\n" not in str(error.value)
    assert contents(place) == before
