"""The depth suites from prediction folder to result, their protocols, and the paper's tables about them."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from crossflow.errors import CrossFlowError
from crossflow_eval import records
from crossflow_eval.datasets import depth as depth_data
from crossflow_eval.metrics.depth import ERRORS, align
from crossflow_eval.report import load, render
from crossflow_eval.runs import launch, run
from crossflow_eval.runs.run import list_examples, make_settings
from crossflow_eval.suites import depth, load_suite
from crossflow_eval.tables import load_table, table_of_suite

DRIVE = "2011_09_26_drive_0002_sync"
IDS = [f"{DRIVE}_{frame:010d}" for frame in (5, 50, 69)]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder with a list of three random images and, in KITTI's own layout, its root; and the targets by id."""
    folder = tmp_path_factory.mktemp("kitti")
    generator = np.random.default_rng(0)
    lines, targets = [], {}
    for id in IDS:
        image = f"2011_09_26/{DRIVE}/image_02/data/{id[-10:]}.png"
        listed = f"{DRIVE}/proj_depth/groundtruth/image_02/{id[-10:]}.png"
        lines.append(f"{image} {listed} 721.5377")
        depths = np.where(generator.random((375, 1242)) < 0.2, generator.integers(256, 25000, (375, 1242)), 0)
        for place, pixels in ((image, np.zeros((2, 2, 3), np.uint8)), (f"val/{listed}", depths.astype(np.uint16))):
            (folder / "root" / place).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / "root" / place, compress_level=1)
        targets[id] = (depths / 256).astype(np.float32)
    (folder / "kitti.txt").write_text("\n".join(lines))
    return folder, targets


@pytest.fixture
def kitti(stored, monkeypatch):
    """The suites of KITTI on three images; gives their root and their targets by id."""
    folder, targets = stored
    monkeypatch.setattr(depth_data, "LISTS", folder)
    data = replace(depth_data.KITTI, sha256=hashlib.sha256((folder / "kitti.txt").read_bytes()).hexdigest())
    for name in ("kitti_eigen", "kitti_affine", "kitti_affine_disparity", "kitti_midas"):
        monkeypatch.setitem(depth.SUITES, name, (data, depth.SUITES[name][1]))
    return folder / "root", targets


def evaluate(name, root, predictions, out):
    suite = load_suite(name)
    model = suite.made_elsewhere(predictions)
    examples = list_examples(suite, root)
    model.check(examples, examples, suite.outputs_per_example)
    return run.run(suite, model, make_settings(suite, model), examples, out)


def test_a_folder_of_predictions_becomes_a_result_under_three_protocols(kitti, tmp_path):
    """Exact predictions in all three formats have no error; the run's rows, result and report hold together."""
    root, targets = kitti
    folder = tmp_path / "predictions"
    folder.mkdir()
    np.save(folder / f"{IDS[0]}.npy", targets[IDS[0]] + (targets[IDS[0]] == 0))
    np.savez(folder / f"{IDS[1]}-0.npz", targets[IDS[1]][23:, 13:1229])  # the benchmark crop alone, zero where unknown
    Image.fromarray((targets[IDS[2]] * 256).astype(np.uint16)).save(folder / f"{IDS[2]}.png")
    result = evaluate("kitti_eigen", root, folder, tmp_path / "run")
    assert result is not None
    assert (result.n, result.protocol["depth"]["alignment"]) == (3, "none")
    for crop in ("garg", "kb_garg", "kb_eigen"):
        assert [result.values[f"{crop}/{name}"].mean for name in ERRORS] == [0, 0, 0, 0, 0, 1, 1, 1, 0, 0]
    rows = [
        json.loads(line) for line in next((tmp_path / "run").glob("n-*/per_example.jsonl")).read_text().splitlines()
    ]
    assert [row["id"] for row in rows] == IDS
    assert rows[0]["kb_garg/pixels"] < rows[0]["garg/pixels"]
    report = render([load(tmp_path / "run")], "md")
    assert "Table 5" in report
    assert "0.053" in report


