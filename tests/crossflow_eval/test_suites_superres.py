"""The super-resolution suite: its pairs are made by the recipe, kept whole, and judged from a folder of images."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from crossflow.errors import CrossFlowError
from crossflow.files.resizing import shrunk_pair
from crossflow_eval.cli import app
from crossflow_eval.judges.inception import load_weights
from crossflow_eval.metrics.fid import make_statistics
from crossflow_eval.metrics.restoration import CHANNELS, MEASURES, Restoration
from crossflow_eval.models.folder import FolderModel
from crossflow_eval.report import load, render
from crossflow_eval.runs import run
from crossflow_eval.runs.run import list_examples, make_settings
from crossflow_eval.suites import load_suite, superres
from crossflow_eval.suites.superres import HIGH, LOW, PROTOCOL, STATISTICS, prepare
from crossflow_eval.tables import load_table


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(0, 256, size=(height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """The root that four originals give: two in classes' folders as ImageNet's, one grey, one too small."""
    images, root = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("root")
    (images / "n01440764").mkdir()
    Image.fromarray(picture(260, 300)).save(images / "n01440764" / "ILSVRC2012_val_00000001.JPEG", quality=95)
    Image.fromarray(picture(512, 600, 1)).save(images / "ILSVRC2012_val_00000002.png")
    Image.fromarray(picture(256, 256, 2)[..., 0]).save(images / "ILSVRC2012_val_00000003.png")
    Image.fromarray(picture(255, 900, 3)).save(images / "ILSVRC2012_val_00000004.png")
    assert prepare(images, root) == (3, 1)
    return images, root


def test_a_target_is_the_middle_square_averaged_by_area():
    """Oracle: the mean of 2 x 2 blocks, rounded, for a square of twice the side; else the very pixels."""
    image = picture(512, 601)
    image += np.random.default_rng(1).integers(0, 40, image.shape, dtype=np.uint8)
    _, high = shrunk_pair(image, HIGH, LOW)
    means = image[:, 44:556].astype(np.float64).reshape(256, 2, 256, 2, 3).mean(axis=(1, 3))
    assert np.abs(high - means).max() <= 0.5
    small = picture(300, 256)
    assert np.array_equal(shrunk_pair(small, HIGH, LOW)[1], small[22:278])


def test_a_source_is_its_target_without_aliases():
    """Law: stripes finer than a source's pixel become flat grey; plain subsampling would keep black or white."""
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    low, high = shrunk_pair(stripes, HIGH, LOW)
    assert low.shape == (64, 64, 3)
    assert np.array_equal(high, stripes)
    assert np.abs(low[4:-4, 4:-4].astype(int) - 127.5).max() <= 2


def test_the_examples_are_the_prepared_pairs(pairs):
    _, root = pairs
    examples = list_examples(load_suite("imagenet_sr"), root)
    assert [example.id[-1] for example in examples] == ["1", "2", "3"]
    for example in examples:
        low, high = (Image.open(path) for path in (example.source, example.target))
        assert (low.size, high.size, low.mode, high.mode) == ((64, 64), (256, 256), "RGB", "RGB")
        assert np.array_equal(np.asarray(low.convert("RGB")), shrunk_pair(np.asarray(high), HIGH, LOW)[0])


def test_a_preparation_goes_on_where_it_was_stopped(pairs, tmp_path):
    images, root = pairs
    for part in ("low", "high"):
        (tmp_path / part).mkdir()
        name = "ILSVRC2012_val_00000001.png"
        (tmp_path / part / name).write_bytes((root / part / name).read_bytes())
    kept = (tmp_path / "low" / name).stat().st_mtime_ns
    assert prepare(images, tmp_path) == (3, 1)
    assert (tmp_path / "low" / name).stat().st_mtime_ns == kept
    for part in ("low", "high"):
        names = [path.name for path in sorted((root / part).iterdir())]
        assert [path.name for path in sorted((tmp_path / part).iterdir())] == names
        assert all((tmp_path / part / each).read_bytes() == (root / part / each).read_bytes() for each in names)


def test_enlarged_sources_are_judged_and_stand_beside_the_published_rows(pairs, tmp_path):
    _, root = pairs
    suite = load_suite("imagenet_sr")
    examples = list_examples(suite, root)
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    for example in examples:
        enlarged = Image.open(example.source).resize((256, 256), Image.Resampling.BICUBIC)
        enlarged.save(outputs / f"{example.id}.png")
    model = FolderModel(outputs)
    model.check(examples, examples, 1)
    result = run.run(suite, model, make_settings(suite, model), examples, tmp_path / "run")
    assert result is not None
    assert 10 < result.values["psnr_rgb"].mean < 40
    assert result.values["ssim_rgb"].mean != result.values["ssim_padded_rgb"].mean
    rows = [
        json.loads(line) for line in next((tmp_path / "run").glob("n-*/per_example.jsonl")).read_text().splitlines()
    ]
    assert result.values["psnr_y"].mean == pytest.approx(np.mean([row["psnr_y"] for row in rows]), rel=1e-12)
    report = render([load(tmp_path / "run")], "md")
    assert "Table 6" in report
    assert "26.4" in report