def test_affine_predictions_are_fitted_to_each_target(kitti, tmp_path):
    """Law: a suite's errors do not move under an affine map of the predictions, and the maps are in the rows."""
    root, targets = kitti
    values = []
    for turn, (scale, shift) in enumerate(((1.0, 0.0), (0.01, 0.3))):
        folder = tmp_path / f"predictions{turn}"
        folder.mkdir()
        for id, target in targets.items():
            noise = np.random.default_rng(int(id[-10:])).normal(0, 5, target.shape)
            np.save(folder / f"{id}.npy", (target + noise) * scale + shift)
        result = evaluate("kitti_affine", root, folder, tmp_path / f"run{turn}")
        assert result is not None
        values.append({name: value.mean for name, value in result.values.items()})
        row = records.read_rows(records.run_in(tmp_path / f"run{turn}"))[0]
        window = depth.KB_EIGEN.window(375, 1242)
        target = targets[IDS[0]][window]
        seen = np.load(folder / f"{IDS[0]}.npy").astype(np.float32)[window]
        assert (row["scale"], row["shift"]) == align(seen, target, (target > 1e-5) & (target < 80))
    assert 0 < values[0]["abs_rel"] < 2
    assert values[0] == pytest.approx(values[1], rel=1e-4)


def given(root, tmp_path, **options):
    """A result by the options of a command."""
    request = launch.Request(task="depth", data=root, checkpoint=tmp_path / "given", out=tmp_path / "run", **options)
    return launch.evaluate(request)[0]


def test_disparity_is_noticed_by_the_sign_of_its_fit_and_measured_under_its_own_space(kitti, tmp_path):
    """Perfect disparity has no error once it is said to be disparity, by Marigold's alignment and by MiDaS's."""
    root, targets = kitti
    (tmp_path / "given").mkdir()
    for id, target in targets.items():
        np.save(tmp_path / "given" / f"{id}.npy", 7 / (target + (target == 0)) + 0.1)
    with pytest.raises(CrossFlowError, match=r"seem to be disparity, not depth: .*; give --space disparity\."):
        given(root, tmp_path, suite="kitti_affine")
    shutil.rmtree(tmp_path / "run")
    for options in ({"suite": "kitti_affine", "space": "disparity"}, {"suite": "kitti_midas"}):
        result = given(root, tmp_path, **options)
        assert result.values["abs_rel"].mean < 1e-4
        shutil.rmtree(tmp_path / "run")
    assert result.protocol["depth"]["alignment"].startswith("MiDaS: least squares in disparity")
    for id, target in targets.items():
        np.save(tmp_path / "given" / f"{id}.npy", target)
    with pytest.raises(CrossFlowError, match="seem to be depth, not disparity"):
        given(root, tmp_path, suite="kitti_affine", space="disparity")


def test_what_says_nothing_of_depth_is_not_taken_for_disparity(kitti, tmp_path):
    root, targets = kitti
    (tmp_path / "given").mkdir()
    for id, target in targets.items():
        noise = np.random.default_rng(int(id[-10:])).random(target.shape)
        np.save(tmp_path / "given" / f"{id}.npy", noise - 1e-3 * target)
    assert given(root, tmp_path, suite="kitti_affine").values["abs_rel"].mean > 0.5


@pytest.mark.parametrize(
    ("suite", "space", "sentence"),
    [
        ("kitti_affine", "sideways", "Unknown space 'sideways'"),
        (
            "kitti_eigen",
            "disparity",
            "The suite kitti_eigen takes depth in metres, not disparity; those that",
        ),
        ("scenes-depth", "disparity", "The suite scenes-depth takes depth in metres, not disparity"),
        ("kitti_midas", "depth", "The suite kitti_midas takes disparity, not depth"),
    ],
)
def test_a_space_that_a_suite_does_not_take_is_refused(tmp_path, suite, space, sentence):
    with pytest.raises(CrossFlowError, match=sentence):
        given(tmp_path, tmp_path, suite=suite, space=space)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: (folder / f"{IDS[1]}.npy").unlink(), f"1 of 3 depth maps are missing in .*: {IDS[1]}-0"),
        (lambda folder: np.save(folder / "other.npy", np.ones((2, 2))), r"1 of 4 depth maps .* no example: other\.npy"),
        (
            lambda folder: np.save(folder / f"{IDS[1]}.npy", np.ones((100, 300))),
            rf"{IDS[1]}: the prediction has the shape \[100, 300\] and the target \[375, 1242\]",
        ),
        (
            lambda folder: np.save(folder / f"{IDS[1]}.npy", 1000 * np.load(folder / f"{IDS[1]}.npy")),
            f"{IDS[1]}: the prediction is about 1000 times larger .* millimetres",
        ),
        (
            lambda folder: np.save(folder / f"{IDS[1]}.npy", np.full((375, 1242), np.nan)),
            rf"{IDS[1]}: the prediction is NaN or infinite at (\d+) of \1 valid pixels",
        ),
    ],
)
def test_predictions_that_do_not_fit_are_named(spoil, sentence, kitti, tmp_path):
    root, targets = kitti
    folder = tmp_path / "predictions"
    folder.mkdir()
    for id, target in targets.items():
        np.save(folder / f"{id}.npy", target)
    spoil(folder)
    with pytest.raises(CrossFlowError, match=sentence):
        evaluate("kitti_eigen", root, folder, tmp_path / "run")