def test_table_6_holds_the_papers_values_and_columns_that_are_measured():
    table = load_table("table6")
    published = {row.label: row.published for row in table.rows}
    assert published["CrossFlow"] == {"FID": 3.0, "IS": 207.2, "PSNR": 25.6, "SSIM": 0.764}
    assert published["Reference"] == {"FID": 1.9, "IS": 240.8}
    measured = {column.value for column in table.columns if column.value}
    restored = load_suite("imagenet_sr").metrics["restoration"]().higher_is_better
    assert measured == {*restored, *(load_suite("imagenet_sr_fid").metrics.keys() - {"restoration"})}


def test_every_convention_has_its_own_name_and_stands_in_the_fingerprint(pairs, tmp_path):
    """Oracle: each metric asked for alone; what they compute is ``test_restoration``'s matter."""
    _, root = pairs
    suite = load_suite("imagenet_sr_conventions")
    (example, *_) = list_examples(suite, root)
    (tmp_path / "outputs").mkdir()
    low = Image.open(example.source).resize((256, 256), Image.Resampling.BICUBIC)
    low.save(tmp_path / "outputs" / f"{example.id}.png")
    model = FolderModel(tmp_path / "outputs")
    result = run.run(suite, model, make_settings(suite, model), [example], tmp_path / "run")
    assert result is not None and len(result.values) == len(MEASURES) * len(CHANNELS) * 2
    for measure, channels, border in (("psnr", "y", 4), ("ssim", "y_rounded", 4), ("ssim_uniform", "rgb", 0)):
        alone = Restoration(measures=(measure,), channels=(channels,), border=border)
        alone.update([example], [np.asarray(low)])
        for name, value in alone.compute().items():
            assert result.values[name].mean == value.mean
            said = {key: text for key, text in alone.protocol.items() if key != "interval"}
            assert said.items() <= result.protocol["cropped" if border else "whole"].items()


def test_fid_has_two_references_and_is_0_against_the_targets_themselves(pairs, tmp_path, monkeypatch, inception_pth):
    """On a random Inception the originals are at no distance of the targets; each metric says what it is of."""
    _, root = pairs
    weights = load_weights(inception_pth, published=False)
    monkeypatch.setattr("crossflow_eval.judges.inception.published_weights", lambda protocol: weights)
    monkeypatch.setenv("CROSSFLOW_EVAL_HOME", str(tmp_path))
    suite = load_suite("imagenet_sr_fid")
    with pytest.raises(
        CrossFlowError, match=r"fid/train needs the statistics .*VIRTUAL_imagenet256_labeled\.npz; fetch"
    ):
        suite.metrics["fid/train"]()
    make_statistics(root / "high", tmp_path / STATISTICS["val"][0], PROTOCOL, weights)
    np.savez(tmp_path / STATISTICS["train"][0], mu=np.zeros(2048), sigma=np.eye(2048))
    examples = list_examples(suite, root)
    metric = suite.metrics["fid/val"]()
    metric.update(examples, [np.asarray(Image.open(example.target)) for example in examples])
    assert metric.compute()["fid/val"].mean == pytest.approx(0, abs=1e-6)
    train, score = (suite.metrics[name]() for name in ("fid/train", "inception_score"))
    assert train.higher_is_better == {"fid/train": False}
    assert train.protocol["reference"]["file"] == "VIRTUAL_imagenet256_labeled.npz"
    assert metric.protocol["reference"]["n"] == 3
    assert score.protocol["extractor"] == "inception-adm-logits_unbiased"


def copy(root, to):
    for part in ("low", "high"):
        (to / part).mkdir()
        for path in (root / part).iterdir():
            (to / part / path.name).write_bytes(path.read_bytes())


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda root: (root / "low" / "ILSVRC2012_val_00000002.png").unlink(), "1 images are in low or high alone"),
        (lambda root: [path.unlink() for path in root.glob("*/*")], "there are no images"),
        (
            lambda root: Image.fromarray(picture(65, 64)).save(root / "low" / "ILSVRC2012_val_00000002.png"),
            r"1 files in .* pixels a side: ILSVRC2012_val_00000002\.png",
        ),
        (lambda root: (root / "high" / "ILSVRC2012_val_00000001.png").write_bytes(b""), "1 files in .* are not RGB"),
    ],
)
def test_pairs_that_are_not_whole_are_refused(spoil, sentence, pairs, tmp_path):
    copy(pairs[1], tmp_path)
    spoil(tmp_path)
    with pytest.raises(CrossFlowError, match=sentence):
        load_suite("imagenet_sr").examples(tmp_path)


def called(*words: object):
    return CliRunner().invoke(app, ["prepare", "imagenet-sr", *map(str, words)])


def test_the_command_prepares_says_how_many_and_goes_on(pairs, tmp_path):
    """Byte for byte the pairs of the function; an error keeps what is made, and the same command then goes on."""
    images, whole = pairs
    copied, root = tmp_path / "images", tmp_path / "root"
    shutil.copytree(images, copied)
    (copied / "z.png").write_bytes((copied / "ILSVRC2012_val_00000002.png").read_bytes()[:-400])
    broken = called(copied, root)
    assert broken.exit_code == 2
    assert re.fullmatch(rf"Error: Cannot read the image {copied}/z\.png: .*; fetch it again, .*\.\n", broken.stderr)
    kept = {path: path.stat().st_mtime_ns for path in root.rglob("*.png")}
    assert len(kept) == 6
    (copied / "z.png").unlink()
    done = called(copied, root)
    assert (done.exit_code, done.stdout) == (0, f"{root}\n")
    assert done.stderr == f"3 pairs in {root}; 1 images below 256 pixels were left out\n"
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.png")} == kept
    for path in kept:
        assert path.read_bytes() == (whole / path.relative_to(root)).read_bytes()


def test_every_original_passes_through_the_progress_once(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(superres, "AT_A_TIME", 3)
    sizes: list[int] = []

    def track(batches, stage):
        sizes.extend(map(len, batches))
        return batches

    assert prepare(pairs[0], tmp_path, track) == (3, 1)
    assert sizes == [3, 1]


def test_a_preparation_that_cannot_be_written_is_one_sentence(pairs, tmp_path):
    """The real error of a real device, then a file in the folder's place."""
    (tmp_path / "root" / "high").mkdir(parents=True)
    (tmp_path / "root" / "high" / ".ILSVRC2012_val_00000002.png.tmp").symlink_to("/dev/full")
    full = called(pairs[0], tmp_path / "root")
    assert full.exit_code == 2
    assert "high/ILSVRC2012_val_00000002.png cannot be written (No space left on device): make room" in full.stderr
    assert called(pairs[0], tmp_path / "root").exit_code == 0
    (tmp_path / "file").touch()
    assert "file cannot be written (File exists): choose another place" in called(pairs[0], tmp_path / "file").stderr


def test_roots_and_originals_that_are_none_are_refused(tmp_path):
    for root in (None, tmp_path):
        with pytest.raises(
            CrossFlowError, match=r"folders low and high, got .* with `crossflow-eval prepare imagenet-sr"
        ):
            load_suite("imagenet_sr").examples(root)
    with pytest.raises(CrossFlowError, match="holds no image"):
        prepare(tmp_path, tmp_path.with_name("root"))
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(CrossFlowError, match=r"Cannot read the image .*a\.png"):
        prepare(tmp_path, tmp_path.with_name("root"))
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(CrossFlowError, match=r"2 images in .* share their name"):
        prepare(tmp_path, tmp_path.with_name("root"))
    for root in (tmp_path, tmp_path / "root"):
        (tmp_path / "a.jpg").unlink(missing_ok=True)
        with pytest.raises(CrossFlowError, match="lie in one another"):
            prepare(tmp_path, root)


def test_a_preparation_trusts_what_files_hold_and_not_their_names(pairs, tmp_path):
    """A pair cut short is made again, and so are those of other originals; foreign files stay."""
    images, whole = pairs
    root, high = tmp_path / "root", tmp_path / "root" / "high" / "ILSVRC2012_val_00000003.png"
    prepare(images, root)
    high.write_bytes(high.read_bytes()[:60])
    assert prepare(images, root) == (3, 1)
    assert high.read_bytes() == (whole / "high" / high.name).read_bytes()

    others = tmp_path / "others"
    shutil.copytree(images, others)
    Image.fromarray(picture(256, 256, 9)).save(others / high.name)
    assert prepare(others, root) == (3, 1)
    assert np.array_equal(np.asarray(Image.open(high)), picture(256, 256, 9))
    (others / high.name).unlink()
    with pytest.raises(CrossFlowError, match=r"holds pairs of 1 images that are not in .*00000003"):
        prepare(others, root)

    (tmp_path / "mine" / "high").mkdir(parents=True)
    mine = tmp_path / "mine" / "high" / high.name
    mine.write_bytes(b"my own file")
    with pytest.raises(CrossFlowError, match=r"high/.*00000003.png is there, and was not made of"):
        prepare(images, tmp_path / "mine")
    assert mine.read_bytes() == b"my own file"