def test_a_png_counts_in_its_data_sets_unit(tmp_path):
    Image.fromarray(np.array([[512, 1000]], np.uint16)).save(tmp_path / "a.png")
    assert load_suite("kitti_eigen").made_elsewhere(tmp_path).read("a", 0)[0, 0] == 2
    model = load_suite("nyuv2").made_elsewhere(tmp_path)
    assert model.read("a", 0)[0, 1] == 1
    assert model.identity["png_scale"] == 1000
    with pytest.raises(CrossFlowError, match="holds no depth map for b"):
        model.read("b", 0)


def test_the_suites_protocols_are_the_published_ones():
    """Bounds, alignment and the thinned fit of AdaBins' and of Marigold's evaluation."""
    expected = {
        "kitti_eigen": (0.001, 80.0, "none", None),
        "nyuv2": (0.001, 10.0, "none", None),
        "kitti_affine": (1e-5, 80.0, "Marigold: least squares in depth", None),
        "nyuv2_affine": (0.001, 10.0, "Marigold: least squares in depth", None),
        "eth3d_affine": (1e-5, None, "Marigold: least squares in depth", 1024),
        "scannet_affine": (0.001, 10.0, "Marigold: least squares in depth", None),
        "diode_affine": (0.6, 350.0, "Marigold: least squares in depth", None),
    }
    in_disparity = "Marigold: least squares in disparity, where predictions are positive"
    as_midas = "MiDaS: least squares in disparity on all valid pixels, raised to 1 / max_depth; no clip from below"
    for name, (low, high, _, side) in [*expected.items()][2:]:
        expected[f"{name}_disparity"] = (low, high, in_disparity, side)
        if high is not None:
            expected[name.replace("affine", "midas")] = (low, high, as_midas, side)
    found = {}
    for name in depth.SUITES:
        protocol = load_suite(name).metrics["depth"]().protocol
        found[name] = tuple(protocol[key] for key in ("min_depth", "max_depth", "alignment", "fit_side"))
    assert found == expected


def test_tables_5_and_9_hold_the_papers_values_and_9_says_that_its_headers_are_swapped():
    five, nine = load_table("table5"), load_table("table9")
    assert {row.label: row.published for row in five.rows}["CrossFlow"] == {
        "KITTI AbsRel": 0.053,
        "KITTI delta1": 0.973,
        "NYUv2 AbsRel": 0.094,
        "NYUv2 delta1": 0.928,
    }
    assert "swapped" in nine.notes
    published = {row.label: row.published for row in nine.rows}
    labels = {column.label: column.published for column in nine.columns if column.published}
    nyu, kitti = labels["NYUv2 AbsRel, printed as KITTI"], labels["KITTI AbsRel, printed as NYUv2"]
    assert (published["MiDaS"][nyu], published["MiDaS"][kitti]) == (0.111, 0.236)
    assert (published["CrossFlow"][nyu], published["CrossFlow"][kitti]) == (0.062, 0.103)
    for table in (five, nine):
        keys = {column.published for column in table.columns if column.published}
        assert all(row.published.keys() == keys for row in table.rows)


def test_every_published_depth_suite_has_its_table_and_every_column_a_value():
    for name in (each for each in depth.SUITES if not each.endswith(("_disparity", "_midas"))):
        table = table_of_suite(name)
        assert table is not None
        values = load_suite(name).metrics["depth"]().higher_is_better
        named = [column.value for column in table.columns if column.suite == name]
        assert named
        assert set(named) <= set(values)
